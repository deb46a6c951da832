"""What a run needs before its first step: data, superclasses, filters, batches, a pipeline."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.extras import require
from trifecta._utils.files import of_tensors
from trifecta._utils.references import lookup
from trifecta.data import (
    Augmentation,
    Batches,
    ImageData,
    ImageSet,
    LoaderBatches,
    ReceivedBatches,
    load_data,
    normalize,
    require_finite_samples,
)
from trifecta.data.batches import epoch_order
from trifecta.learner import Learner
from trifecta.losses.combined import Levels
from trifecta.network import LocalNetwork
from trifecta.pipeline import Pipeline
from trifecta.statistics import ENOUGH
from trifecta.training.config import RunConfig, to_plain
from trifecta.training.evaluation import BATCH_SIZE

MOST_FOR_SUPERCLASSES = 20_000
PRINCIPAL_COMPONENTS = 50
MOST_FOR_FILTERS = 5_000
MOST_COMPARED = 64


def loaded(config: RunConfig) -> ImageData:
    """Load the data of a configuration.

    Raises:
        ValueError: it names none, or as :func:`trifecta.load_data`.
    """
    if config.data is None:
        raise ValueError("no data: give RunConfig(data=DataConfig(source=…)), or data=… in Python")
    return load_data(config.data)


def check_samples(config: RunConfig, data: ImageData) -> None:
    """Check that samples are numbers, unless updates that are not are skipped.

    Raises:
        ValueError: some are not; names the first.
    """
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, images in splits.items():
        if images is not None and config.on_nan != "skip":
            require_finite_samples(images.images, name)


def for_labels(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` with a method for the labels of ``data``: one a sample, or at every position.

    Raises:
        ValueError: the method has no such form.
    """
    if data.test.labels.ndim == 1:
        return config
    return replace(config, method=config.method.at_positions())


def with_superclasses(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` with superclasses found in the training images, where its method wants them.

    Raises:
        ValueError: the training images are those of a loader.
    """
    method = config.method
    if not method.finds_superclasses or method.superclasses:
        return config
    if data.loader is not None:
        raise ValueError(
            f"method {method.name} finds superclasses in training images: received a loader; give tensors, "
            "or superclasses=…"
        )
    train = data.train
    if train.rows is not None:
        # Means of classes need no more, and all of them do not fit into memory.
        train = train.select(torch.arange(0, len(train), max(1, len(train) // MOST_FOR_SUPERCLASSES)))
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
    """Show training images to the modules of ``network`` that are made of them (``fit_images``).

    Raises:
        ValueError: there is one, and the training images are those of a loader.
    """
    made_of_images: list[Any] = [m for m in network.blocks.modules() if hasattr(m, "fit_images")]
    if not made_of_images:
        return
    if data.loader is not None:
        raise ValueError(
            "this network's filters are made of training images: received a loader; give tensors, or call "
            "fit_images of its blocks yourself"
        )
    count = len(data.train)
    some = data.train.select(torch.arange(0, count, max(1, count // MOST_FOR_FILTERS)))
    images = normalize(some.images, data.mean, data.std)
    for module in made_of_images:
        module.fit_images(images.to(next(network.parameters()).device))


def class_weights(config: RunConfig, data: ImageData) -> Tensor | None:
    """Return what training samples of each class weigh, (K,) float32; None where all weigh the same.

    ``balanced`` is ``N / (K · N_k)`` for the N_k samples of a class, over the K classes that have any.

    Raises:
        ValueError: weights of other classes, or balanced ones of samples whose classes are unknown.
    """
    weights = config.class_weights
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in data.classes]
        if unknown:
            lookup(dict.fromkeys(data.classes), unknown[0], "class in class_weights")
        return torch.tensor([weights.get(name, 1.0) for name in data.classes])
    if not isinstance(weights, str):
        if len(weights) != data.num_classes:
            raise ValueError(
                f"class_weights are a number for each of {data.num_classes} classes: received "
                f"{len(weights)}"
            )
        return torch.tensor(weights)
    counts = torch.bincount(data.train.labels.flatten().cpu(), minlength=data.num_classes)
    if data.loader is not None:
        if data.loader_counts is None:
            raise ValueError(
                "balanced class_weights need the classes of all training samples: received a loader; give "
                "a number for each class"
            )
        counts = torch.tensor(data.loader_counts)
    present = counts > 0
    balanced = counts.sum() / (present.sum() * counts.double())
    return torch.where(present, balanced, 1.0).float()


def with_batch_size(config: RunConfig, data: ImageData) -> RunConfig:
    """Return ``config`` with a batch no larger than the training set, with a warning where it was."""
    count = len(data.train)
    if data.loader is not None or config.batch_size <= count:
        return config
    warnings.warn(
        f"there are {count} training images: a batch has all of them, in place of {config.batch_size}",
        stacklevel=3,
    )
    return replace(config, batch_size=count)


def identity(config: RunConfig, data: ImageData) -> dict[str, Any]:
    """Return what all processes of a run have in common, as plain values: its settings and its data.

    Where the data lies and the device may be different on different machines.
    """
    try:
        plain = to_plain(config)
    except ValueError:  # parts of one's own that have no name
        plain = {"seed": config.seed, "batch_size": config.batch_size, "epochs": config.epochs}
    if isinstance(plain.get("data"), dict):
        plain["data"] = {**plain["data"], "source": None}
    plain |= {"device": None, "classes": list(data.classes)}
    splits = {"training images": data.train, "validation images": data.validation, "test images": data.test}
    if data.loader is not None:
        del splits["training images"]
    return plain | {name: None if split is None else _fingerprint(split) for name, split in splits.items()}


def _fingerprint(images: ImageSet) -> dict[str, Any]:
    """The number of images, and checksums of all labels and of some images spread over the set."""
    some = images.select(torch.arange(0, len(images), max(1, len(images) // MOST_COMPARED)))
    return {
        "count": len(images),
        "labels": of_tensors({"labels": images.labels}),
        "pixels": of_tensors({"images": some.images}),
    }


def statistics_batches(data: ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    """Some training images as they are, always the same, in batches of mixed classes."""
    some = epoch_order(len(data.train), seed=0, epoch=0)[:ENOUGH]
    for indices in some.tensor_split(-(-len(some) // BATCH_SIZE)):
        part = data.train.select(indices.to(data.train.labels.device))
        yield normalize(part.images, data.mean, data.std), part.labels


TrainingBatches = Batches | LoaderBatches | ReceivedBatches


def training_batches(
    config: RunConfig, data: ImageData, device: torch.device, *, received: bool = False
) -> TrainingBatches:
    """Return shuffled, augmented batches of the training images, or those of their loader.

    Args:
        config: of the run.
        data: its images, or their loader.
        device: where batches are to go.
        received: this process receives them from another one, and prepares none.
    """
    batches = _drawn_batches(config, data, device)
    if not received:
        return batches
    return ReceivedBatches(
        steps_per_epoch=batches.steps_per_epoch, images_per_epoch=batches.images_per_epoch
    )


def _drawn_batches(config: RunConfig, data: ImageData, device: torch.device) -> Batches | LoaderBatches:
    if data.loader is not None:
        if config.augmentation != Augmentation():
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
    if config.augmentation != Augmentation() and len(data.sample_shape) != 3:
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


def pipeline_for(config: RunConfig, learner: Learner) -> Pipeline | None:
    """Return a pipeline where one was asked for and can gain anything; else None, with a warning."""
    if config.pipeline == 1:
        return None
    if learner.device.type != "cpu":
        warnings.warn(f"pipeline is for CPUs, and ignored on {learner.device.type}", stacklevel=3)
        return None
    if not config.method.pipelines:
        warnings.warn(
            f"pipeline is ignored: with {config.method.name} every block waits for all others",
            stacklevel=3,
        )
        return None
    return Pipeline(learner, config.pipeline)
