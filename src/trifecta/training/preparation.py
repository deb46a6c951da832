"""Preparation of a run: fitted settings, filters, class weights, batches."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.extras import require
from trifecta._utils.files import tensor_checksum
from trifecta._utils.references import lookup
from trifecta.data import (
    Augmentation,
    Batches,
    ImageData,
    ImageSet,
    LoaderBatches,
    normalize,
    require_finite_samples,
)
from trifecta.data.batches import epoch_order
from trifecta.losses.combined import Levels
from trifecta.network import LocalNetwork
from trifecta.statistics import ENOUGH
from trifecta.training.config import RunConfig, to_plain
from trifecta.training.evaluation import BATCH_SIZE

# Training images to look at; means of classes and filters need no more.
MOST_FOR_SUPERCLASSES, MOST_FOR_FILTERS, MOST_COMPARED = 20_000, 5_000, 64
PRINCIPAL_COMPONENTS = 50


def fitted(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` fitted to ``data``: to the shape of its labels, its size and its superclasses.

    Raises:
        ValueError: a sample is not finite, unless such updates are skipped; or the method has no form for
            these data.
    """
    for name, images in _splits(data).items() if config.on_nan != "skip" else ():
        require_finite_samples(images.images, name)
    if data.test.labels.ndim > 1:
        config = replace(config, method=config.method.at_positions())
    count = len(data.train)
    if data.loader is None and config.batch_size > count:
        warnings.warn(
            f"there are {count} training images: a batch has all of them, in place of {config.batch_size}",
            stacklevel=3,
        )
        config = replace(config, batch_size=count)
    return with_superclasses(config, data)


def with_superclasses(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` with superclasses found in the training images, if its method needs them."""
    method = config.method
    if not method.finds_superclasses or method.superclasses:
        return config
    if data.loader is not None:
        raise ValueError(
            f"method {method.name} finds superclasses in training images: received a loader; give tensors, "
            "or superclasses=…"
        )
    # Images that do not fit into memory are sampled.
    train = data.train if data.train.rows is None else _spread(data.train, MOST_FOR_SUPERCLASSES)
    found = find_superclasses(train.images, train.labels, len(data.classes))
    return replace(config, method=replace(method, superclasses=found))


def find_superclasses(images: Tensor, labels: Tensor, num_classes: int) -> Levels:
    """Return levels of superclasses, coarsest first, each with a number 0, 1, … for every class.

    Standardised pixels are reduced to their first 50 principal components, each class stands for the mean
    of its images, and Ward's linkage joins the means two by two. A level is a depth of the resulting tree,
    from two superclasses on; a class that is alone stays so. The level of all classes is left out.
    Source: the published code of HCL-FF (arXiv 2605.24797) for MNIST and Fashion-MNIST.

    Args:
        images: ``(N, C, H, W)``, to train on, with at least one image per class.
        labels: ``(N,)`` int64.
        num_classes: K.
    """
    hierarchy, pixels = require("scipy.cluster.hierarchy"), images.cpu().flatten(1).float().numpy()
    scaled = require("sklearn.preprocessing").StandardScaler().fit_transform(pixels)
    pca = require("sklearn.decomposition").PCA(min(PRINCIPAL_COMPONENTS, *pixels.shape), random_state=0)
    reduced, own = pca.fit_transform(scaled), labels.cpu().numpy()
    prototypes = np.stack([reduced[own == c].mean(0) for c in range(num_classes)])
    level, levels = [hierarchy.to_tree(hierarchy.linkage(prototypes, method="ward"))], []
    while not all(node.is_leaf() for node in level):
        level = [
            child
            for node in level
            for child in ([node] if node.is_leaf() else [node.get_left(), node.get_right()])
        ]
        numbers = {name: number for number, node in enumerate(level) for name in node.pre_order()}
        levels.append(tuple(numbers[name] for name in range(num_classes)))
    return tuple(levels[:-1])


def fit_to_images(network: LocalNetwork, data: ImageData) -> None:
    """Pass training images to the modules of ``network`` that have a ``fit_images`` method."""
    modules: list[Any] = [m for m in network.blocks.modules() if hasattr(m, "fit_images")]
    if modules and data.loader is not None:
        raise ValueError(
            "this network's filters are made of training images: received a loader; give tensors, or call "
            "fit_images of its blocks yourself"
        )
    for module in modules:
        images = normalize(_spread(data.train, MOST_FOR_FILTERS).images, data.mean, data.std)
        module.fit_images(images.to(network.device))


def class_weights(config: RunConfig, data: ImageData) -> Tensor | None:
    """Return the weight of each class in the losses, (K,) float32; None if all weigh the same.

    ``balanced`` is ``N / (K · N_k)`` for the N_k samples of a class, over the K classes that have any.
    """
    weights = config.class_weights
    if isinstance(weights, Mapping):
        for name in weights:
            lookup(dict.fromkeys(data.classes), name, "class in class_weights")
        return torch.tensor([weights.get(name, 1.0) for name in data.classes])
    if not isinstance(weights, str):
        if weights is not None and len(weights) != data.num_classes:
            rule = f"class_weights are a number for each of {data.num_classes} classes"
            raise ValueError(f"{rule}: received {len(weights)}")
        return None if weights is None else torch.tensor(weights)
    if data.loader is not None and data.loader_counts is None:
        raise ValueError(
            "balanced class_weights need the classes of all training samples: received a loader; give "
            "a number for each class"
        )
    labels = data.train.labels.flatten().cpu()
    counts = torch.tensor(data.loader_counts or labels.bincount(minlength=data.num_classes).tolist())
    present = counts > 0
    balanced = counts.sum() / (present.sum() * counts.double())
    return torch.where(present, balanced, 1.0).float()


def identity(config: RunConfig, data: ImageData) -> dict[str, Any]:
    """Return, as plain values, the settings and data that all processes of a run must have in common.

    The location of the data and the device may differ.
    """
    try:
        plain = to_plain(replace(config, device="auto"))
    except ValueError:  # A part of the user's own that has no name.
        plain = {"seed": config.seed, "batch_size": config.batch_size, "epochs": config.epochs}
    if plain.get("data"):
        plain["data"]["source"] = None
    plain["classes"] = list(data.classes)
    for name, images in _splits(data).items():
        # All labels, and some images.
        tensors = {"labels": images.labels, "images": _spread(images, MOST_COMPARED).images}
        plain |= {f"number of {name} images": len(images)}
        plain |= {f"{kind} of {name}": tensor_checksum({kind: value}) for kind, value in tensors.items()}
    return plain


def checksum(data: ImageData) -> str:
    """Return a checksum of all samples and labels in memory."""
    kinds = ("images", "labels")
    return tensor_checksum(
        {f"{kind} of {name}": getattr(own, kind) for name, own in _splits(data).items() for kind in kinds}
    )


def statistics_batches(data: ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some training images without augmentation, always the same, in batches of mixed classes."""
    some = epoch_order(len(data.train), seed=0, epoch=0)[:ENOUGH]
    for indices in some.tensor_split(-(-len(some) // BATCH_SIZE)):
        part = data.train.select(indices.to(data.train.labels.device))
        yield normalize(part.images, data.mean, data.std), part.labels


def training_batches(config: RunConfig, data: ImageData, device: torch.device) -> Batches | LoaderBatches:
    """Return shuffled, augmented batches of the training images, or those of their loader."""
    augments = config.augmentation != Augmentation()
    if data.loader is not None:
        if augments:
            warnings.warn("augmentation is ignored: a loader augments by its own transforms", stacklevel=3)
        return LoaderBatches(
            data.loader,
            device,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            checked=config.on_nan != "skip",
            expected=torch.unique(data.test.labels).tolist() if data.loader_counts is None else (),
        )
    if augments and len(data.sample_shape) != 3:
        raise ValueError(
            f"augmentation changes images (C, H, W): received samples of shape {data.sample_shape}; "
            "leave it out"
        )
    return Batches(
        data.train,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        mean=data.mean,
        std=data.std,
        seed=config.seed,
    )


def _splits(data: ImageData) -> dict[str, ImageSet]:
    """Return the splits that are in memory; a loader's training split is not."""
    train = data.train if data.loader is None else None
    splits = {"train": train, "validation": data.validation, "test": data.test}
    return {name: images for name, images in splits.items() if images is not None}


def _spread(images: ImageSet, count: int) -> ImageSet:
    """Return about ``count`` images, evenly spread over the set."""
    return images.select(torch.arange(0, len(images), max(1, len(images) // count)))
