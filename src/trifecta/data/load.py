"""Load images into memory as a configuration says."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trifecta.data.cache import cached_images
from trifecta.data.classes import class_indices, find_classes
from trifecta.data.columns import find_image_column, find_label_column
from trifecta.data.config import DataConfig
from trifecta.data.decode import MOST_NAMED, decode_pieces, size_text, unreadable_images
from trifecta.data.digits import DIGIT_CLASSES, DIGITS, TEST_FRACTION, load_digits
from trifecta.data.images import ImageData, ImageSet, hold_out
from trifecta.data.normalization import find_statistics
from trifecta.data.rows import reader, warn_of_unused
from trifecta.data.source import open_source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load_data(config: DataConfig, *, device: torch.device | str = "cpu") -> ImageData:
    """Load, decode and split a source.

    The test split is the source's own, or ``hold_out`` of the training split (a fifth of the
    digits). ``validation`` of what remains is kept for validation, the same for everyone. Both are
    stratified, as ``stratified_split`` says. The mean and standard deviation are the configuration's,
    or else those of the images that are left to train on.

    Raises:
        ValueError: there is no such source; a split, images or labels are missing; an image cannot
            be read; images differ in size; a label is outside the classes; there is one class; or
            the configuration's ``mean`` and ``std`` are of another number of channels.
        ImportError: the extra ``data`` is not installed.
    """
    whole, test, classes = _digits(config) if config.source == DIGITS else _source(config)
    train, validation = hold_out(whole, config.validation) if config.validation else (whole, None)
    _check_classes(train, classes)
    mean, std = find_statistics(config, train)
    data = ImageData(train=train, validation=validation, test=test, classes=classes, mean=mean, std=std)
    return data.to(device)


def load_split(config: DataConfig, split: str | None, classes: Sequence[str], *, channels: int) -> ImageSet:
    """One split alone, for a network that knows its classes already.

    Its own classes may be some of ``classes``, in any order.

    Args:
        config: of the source.
        split: its name; None takes the test split (held out again where it was), or the only one.
        classes: names, in the order of the network's scores.
        channels: of the network's images; grey images become colour for 3.

    Raises:
        ValueError: as ``load_data``, or the source has a class that is none of ``classes``.
    """
    if config.source == DIGITS and split is not None:
        raise ValueError(f"the embedded digits have no split '{split}': drop --split, or name other --data")
    if config.source == DIGITS or (split is None and config.hold_out is not None):
        data = load_data(config)
        images, names = data.test, data.classes
    else:
        splits = _open(config)
        name = split or (next(iter(splits)) if len(splits) == 1 else config.test_split)
        rows = _split(splits, name, "--split NAME")
        image_column = find_image_column(rows, config.image_column)
        label_column = find_label_column(rows, config.label_column)
        values, names = find_classes(rows, label_column)
        labels = class_indices(rows, label_column, values, name=name)
        images = _images(rows, name, image_column, config, labels)
    return _with_channels(_as_classes(images, names, classes), max(channels, images.images.shape[1]))


def _as_classes(images: ImageSet, names: Sequence[str], classes: Sequence[str]) -> ImageSet:
    """The labels as indices into ``classes`` in place of ``names``."""
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ValueError(
            f"the network knows {len(classes)} classes ({', '.join(classes[:5])}"
            f"{', …' if len(classes) > 5 else ''}): received {', '.join(unknown[:5])}"
            f"{', …' if len(unknown) > 5 else ''} too; evaluate on data with the same classes"
        )
    index_of = torch.tensor([classes.index(name) for name in names])
    return replace(images, labels=index_of[images.labels])


def _digits(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    plain = DataConfig(source=DIGITS)
    names = ("subset", "image_column", "label_column", "train_split", "test_split", "skip_unreadable")
    other = [f"data.{name}" for name in names if getattr(config, name) != getattr(plain, name)]
    if other:
        raise ValueError(
            f"the embedded digits have no columns and no splits: received {', '.join(other)}; leave it out"
        )
    digits = load_digits(config.image_size)
    return *hold_out(digits, config.hold_out or TEST_FRACTION), DIGIT_CLASSES


def _source(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    splits = _open(config)
    training = _split(splits, config.train_split, "--set data.train_split=NAME")
    image_column = find_image_column(training, config.image_column)
    label_column = _label_column(training, config)
    values, classes = find_classes(training, label_column)
    names = _split_names(splits, config)
    # All labels before the first image: a mistake in them shows at once.
    labels = [class_indices(splits[name], label_column, values, name=name) for name in names]
    sets = [
        _images(splits[name], name, image_column, config, own)
        for name, own in zip(names, labels, strict=True)
    ]
    if config.hold_out is not None:
        return *hold_out(sets[0], config.hold_out), classes
    return *_alike(*sets), classes


def _open(config: DataConfig) -> "DatasetDict":
    """Open the source, without the images that are to be left out."""
    splits = open_source(config.source, config.subset)
    warn_of_unused(splits, config)
    if config.skip_unreadable:
        for name, rows in splits.items():
            splits[name] = _readable(
                rows, name, find_image_column(rows, config.image_column), config.source
            )
    return splits


def _readable(split: "Dataset", name: str, column: str, source: str) -> "Dataset":
    """The rows whose image can be read."""
    failed = unreadable_images(len(split), reader(split, name, column, source))
    if not failed:
        return split
    shown = "; ".join(list(failed.values())[:MOST_NAMED])
    warnings.warn(
        f"{len(failed)} of {len(split):,} images of split '{name}' are left out: {shown}", stacklevel=4
    )
    kept = [index for index in range(len(split)) if index not in failed]
    return split.select(kept).flatten_indices()


def _label_column(rows: "Dataset", config: DataConfig) -> str:
    """Find the labels; where folders are too deep to be classes, say which one is."""
    try:
        return find_label_column(rows, config.label_column)
    except ValueError as error:
        deep = _deep_folder(Path(config.source).expanduser())
        if config.label_column is not None or deep is None:
            raise
        raise ValueError(
            f"no labels: images of {config.source} lie in {deep}, and a class is a sub-folder of it, or of "
            "train/ and test/ in it: give the folder that the classes lie in"
        ) from error


# Folders that ``datasets`` takes for splits, as far as images usually lie in them.
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev")


def _deep_folder(folder: Path) -> str | None:
    """Return the first folder of images that is too deep for a class, below ``folder``."""
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return next((str(f.parent) for f in files if len(f.parts) > 2 + (f.parts[0] in _SPLITS)), None)


def _split_names(splits: "DatasetDict", config: DataConfig) -> list[str]:
    """The splits to read: the training split, and the test split unless it is held out."""
    if config.hold_out is None:
        _split(splits, config.test_split, "--set data.test_split=NAME or --set data.hold_out=0.2")
        return [config.train_split, config.test_split]
    if config.test_split in splits:
        raise ValueError(
            f"{config.source} has a split '{config.test_split}' of its own: drop --set data.hold_out, or "
            "name a split that it lacks with --set data.test_split to hold images out all the same"
        )
    return [config.train_split]


def _split(splits: "DatasetDict", name: str, fix: str) -> "Dataset":
    if name not in splits:
        raise ValueError(f"no split '{name}', the source has {', '.join(splits)}: use {fix}")
    if not len(splits[name]):
        raise ValueError(f"split '{name}' has no images: use {fix}")
    return splits[name]


def _images(split: "Dataset", name: str, column: str, config: DataConfig, labels: Tensor) -> ImageSet:
    """The images of the split called ``name``, from the cache if they are there."""
    # The fingerprint follows the files' names and times of modification.
    image_size = config.image_size
    identity = {"split": split._fingerprint, "column": column, "image_size": image_size}
    read = reader(split, name, column, config.source)
    images, in_file = cached_images(
        identity,
        len(split),
        lambda consume: decode_pieces(len(split), read, consume, image_size=image_size),
    )
    return ImageSet(images, labels, rows=torch.arange(len(labels)) if in_file else None)


def _alike(train: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Both splits with the same channels: grey becomes colour where the other has colour."""
    sizes = [tuple(images.images.shape[-2:]) for images in (train, test)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"training images are {size_text(sizes[0])} pixels and test images {size_text(sizes[1])}: "
            f"give one size with --image-size {sizes[0][0]}x{sizes[0][1]}"
        )
    channels = max(train.images.shape[1], test.images.shape[1])
    return _with_channels(train, channels), _with_channels(test, channels)


def _with_channels(images: ImageSet, channels: int) -> ImageSet:
    wide = images.images.expand(-1, channels, -1, -1)
    return replace(images, images=wide if images.rows is not None else wide.contiguous())


def _check_classes(train: ImageSet, classes: tuple[str, ...]) -> None:
    """Classes may lack training images, but two must have some."""
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    if len(missing) > len(classes) - 2:
        raise ValueError(
            f"training needs images of two classes or more, only one of {len(classes)} has any: choose "
            "another --set data.label_column, or add images of others"
        )
    if missing:
        warnings.warn(f"classes without a training image: {', '.join(missing)}", stacklevel=3)
    if single:
        warnings.warn(f"classes with a single training image: {', '.join(single)}", stacklevel=3)
