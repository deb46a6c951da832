"""Superclasses that training images suggest, for coarse-to-fine targets.

Shapes: N images (N, C, H, W), K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.extras import require
from trifecta.losses.combined import Levels

COMPONENTS = 50


def find_superclasses(images: Tensor, labels: Tensor, num_classes: int) -> Levels:
    """Levels of superclasses, coarsest first, each with a number 0, 1, … for every class.

    Standardised pixels are reduced to their first 50 principal components, each class stands for the mean
    of its images, and Ward's linkage joins the means two by two. A level is a depth of the resulting tree,
    from two superclasses on; a class that is alone stays so. The level of all classes is left out.
    Source: the published code of HCL-FF (arXiv 2605.24797) for MNIST and Fashion-MNIST.

    Args:
        images: ``(N, C, H, W)``, to train on, with at least one image a class.
        labels: ``(N,)`` int64.
        num_classes: K.
    """
    hierarchy = require("scipy.cluster.hierarchy")
    prototypes = _prototypes(images, labels, num_classes)
    level, levels = [hierarchy.to_tree(hierarchy.linkage(prototypes, method="ward"))], []
    while not all(node.is_leaf() for node in level):
        level = [child for node in level for child in _children(node)]
        numbers = {name: number for number, node in enumerate(level) for name in node.pre_order()}
        levels.append(tuple(numbers[name] for name in range(num_classes)))
    return tuple(levels[:-1])


def _children(node: Any) -> list[Any]:
    """Return a node's children; a class alone stands for itself."""
    return [node] if node.is_leaf() else [node.get_left(), node.get_right()]


def _prototypes(images: Tensor, labels: Tensor, num_classes: int) -> NDArray[np.float32]:
    """The mean of each class's images in the space of the first components, (K, components)."""
    pixels = images.cpu().flatten(1).float().numpy()
    components = min(COMPONENTS, *pixels.shape)
    scaled = require("sklearn.preprocessing").StandardScaler().fit_transform(pixels)
    pca = require("sklearn.decomposition").PCA(components, random_state=0)
    reduced = pca.fit_transform(scaled)
    own = labels.cpu().numpy()
    means: NDArray[np.float32] = np.stack([reduced[own == c].mean(0) for c in range(num_classes)])
    return means
