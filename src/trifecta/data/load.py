"""Load images into memory as a configuration says."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifecta.data.cache import cached_images
from trifecta.data.classes import class_indices, find_classes
from trifecta.data.columns import find_image_column, find_label_column, require_columns
from trifecta.data.config import DataConfig
from trifecta.data.decode import MOST_NAMED, GreyRange, decode_pieces, size_text, unreadable_images
from trifecta.data.digits import DIGIT_CLASSES, DIGITS, TEST_FRACTION, load_digits
from trifecta.data.images import ImageData, ImageSet, hold_out
from trifecta.data.normalization import find_statistics
from trifecta.data.rows import Rows, digest
from trifecta.data.source import open_source
from trifecta.data.splits import VALIDATION, split_of

# Fewer grey levels are worth a word where 16-bit images have more.
FEW_LEVELS = 64
# So much larger a share of 16-bit greys at the ends of the training images' range is an error.
MOST_CLIPPED = 0.5
# Images in both splits: fewer happen to be in published sets too.
SHARED, SHARED_SHARE = 10, 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class _Loaded:
    """The splits of a source; see ``ImageData``."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    classes: tuple[str, ...]
    grey_range: GreyRange | None = None
    rows: str = ""


def load_data(config: DataConfig, *, device: torch.device | str = "cpu") -> ImageData:
    """Load, decode and split a source.

    The test split is the source's own, or ``hold_out`` of the training split (a fifth of the digits). The
    validation split is the source's own, else ``validation`` of what remains, the same for everyone. What
    is held out is stratified, as ``stratified_split`` says. The mean and standard deviation are the
    configuration's, or else those of the images that are left to train on.

    Raises:
        ValueError: there is no such source; a split, images or labels are missing; an image cannot be read;
            images differ in size or depth; a label is outside the classes, or of a class without training
            images; there is one class; or the configuration's ``mean`` and ``std`` are of another number of
            channels.
        ImportError: the extra ``data`` is not installed.
    """
    loaded = _digits(config) if config.source == DIGITS else _source(config)
    train, validation = loaded.train, loaded.validation
    if validation is None and config.validation:
        train, validation = hold_out(train, config.validation)
    _check_classes(train, loaded.classes, {"test": loaded.test, "validation": validation})
    _warn_of_shared(train, loaded.test)
    mean, std = find_statistics(config, train)
    data = ImageData(
        train=train,
        validation=validation,
        test=loaded.test,
        classes=loaded.classes,
        mean=mean,
        std=std,
        grey_range=None if loaded.grey_range is None else loaded.grey_range[:2],
        rows=loaded.rows,
    )
    return data.to(device)


def load_split(
    config: DataConfig,
    split: str | None,
    classes: Sequence[str],
    *,
    channels: int,
    grey_range: Sequence[int] | None = None,
    trained_on: str = "",
) -> ImageSet:
    """One split alone, for a network that knows its classes already.

    Its own classes may be some of ``classes``, in any order.

    Args:
        config: of the source.
        split: its name; None takes the test split (held out again where it was), or the only one.
        classes: names, in the order of the network's scores.
        channels: of the network's images; grey images become colour for 3.
        grey_range: as ``ImageData``'s, of the training images.
        trained_on: ``ImageData.rows`` of the network's training; empty where it is not known.

    Raises:
        ValueError: as ``load_data``, or the source has a class that is none of ``classes``, or no telling
            which of its images were trained on.
    """
    if config.source == DIGITS and split is not None:
        raise ValueError(
            f"the embedded digits have no split '{split}': leave it out, or give another data.source"
        )
    if config.source == DIGITS or (split is None and config.hold_out is not None):
        data = load_data(config)
        _check_held_out(config, trained_on, data.rows)
        images, names = data.test, data.classes
    else:
        images, names = _one_split(config, split, grey_range, trained_on)
    return _with_channels(_as_classes(images, names, classes), max(channels, images.images.shape[1]))


def _one_split(
    config: DataConfig, split: str | None, grey_range: Sequence[int] | None, trained_on: str
) -> tuple[ImageSet, tuple[str, ...]]:
    splits = _open(config)
    name = split or (next(iter(splits)) if len(splits) == 1 else config.test_split)
    rows = _split(splits, name, "split=NAME")
    image_column = find_image_column(rows, config.image_column)
    classes = find_classes(rows, label_column := find_label_column(rows, config.label_column))
    labels = class_indices(rows, label_column, classes)
    if split is None and trained_on == _identity(rows, labels, classes.names):
        raise ValueError(
            f"{config.source} has the images that the network was trained on, and no test split: name the "
            f"split '{name}' to measure on them all the same"
        )
    scale = None if grey_range is None else GreyRange(*grey_range)
    return _images(rows, image_column, config, labels, grey_range=scale)[0], classes.names


def is_same_training(config: DataConfig, trained_on: str) -> bool:
    """Whether the source has the training rows that ``ImageData.rows`` stood for, wherever they lie now."""
    if not trained_on or config.source == DIGITS:
        return False
    try:
        rows = _split(open_source(config), config.train_split, "")
        column = find_label_column(rows, config.label_column)
        classes = find_classes(rows, column)
        return _identity(rows, class_indices(rows, column, classes), classes.names) == trained_on
    except ValueError:
        return False


def _identity(rows: Rows, labels: Tensor, classes: Sequence[str]) -> str:
    """What tells rows from others: how many, their files and labels; not their dates and pixels."""
    texts = [rows.split, *rows.files, "", *classes, labels.numpy().tobytes().hex()]
    return f"{len(rows)} rows, {digest(texts)}"


def _check_held_out(config: DataConfig, before: str, now: str) -> None:
    """Check that the same rows are held out again: of others, some were trained on."""
    if before and now and before != now:
        raise ValueError(
            f"{config.source} has changed since the network was trained ({before.split(',')[0]} then, "
            f"{now.split(',')[0]} now), so that images it was trained on would be held out: bring the "
            "folder back as it was, or give other test images"
        )


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


def _digits(config: DataConfig) -> _Loaded:
    plain = DataConfig(source=DIGITS)
    names = (
        "subset",
        "image_column",
        "label_column",
        "table",
        "train_split",
        "test_split",
        "skip_unreadable",
    )
    other = [f"data.{name}" for name in names if getattr(config, name) != getattr(plain, name)]
    if other:
        raise ValueError(
            f"the embedded digits have no columns and no splits: received {', '.join(other)}; leave it out"
        )
    digits = load_digits(config.image_size)
    train, test = hold_out(digits, config.hold_out or TEST_FRACTION)
    return _Loaded(train=train, validation=None, test=test, classes=DIGIT_CLASSES)


def _source(config: DataConfig) -> _Loaded:
    splits = _open(config)
    training = _split(splits, config.train_split, "train_split to name another")
    image_column = find_image_column(training, config.image_column)
    label_column = find_label_column(training, config.label_column)
    classes = find_classes(training, label_column)
    used = _used(splits, config)
    # All labels before the first image: a mistake in them shows at once.
    for rows in used.values():
        require_columns(rows, image_column, label_column)
    labels = {part: class_indices(rows, label_column, classes) for part, rows in used.items()}
    whole, grey_range = _images(training, image_column, config, labels["train"], finds_range=True)
    _warn_of_few_levels(whole, grey_range)
    sets = {"train": whole} | {
        part: _images(rows, image_column, config, labels[part], grey_range=grey_range)[0]
        for part, rows in used.items()
        if part != "train"
    }
    for part, images in sets.items():
        if part != "train":
            _check_greys(part, images, whole, grey_range)
    sets = _alike(sets)
    if config.hold_out is not None:
        sets["train"], sets["test"] = hold_out(sets["train"], config.hold_out)
    return _Loaded(
        train=sets["train"],
        validation=sets.get("validation"),
        test=sets["test"],
        classes=classes.names,
        grey_range=grey_range,
        rows=_identity(training, labels["train"], classes.names),
    )


def _open(config: DataConfig) -> dict[str, Rows]:
    """Open the source, without the images that are to be left out."""
    splits = open_source(config)
    if config.skip_unreadable:
        splits = {name: _readable(rows, config) for name, rows in splits.items()}
    return splits


def _readable(rows: Rows, config: DataConfig) -> Rows:
    """The rows whose image can be read."""
    column = find_image_column(rows, config.image_column)
    failed = unreadable_images(len(rows), lambda start, stop: rows.encoded(column, start, stop))
    if not failed:
        return rows
    shown = "; ".join(list(failed.values())[:MOST_NAMED])
    warnings.warn(
        f"{len(failed)} of {len(rows):,} images of split '{rows.split}' are left out: {shown}", stacklevel=4
    )
    return rows.select([index for index in range(len(rows)) if index not in failed])


def _used(splits: dict[str, Rows], config: DataConfig) -> dict[str, Rows]:
    """The splits to read: for training, for testing unless it is held out, and for validation."""
    used = {"train": _split(splits, config.train_split, "train_split to name another")}
    if config.hold_out is None:
        used["test"] = _split(splits, config.test_split, "test_split to name another, or hold_out=0.2")
    elif _find(splits, config.test_split) is not None:
        raise ValueError(
            f"{config.source} has a split '{config.test_split}' of its own: drop data.hold_out, or "
            "name a split that it lacks with data.test_split to hold images out all the same"
        )
    validation = splits.get(VALIDATION)
    if config.validation and validation is not None and validation not in used.values():
        used["validation"] = validation
    unused = [
        f"{name} ({len(rows):,} images)" for name, rows in splits.items() if rows not in used.values()
    ]
    if unused:
        warnings.warn(f"splits of {config.source} that are not used: {', '.join(unused)}", stacklevel=5)
    return used


def _find(splits: dict[str, Rows], name: str) -> Rows | None:
    """The split called ``name``; ``val`` stands for ``validation`` and so on."""
    return splits.get(name, splits.get(split_of(name)))


def _split(splits: dict[str, Rows], name: str, fix: str) -> Rows:
    rows = _find(splits, name)
    if rows is None:
        raise ValueError(f"no split '{name}', the source has {', '.join(splits)}: use {fix}")
    if not len(rows):
        raise ValueError(f"split '{name}' has no images: use {fix}")
    return rows


def _images(
    rows: Rows,
    column: str,
    config: DataConfig,
    labels: Tensor,
    *,
    grey_range: GreyRange | None = None,
    finds_range: bool = False,
) -> tuple[ImageSet, GreyRange | None]:
    """The images of a split, from the cache if they are there, and the range of their greys."""
    image_size = config.image_size
    identity: dict[str, object] = {"rows": rows.content(), "column": column, "image_size": image_size}
    if grey_range is not None:
        identity["grey_range"] = grey_range[:2]
    images, in_file, found = cached_images(
        identity,
        len(rows),
        lambda consume: decode_pieces(
            len(rows),
            lambda start, stop: rows.encoded(column, start, stop),
            consume,
            image_size=image_size,
            grey_range=grey_range,
            finds_range=finds_range,
        ),
    )
    if found is not None and grey_range is None and not finds_range:
        raise ValueError(
            f"split '{rows.split}' has greys of 16 bits, and the training images have 8: save all alike"
        )
    return ImageSet(images, labels, rows=torch.arange(len(labels)) if in_file else None), found


def _check_greys(part: str, images: ImageSet, training: ImageSet, grey_range: GreyRange | None) -> None:
    """Check that a split's 16-bit greys fill the range of training's: few clipped, and levels left."""
    if grey_range is None:
        return
    greys = [_some(images), _some(training)]
    clipped = [float(np.isin(pixels, (0, 255)).mean()) for pixels in greys]
    levels = [len(np.unique(pixels)) for pixels in greys]
    if clipped[0] > clipped[1] + MOST_CLIPPED or levels[0] * FEW_LEVELS < levels[1] * 4:
        raise ValueError(
            f"{part} images have greys of another range than the training images, which use "
            f"{grey_range.low} to {grey_range.high} of 16 bits: {clipped[0]:.0%} of their pixels lie at "
            f"its ends or beyond, and {levels[0]} levels are left; save all with one scale"
        )


def _some(images: ImageSet) -> NDArray[np.uint8]:
    chosen = torch.arange(0, len(images), max(1, len(images) // 1000))
    pixels: NDArray[np.uint8] = images.select(chosen).images.numpy()
    return pixels


def _warn_of_few_levels(images: ImageSet, grey_range: GreyRange | None) -> None:
    if grey_range is None or not grey_range.values:
        return
    levels = len(np.unique(_some(images)))
    if levels < min(FEW_LEVELS, grey_range.values):
        warnings.warn(
            f"16-bit images: of {grey_range.values:,} greys from {grey_range.low} to {grey_range.high}, "
            f"{levels} are left in 8 bits: clip what lies far from the others, and save them again",
            stacklevel=4,
        )


def _warn_of_shared(train: ImageSet, test: ImageSet) -> None:
    """Say how many test images are training images too, unless they stay in a file."""
    if train.rows is not None or test.rows is not None:
        return
    known = {hash(image.tobytes()) for image in train.images.numpy()}
    count = sum(hash(image.tobytes()) in known for image in test.images.numpy())
    if count >= max(SHARED, SHARED_SHARE * len(test)):
        warnings.warn(
            f"{count:,} of {len(test):,} test images are training images too, pixel by pixel: the test "
            "accuracy is too high",
            stacklevel=3,
        )


def _alike(sets: dict[str, ImageSet]) -> dict[str, ImageSet]:
    """All splits with the same channels: grey becomes colour where another has colour."""
    size = tuple(sets["train"].images.shape[-2:])
    for part, images in sets.items():
        other = tuple(images.images.shape[-2:])
        if other != size:
            raise ValueError(
                f"training images are {size_text(size)} pixels and {part} images {size_text(other)}: "
                f"give one size, such as data.image_size={size[0]}x{size[1]}"
            )
    channels = max(images.images.shape[1] for images in sets.values())
    return {part: _with_channels(images, channels) for part, images in sets.items()}


def _with_channels(images: ImageSet, channels: int) -> ImageSet:
    wide = images.images.expand(-1, channels, -1, -1)
    return replace(images, images=wide if images.rows is not None else wide.contiguous())


def _check_classes(train: ImageSet, classes: tuple[str, ...], others: dict[str, ImageSet | None]) -> None:
    """Classes may lack training images, but two must have some, and those of other splits all."""
    counts = torch.bincount(train.labels, minlength=len(classes))
    if (counts > 0).sum() < 2:
        raise ValueError(
            f"training needs images of two classes or more, only one of {len(classes)} has any: choose "
            "another data.label_column, or add images of others"
        )
    for part, images in others.items():
        there = counts if images is None else torch.bincount(images.labels, minlength=len(classes))
        unseen = _named(classes, (there > 0) & (counts == 0))
        if unseen:
            raise ValueError(
                f"the {part} split has images of classes without a training image, {unseen}: add images of "
                "them to the training split, or take them out"
            )
        if part == "test" and (untested := _named(classes, (there == 0) & (counts > 0))):
            warnings.warn(f"classes without a test image: {untested}", stacklevel=3)
    if missing := _named(classes, counts == 0):
        warnings.warn(f"classes without a training image: {missing}", stacklevel=3)
    if single := _named(classes, counts == 1):
        warnings.warn(f"classes with a single training image: {single}", stacklevel=3)


def _named(classes: tuple[str, ...], chosen: Tensor) -> str:
    """The names of classes, the first of them."""
    names = [classes[index] for index in chosen.nonzero().flatten().tolist()]
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
