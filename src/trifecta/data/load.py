"""Images named by a configuration: sources, splits, and the checks before training."""

import difflib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import require
from trifecta.data.cache import cached_images
from trifecta.data.decode import GreyRange, decode_pieces, listed, size_text, unreadable_images
from trifecta.data.folder import ARCHIVES, TABLES, list_folder, narrow_greys
from trifecta.data.images import ChannelStatistics, ImageData, ImageSet, channel_statistics, hold_out
from trifecta.data.rows import (
    TEST,
    TRAIN,
    VALIDATION,
    Classes,
    Rows,
    chunk_rows,
    class_indices,
    digest,
    find_classes,
    find_image_column,
    find_label_column,
    split_of,
    table_chunks,
)

HUB_TIMEOUT_SECONDS = 10
# Fewer grey levels are worth a warning where 16-bit images have more.
_FEW_LEVELS = 64
# Images in both splits: fewer happen to be in published sets too.
_SHARED, _SHARED_SHARE = 10, 0.01


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Source, splits and size of the images.

    Attributes:
        source: a local folder (one folder of images per class, or Parquet files), a Hugging Face Hub id, or
            a name in :data:`SOURCES` such as ``digits`` (a folder of that name is ``./digits``).
        subset: configuration of a data set that has several, such as ``cropped_digits``.
        image_column: column of images; None finds it by its type.
        label_column: column of labels; None finds it by its type.
        table: file with the labels of a folder of images, such as ``labels.csv``: a column ``file_name``
            (or ``id``) and one of labels; None takes a sub-folder for a class, and looks for a table where
            there are fewer than two.
        train_split: split to train on.
        test_split: split to test on. A folder's splits are ``train``, ``validation`` (``val``, ``valid``,
            ``dev``) and ``test``, in any case.
        hold_out: fraction of the training split to hold out as the test split of a source without one,
            stratified and with seed 0.
        image_size: (height, width) in pixels to resize every image to; None keeps their size.
        validation: fraction of the training split to validate on, stratified and with seed 0, for a source
            without a split ``validation``; 0 validates on nothing.
        mean: mean of each channel to normalise by, in 0..1; None takes that of the training images.
        std: standard deviation of each channel, above 0 and up to 1; likewise.
        skip_unreadable: leave out images that cannot be read, with a warning that counts them.

    Raises:
        ValueError: a value is out of range.
    """

    source: str
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    table: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    hold_out: float | None = None
    image_size: tuple[int, int] | None = None
    validation: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        # YAML has lists only; equal configurations must stay equal.
        for name in ("image_size", "mean", "std"):
            values = getattr(self, name)
            if values is not None:
                plain = tuple(values) if name == "image_size" else tuple(map(float, values))
                object.__setattr__(self, name, plain)
        if not self.source:
            raise ValueError("data.source is empty: give a folder, a Hub id or 'digits'")
        if self.train_split == self.test_split:
            raise ValueError(
                f"training and test split must differ, got '{self.test_split}' for both: choose another "
                "data.test_split, or data.hold_out=0.2"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation is 0 or more and below 1, got {self.validation}: try 0.1")
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise ValueError(f"data.hold_out is above 0 and below 1, got {self.hold_out}: try 0.2")
        size = self.image_size
        if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size)):
            raise ValueError(f"data.image_size is a height and a width in pixels, got {size}: try 32 by 32")
        mean, std = self.mean or (), self.std or ()
        is_given = self.mean is not None or self.std is not None
        in_range = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)
        if is_given and (not mean or len(mean) != len(std) or not in_range):
            raise ValueError(
                "mean and std have one value per channel, a mean from 0 to 1 and an std above 0 and up to "
                f"1: got mean {self.mean} and std {self.std}; divide grey levels by 255, or leave both out"
            )


PUBLISHED_STATISTICS: dict[str, ChannelStatistics] = {
    "mnist": ChannelStatistics(mean=(0.1307,), std=(0.3081,)),
    "fashion-mnist": ChannelStatistics(mean=(0.2860,), std=(0.3530,)),
    "svhn": ChannelStatistics(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
    "cifar10": ChannelStatistics(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
}
"""Constants by data set in the published code of Dooms et al. (2023), the Trifecta, for a ``DataConfig``.

Not all are those of the training images: CIFAR-10's deviations are smaller than the images' own 0.247,
0.243 and 0.262.
"""


class MissingSourceError(ValueError):
    """There is no such folder or data set, or it cannot be reached."""


def load_digits(config: DataConfig) -> ImageData:
    """Load the 1,797 grey handwritten digits of 8×8 pixels, with their 17 levels spread over 0..255.

    A fifth is held out as the test split, or ``config.hold_out``. Other sizes are bicubic, without
    aliasing.
    """
    digits = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    if config.image_size is not None:
        needed = 8.0 * len(pixels) * math.prod(config.image_size)  # resized in floating point
        require_memory(needed, "digits of that size", "use a smaller data.image_size")
        pixels = F.interpolate(pixels, config.image_size, mode="bicubic", antialias=True)
    images = ImageSet(pixels.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(digits.target).long())
    train, test = hold_out(images, config.hold_out or 0.2)
    return ImageData(train=train, validation=None, test=test, classes=tuple("0123456789"))


SOURCES: dict[str, Callable[[DataConfig], ImageData]] = {"digits": load_digits}
"""Loaders of the sources that have a name, before normalisation; all others are folders and Hub ids."""
# The other settings are about columns and splits.
_NAMED_FIELDS = {"source", "hold_out", "image_size", "validation", "mean", "std"}


def load_data(config: DataConfig, *, device: torch.device | str = "cpu") -> ImageData:
    """Load, decode and divide a source.

    The test split is the source's own, or ``hold_out`` of the training split. The validation split is the
    source's own, else ``validation`` of what remains. What is held out is stratified, see
    :func:`stratified_split`. The mean and standard deviation are the configuration's, or else those of the
    images that are left to train on.

    Raises:
        ValueError: there is no such source; a split, images or labels are missing; an image cannot be read;
            images differ in size or depth; a label is outside the classes, or of a class without training
            images; there is one class; or the configuration's ``mean`` and ``std`` are of another number of
            channels.
        ImportError: the extra ``data`` is not installed.
    """
    data = _load(config)
    if data.validation is None and config.validation:
        train, validation = hold_out(data.train, config.validation)
        data = replace(data, train=train, validation=validation)
    _check_classes(data)
    _warn_of_shared(data.train, data.test)
    given, channels = ChannelStatistics(config.mean or (), config.std or ()), data.train.images.shape[1]
    statistics = given if given.mean else channel_statistics(data.train)
    if len(statistics.mean) != channels:
        raise ValueError(
            f"mean and std have one value per channel, got {len(given.mean)} for images of {channels}: "
            f"give {channels}, or leave both out to take those of the training images"
        )
    return replace(data, mean=statistics.mean, std=statistics.std).to(device)


def _load(config: DataConfig) -> ImageData:
    if config.source not in SOURCES:
        return _load_rows(config)
    plain = DataConfig(source=config.source)
    names = [field.name for field in fields(config) if field.name not in _NAMED_FIELDS]
    other = [f"data.{name}" for name in names if getattr(config, name) != getattr(plain, name)]
    if other:
        raise ValueError(f"{config.source} has no columns and no splits: received {', '.join(other)}")
    return SOURCES[config.source](config)


def load_split(
    config: DataConfig,
    split: str | None,
    classes: Sequence[str],
    *,
    channels: int,
    grey_range: Sequence[int] | None = None,
    trained_on: str = "",
) -> ImageSet:
    """Load one split alone, for a network that knows its classes already.

    Args:
        config: of the source, whose classes may be some of ``classes``, in any order.
        split: its name; None takes the test split (held out again where it was), or the only one.
        classes: names, in the order of the network's scores.
        channels: of the network's images; grey images become colour for 3.
        grey_range: as ``ImageData``'s, of the training images.
        trained_on: ``ImageData.rows`` of the network's training; empty where it is not known.

    Raises:
        ValueError: as ``load_data``, or the source has a class that is none of ``classes``, or images that
            the network may have been trained on.
    """
    if config.source in SOURCES and split is not None:
        raise ValueError(f"{config.source} has no split '{split}': leave it out, or give another source")
    if config.source in SOURCES or (split is None and config.hold_out is not None):
        data = _load(config)
        images, names = data.test, data.classes
        if trained_on and data.rows and trained_on != data.rows:
            raise ValueError(
                f"{config.source} has changed since the network was trained ({trained_on.split(',')[0]} "
                f"then, {data.rows.split(',')[0]} now), so that images it was trained on would be held "
                "out: bring the folder back as it was, or give other test images"
            )
    else:
        images, names = _load_one(config, split, grey_range, trained_on)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ValueError(
            f"the network knows {len(classes)} classes ({listed(classes)}): received {listed(unknown)} "
            "too; evaluate on data with the same classes"
        )
    index_of = torch.tensor([classes.index(name) for name in names])
    images = replace(images, labels=index_of[images.labels])
    return _with_channels(images, max(channels, images.images.shape[1]))


def _load_one(
    config: DataConfig, split: str | None, grey_range: Sequence[int] | None, trained_on: str
) -> tuple[ImageSet, tuple[str, ...]]:
    splits = open_source(config)
    name = split or (next(iter(splits)) if len(splits) == 1 else config.test_split)
    rows = _split(splits, name, "another split")
    column, found = find_image_column(rows, config.image_column), _labels_of(rows, config)
    if split is None and trained_on == found.identity:
        raise ValueError(
            f"{config.source} has the images that the network was trained on, and no test split: name the "
            f"split '{name}' to measure on them all the same"
        )
    scale = None if grey_range is None else GreyRange(*grey_range)
    images, _ = _images(rows, column, config, found.indices, grey_range=scale)
    if scale is not None and (narrow := narrow_greys(_some_pixels(images), scale)):
        raise ValueError(f"{config.source}: {narrow}; save all with one scale")
    return images, found.classes.names


def is_same_training(config: DataConfig, trained_on: str) -> bool:
    """Whether a source has the training rows that ``trained_on`` identifies, wherever they lie now."""
    if not trained_on or config.source in SOURCES:
        return False
    try:
        rows = _split(open_source(replace(config, skip_unreadable=False)), config.train_split, "")
        return _labels_of(rows, config).identity == trained_on
    except ValueError:
        return False


class _Labels(NamedTuple):
    """Labels of rows as class indices, and the number of rows with a digest of their files and labels."""

    column: str
    classes: Classes
    indices: Tensor
    identity: str


def _labels_of(rows: Rows, config: DataConfig) -> _Labels:
    column = find_label_column(rows, config.label_column)
    classes = find_classes(rows, column)
    indices = class_indices(rows, column, classes)
    texts = [rows.split, *rows.files, "", *classes.names, indices.numpy().tobytes().hex()]
    return _Labels(column, classes, indices, f"{len(rows)} rows, {digest(texts)}")


def _load_rows(config: DataConfig) -> ImageData:
    """Load a folder or a data set of the Hub."""
    splits = open_source(config)
    training = _split(splits, config.train_split, "train_split to name another")
    image_column, found = find_image_column(training, config.image_column), _labels_of(training, config)
    used = _used(splits, config)
    # All labels before the first image: a mistake in them shows at once.
    labels = {part: class_indices(rows, found.column, found.classes) for part, rows in used.items()}
    whole, grey_range = _images(training, image_column, config, found.indices, finds_range=True)
    sets = {TRAIN: whole}
    for part, rows in used.items():
        sets[part], _ = _images(rows, image_column, config, labels[part], grey_range=grey_range)
        size, other = (tuple(images.images.shape[-2:]) for images in (whole, sets[part]))
        if other != size:
            raise ValueError(
                f"training images are {size_text(size)} pixels and {part} images {size_text(other)}: give "
                f"one size, such as data.image_size={size[0]}x{size[1]}"
            )
    if grey_range is not None:
        _check_levels(sets, grey_range)
    # Grey becomes colour where another split has colour.
    channels = max(images.images.shape[1] for images in sets.values())
    sets = {part: _with_channels(images, channels) for part, images in sets.items()}
    if config.hold_out is not None:
        sets[TRAIN], sets[TEST] = hold_out(sets[TRAIN], config.hold_out)
    return ImageData(
        train=sets[TRAIN],
        validation=sets.get(VALIDATION),
        test=sets[TEST],
        classes=found.classes.names,
        grey_range=None if grey_range is None else grey_range[:2],
        rows=found.identity,
    )


def _with_channels(images: ImageSet, channels: int) -> ImageSet:
    wide = images.images.expand(-1, channels, -1, -1)
    return replace(images, images=wide if images.rows is not None else wide.contiguous())


def _used(splits: Mapping[str, Rows], config: DataConfig) -> dict[str, Rows]:
    """Return the splits to test on, unless that is held out, and to validate on; say which are not used."""
    used = {}
    if config.hold_out is None:
        used[TEST] = _split(splits, config.test_split, "test_split to name another, or hold_out=0.2")
    elif config.test_split in splits or split_of(config.test_split) in splits:
        raise ValueError(
            f"{config.source} has a split '{config.test_split}' of its own: drop data.hold_out, or name a "
            "split that it lacks with data.test_split to hold images out all the same"
        )
    taken = [_split(splits, config.train_split, ""), *used.values()]
    if config.validation and VALIDATION in splits and splits[VALIDATION] not in taken:
        used[VALIDATION] = splits[VALIDATION]
    unused = [(name, rows) for name, rows in splits.items() if rows not in [*taken, *used.values()]]
    if unused:
        said = ", ".join(f"{name} ({len(rows):,} images)" for name, rows in unused)
        warnings.warn(f"splits of {config.source} that are not used: {said}", stacklevel=5)
    return used


def _split(splits: Mapping[str, Rows], name: str, fix: str) -> Rows:
    """Return the split called ``name``, or what it stands for, as ``val`` for ``validation``."""
    rows = splits.get(name, splits.get(split_of(name)))
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
    """Return the images of a split, from the cache if they are there, and the range of their greys."""
    identity: dict[str, object] = {
        "rows": rows.content(),
        "column": column,
        "image_size": config.image_size,
    }
    images, in_file, found = cached_images(
        identity if grey_range is None else {**identity, "grey_range": grey_range[:2]},
        len(rows),
        lambda consume: decode_pieces(
            len(rows),
            partial(rows.encoded, column),
            consume,
            image_size=config.image_size,
            grey_range=grey_range,
            finds_range=finds_range,
        ),
    )
    if found is not None and grey_range is None and not finds_range:
        raise ValueError(f"split '{rows.split}' has greys of 16 bits, and training has 8: save all alike")
    return ImageSet(images, labels, rows=torch.arange(len(labels)) if in_file else None), found


def _check_levels(sets: Mapping[str, ImageSet], grey_range: GreyRange) -> None:
    """Check that 16-bit greys of all splits fill the training images' range; say if few levels are left."""
    levels = {part: len(np.unique(_some_pixels(images))) for part, images in sets.items()}
    for part, images in sets.items():
        if levels[part] * 16 < levels[TRAIN] or narrow_greys(_some_pixels(images), grey_range):
            raise ValueError(
                f"{part} images have greys of another range than the training images, which use "
                f"{grey_range.low} to {grey_range.high} of 16 bits: {levels[part]} of {levels[TRAIN]} "
                "levels are left; save all with one scale"
            )
    if levels[TRAIN] < min(_FEW_LEVELS, grey_range.values):
        warnings.warn(
            f"16-bit images: of {grey_range.values:,} greys from {grey_range.low} to {grey_range.high}, "
            f"{levels[TRAIN]} are left in 8 bits: clip what lies far from the others, and save them again",
            stacklevel=5,
        )


def _some_pixels(images: ImageSet) -> Tensor:
    return images.select(torch.arange(0, len(images), max(1, len(images) // 1000))).images


def _warn_of_shared(train: ImageSet, test: ImageSet) -> None:
    """Say how many test images are training images too, unless they stay in a file."""
    if train.rows is not None or test.rows is not None:
        return
    known = {hash(image.tobytes()) for image in train.images.numpy()}
    count = sum(hash(image.tobytes()) in known for image in test.images.numpy())
    if count >= max(_SHARED, _SHARED_SHARE * len(test)):
        warnings.warn(
            f"{count:,} of {len(test):,} test images are training images too, pixel by pixel: the test "
            "accuracy is too high",
            stacklevel=3,
        )


def _check_classes(data: ImageData) -> None:
    """Check that two classes have training images, and so have those of other splits."""

    def counted(images: ImageSet) -> Tensor:
        return torch.bincount(images.labels, minlength=data.num_classes)

    def named(chosen: Tensor) -> str:
        return listed([data.classes[index] for index in chosen.nonzero().flatten().tolist()])

    counts = counted(data.train)
    if (counts > 0).sum() < 2:
        raise ValueError(
            f"training needs images of two classes or more, only one of {data.num_classes} has any: choose "
            "another data.label_column, or add images of others"
        )
    for part, images in (("test", data.test), ("validation", data.validation)):
        if images is not None and (unseen := named((counted(images) > 0) & (counts == 0))):
            raise ValueError(
                f"the {part} split has images of classes without a training image, {unseen}: add images of "
                "them to the training split, or take them out"
            )
    said = {
        "without a test image": (counted(data.test) == 0) & (counts > 0),
        "without a training image": counts == 0,
        "with a single training image": counts == 1,
    }
    for what, chosen in said.items():
        if chosen.any():
            warnings.warn(f"classes {what}: {named(chosen)}", stacklevel=3)


def open_source(config: DataConfig) -> dict[str, Rows]:
    """Return the splits of a folder, read without the network, or a data set of the Hub, undecoded.

    Raises:
        MissingSourceError: there is no such source.
        ValueError: there is no such subset, or it cannot be read.
        ImportError: a library that it takes is not installed.
    """
    folder = _local_folder(config.source)
    if folder is not None:
        if config.subset is not None and not (folder / config.subset).is_dir():
            raise ValueError(
                f"no folder {config.subset} in {folder}, whose folders are "
                f"{listed(_folders(folder)) or 'none'}: choose another data.subset"
            )
        found = list_folder((folder / (config.subset or "")).resolve(), config.table)
        usual = [split for split in (TRAIN, VALIDATION, TEST) if split in found]
        splits = {split: found[split] for split in dict.fromkeys([*usual, *sorted(found)])}
    elif config.table is not None:
        raise ValueError(f"table is for a folder of images: received source {config.source}; leave it out")
    else:
        splits = _from_hub(config.source, config.subset)
    return {
        name: _readable(rows, config) if config.skip_unreadable else rows for name, rows in splits.items()
    }


def _readable(rows: Rows, config: DataConfig) -> Rows:
    """Return the rows whose image can be read."""
    column = find_image_column(rows, config.image_column)
    failed = unreadable_images(len(rows), partial(rows.encoded, column))
    if not failed:
        return rows
    warnings.warn(
        f"{len(failed)} of {len(rows):,} images of split '{rows.split}' are left out: "
        f"{listed(list(failed.values()), '; ')}",
        stacklevel=6,
    )
    return rows.select([index for index in range(len(rows)) if index not in failed])


def _local_folder(source: str) -> Path | None:
    """Return the folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        fix = "give the folder that it lies in"
        if path.suffix.lower() in TABLES:
            fix = f"give data.source={path.parent} and data.table={path.name}"
        elif path.suffix.lower() in ARCHIVES:
            fix = "unpack it, and give the folder of images"
        raise ValueError(f"source is a folder, a Hub id or 'digits', {source} is a file: {fix}")
    if not source.startswith((".", "/", "~")) and source.count("/") <= 1:
        return None
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing, _folders(parent))
    raise MissingSourceError(
        f"no folder {source} ({parent} has no {missing}{f', but {near[0]}' if near else ''}): give the "
        "right one as source; if it has moved, its new place, or put a link to it there"
    )


def _folders(parent: Path) -> list[str]:
    return sorted(entry.name for entry in parent.iterdir() if entry.is_dir())


def _from_hub(source: str, subset: str | None) -> dict[str, Rows]:
    datasets, hub = require("datasets"), require("huggingface_hub")
    offline = not _hub_answers(source)
    try:
        with _quiet(offline=offline):
            splits = datasets.load_dataset(source, subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Only the cause names a broken file.
        broken = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = error.__cause__ if broken and error.__cause__ else error
        cannot, reason = f"cannot load '{source}' from the Hugging Face Hub", " ".join(str(told).split())
        if isinstance(told, ConnectionError):
            raise MissingSourceError(
                f"{cannot}: there is no such folder in {Path.cwd()}, and the Hub cannot be reached: check "
                "the spelling, or connect to the network"
            ) from error
        asks = "BuilderConfig" in reason or "Config name is missing" in reason
        fix = ": choose one with data.subset" if asks else ""
        raise ValueError(f"{cannot}: {reason.rstrip('.')}{fix}") from error
    config = datasets.config
    caches = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, hub.constants.HF_HUB_CACHE)
    folders = tuple(path for cache in caches for path in (Path(cache).absolute(), Path(cache).resolve()))
    return {name: _hub_rows(name, split, folders) for name, split in splits.items()}


def _hub_rows(name: str, split: Any, folders: tuple[Path, ...]) -> Rows:
    table = split.data.table
    # The fingerprint follows the version of the data set.
    return chunk_rows(name, table.schema, table_chunks(table), folders, lambda: str(split._fingerprint))


def _hub_answers(source: str) -> bool:
    """Ask the Hub for ``source``, once: ``load_dataset`` would try for half a minute.

    Raises:
        MissingSourceError: the Hub answers that it has no such data set, or that it may not be read.
    """
    hub = require("huggingface_hub")
    try:
        hub.HfApi().dataset_info(source, timeout=HUB_TIMEOUT_SECONDS)
    except (hub.utils.RepositoryNotFoundError, hub.utils.HFValidationError) as error:
        raise MissingSourceError(
            f"no folder '{source}' in {Path.cwd()}, and no data set of that name on the Hugging Face Hub "
            "that you can read: check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except Exception:  # no network, a proxy that refuses, offline mode: what was loaded before still works
        return False
    return True


@contextmanager
def _quiet(*, offline: bool) -> Iterator[None]:
    """Silence ``datasets``, whose errors are raised as well, and keep it to its cache if ``offline``."""
    datasets, logging = require("datasets"), require("datasets.utils.logging")
    config = datasets.config
    level, was_offline = logging.get_verbosity(), config.HF_HUB_OFFLINE
    # An environment variable that decides about the bars has the last word.
    switches = (
        config.HF_DATASETS_DISABLE_PROGRESS_BARS is None and not datasets.are_progress_bars_disabled()
    )
    logging.set_verbosity(logging.CRITICAL)
    config.HF_HUB_OFFLINE = was_offline or offline
    if switches:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        config.HF_HUB_OFFLINE = was_offline
        if switches:
            datasets.enable_progress_bars()
