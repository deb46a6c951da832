"""Images named by a configuration: sources, splits, and the checks before training."""

import difflib
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.devices import require_memory
from trifecta._utils.extras import require
from trifecta._utils.references import suggestion
from trifecta.data.cache import cached_images
from trifecta.data.decode import (
    GreyRange,
    decode_pieces,
    listed,
    narrow_greys,
    size_text,
    unreadable_images,
)
from trifecta.data.folder import (
    ARCHIVES,
    TABLES,
    TEST,
    TRAIN,
    VALIDATION,
    list_folder,
    split_of,
    warn_of_split_columns,
)
from trifecta.data.images import (
    ChannelStatistics,
    ImageData,
    ImageSet,
    channel_statistics,
    hold_out,
    require_scale,
    sample_digests,
    warn_of_shared,
)
from trifecta.data.rows import (
    NUMBERS,
    Labels,
    Rows,
    class_names,
    find_image_column,
    find_labels,
    identity,
    is_same_rows,
    label_indices,
)

HUB_TIMEOUT_SECONDS = 10
# Fewer grey levels are worth a warning where 16-bit images have more.
_FEW_LEVELS = 64
# Rows of a data set of the Hub whose images tell one version of it from another.
_MOST_SAMPLED = 256


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Source, splits and size of the images.

    Attributes:
        source: folder (one folder of images per class, or Parquet files), Hugging Face Hub id, or a name in
            :data:`SOURCES` such as ``digits`` (a folder of that name is ``./digits``).
        subset: configuration of a data set that has several, such as ``cropped_digits``.
        image_column: column of images; None finds it by its values.
        label_column: column of labels; None finds it by its name and values.
        table: file with labels of a folder of images, with a column ``file_name`` (or ``id``) and one of
            labels; None takes sub-folders for classes, or looks for a table where there are fewer than two.
        train_split: split to train on.
        test_split: split to test on. A folder's splits are ``train``, ``validation`` (``val``, ``valid``,
            ``dev``) and ``test``, in any case.
        hold_out: stratified fraction of the training split to test on, for a source without a test split.
        image_size: (height, width) in pixels to resize every image to; None keeps their size.
        validation: stratified fraction of the training split to validate on, for a source without a split
            ``validation``; 0 validates on nothing.
        mean: mean of each channel to normalise by, in 0..1; None takes that of the training images.
        std: standard deviation of each channel, above 0 and up to 1; likewise.
        skip_unreadable: leave out images that cannot be read, with a warning that counts them.
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
        for name, kind in (("image_size", None), ("mean", float), ("std", float)):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(map(kind, values) if kind else values))
        size, mean, std = self.image_size or (1, 1), self.mean or (), self.std or ()
        has_size = len(size) == 2 and all(isinstance(n, int) and n >= 1 for n in size)
        in_range = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)
        has_both = (self.mean, self.std) == (None, None) or bool(
            mean and len(mean) == len(std) and in_range
        )
        for name, holds, rule in (
            ("source", bool(self.source), "a folder, a Hub id or 'digits'"),
            ("test_split", self.test_split != self.train_split, "another split than data.train_split"),
            ("validation", 0 <= self.validation < 1, "0 or more and below 1"),
            ("hold_out", self.hold_out is None or 0 < self.hold_out < 1, "above 0 and below 1, or None"),
            ("image_size", has_size, "a height and a width in pixels"),
            ("mean", has_both, "one value from 0 to 1 per channel, and data.std one above 0 and up to 1"),
        ):
            if not holds:
                std_too = f" and std {self.std}; divide grey levels by 255" if name == "mean" else ""
                raise ValueError(f"data.{name} is {rule}: received {getattr(self, name)!r}{std_too}")


PUBLISHED_STATISTICS: dict[str, ChannelStatistics] = {
    "mnist": ChannelStatistics(mean=(0.1307,), std=(0.3081,)),
    "fashion-mnist": ChannelStatistics(mean=(0.2860,), std=(0.3530,)),
    "svhn": ChannelStatistics(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
    "cifar10": ChannelStatistics(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
}
"""Constants by data set in the published code of Dooms et al. (2023), the Trifecta, for a ``DataConfig``.

CIFAR-10's deviations are smaller than the images' own 0.247, 0.243 and 0.262.
"""


class MissingSourceError(ValueError):
    """There is no such folder or data set, or it cannot be reached."""


def load_digits(config: DataConfig) -> ImageData:
    """Load the 1,797 grey handwritten digits of 8×8 pixels, with their 17 levels spread over 0..255.

    A fifth is held out as the test split, or ``config.hold_out``. Resizing is bicubic, without aliasing.
    """
    digits = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    if config.image_size is not None:
        size = f"{len(pixels):,} images of {size_text(config.image_size)} pixels"
        needed = len(pixels) * math.prod(config.image_size) * pixels.itemsize
        require_memory(needed, size, "use a smaller data.image_size")
        pixels = F.interpolate(pixels, config.image_size, mode="bicubic", antialias=True)
    images = ImageSet(pixels.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(digits.target).long())
    train, test = hold_out(images, config.hold_out or 0.2)
    return ImageData(train=train, validation=None, test=test, classes=tuple("0123456789"))


SOURCES: dict[str, Callable[[DataConfig], ImageData]] = {"digits": load_digits}
"""Loaders of the sources that have a name, before normalisation; all others are folders and Hub ids."""
# Settings that apply to a source with a name too.
_COMMON_FIELDS = ("source", "hold_out", "image_size", "validation", "mean", "std")


def load_data(config: DataConfig, *, device: torch.device | str = "cpu") -> ImageData:
    """Load, decode and divide a source.

    The splits to test and to validate on are the source's own, else ``hold_out`` of the training split and
    ``validation`` of what remains. The mean and standard deviation are the configuration's, or those of the
    images that are left to train on.

    Raises:
        ValueError: the source, its labels or its images cannot be used; says which, and the fix.
        ImportError: the extra ``data`` is not installed.
    """
    data = _load(config)
    splits = (TEST,) if data.validation is None else (TEST, VALIDATION)
    if data.validation is None and config.validation:
        train, validation = hold_out(data.train, config.validation)
        data = replace(data, train=train, validation=validation)
    _warn_of_classes(data, splits)
    warn_of_shared(data.train, data.test)
    channels, mean, std = data.train.images.shape[1], config.mean, config.std
    if mean is None or std is None:
        mean, std = channel_statistics(data.train)
    if len(mean) != channels:
        received = f"received {len(mean)} for images of {channels}"
        raise ValueError(
            f"mean and std have one value per channel: {received}; leave both out to measure them"
        )
    return replace(data, mean=mean, std=std).to(device)


def load_split(
    config: DataConfig,
    split: str | None,
    classes: Sequence[str],
    *,
    channels: int,
    grey_range: Sequence[int] | None = None,
    trained_on: str = "",
    seen: Collection[str] = (),
) -> ImageSet:
    """Load one split alone, for a network that knows its ``classes`` and was ``trained_on`` some rows.

    Without a name, it is the test split (held out again where it was), or the only one, unless that has two
    of the training images whose digests were ``seen``. Grey images become colour for 3 ``channels``;
    ``grey_range`` and ``trained_on`` are those of its ``ImageData``.
    """
    is_known, is_unnamed, is_same = config.source in SOURCES, False, False
    if is_known and split is not None:
        raise ValueError(f"{config.source} has no split '{split}': leave it out, or give another source")
    if is_known or (split is None and config.hold_out is not None):
        data = _load(config)
        images, names = data.test, data.classes
        if trained_on and data.rows and not is_same_rows(trained_on, data.rows):
            then, now = (rows.partition(",")[0] for rows in (trained_on, data.rows))
            how = "other images or labels" if then == now else f"{then} then, {now} now"
            told = f"{config.source} has changed since the network was trained ({how})"
            raise ValueError(f"{told}, so that training images would be held out: give it as it was")
    else:
        splits = open_source(config)
        name = split or (next(iter(splits)) if len(splits) == 1 else config.test_split)
        rows = _split(splits, name, "another split")
        labels = find_labels(rows, config.label_column)
        is_unnamed, names = split is None and name != config.test_split, labels.classes
        has_rows = is_unnamed and bool(trained_on)
        is_same = has_rows and is_same_rows(trained_on, identity(rows, labels))
        scale = None if grey_range is None else GreyRange(*grey_range)
        images, _ = _images(rows, config, labels.indices, scale)
    if unknown := [name for name in names if name not in classes]:
        told = f"the network knows {len(classes)} classes ({listed(classes)})"
        raise ValueError(f"{told}: received {listed(unknown)} too; evaluate on data with the same classes")
    index_of = torch.tensor([classes.index(name) for name in names])
    images = replace(images, labels=index_of[images.labels])
    images = _with_channels(images, max(channels, images.images.shape[1]))
    # One may be there by chance, such as a blank one.
    shared = {*seen}.intersection(sample_digests(images)) if seen and is_unnamed and not is_same else ()
    if is_same or len(shared) >= min(2, len(seen)) > 0:
        told = f"{config.source} has images that the network was trained on, and no test split"
        raise ValueError(f"{told}: name the split '{name}' to measure on them all the same")
    return images


def is_same_training(config: DataConfig, source: str, trained_on: str) -> bool:
    """Whether ``source`` is that of ``config``, or has its training rows, ``trained_on``, elsewhere."""
    here, there = (Path(name).expanduser().resolve() for name in (config.source, source))
    if here == there or not trained_on or source in SOURCES:
        return here == there
    with warnings.catch_warnings(), suppress(ValueError):
        warnings.simplefilter("ignore")  # loading says the same
        rows = _split(open_source(replace(config, source=source)), config.train_split, "")
        return is_same_rows(trained_on, identity(rows, find_labels(rows, config.label_column)))
    return False


def _load(config: DataConfig) -> ImageData:
    if config.source not in SOURCES:
        return _load_rows(config)
    plain = DataConfig(source=config.source)
    names = [field.name for field in fields(config) if field.name not in _COMMON_FIELDS]
    other = [f"data.{name}" for name in names if getattr(config, name) != getattr(plain, name)]
    if other:
        raise ValueError(f"{config.source} has no columns and no splits: received {', '.join(other)}")
    return SOURCES[config.source](config)


def _load_rows(config: DataConfig) -> ImageData:
    """Load a folder or a data set of the Hub."""
    parts = _parts(open_source(config), config)
    training = parts[TRAIN]
    config = replace(config, image_column=find_image_column(training, config.image_column))
    found = find_labels(training, config.label_column)
    if config.hold_out is not None:
        warn_of_split_columns(training, {config.image_column or "", found.column})
    trained = torch.unique(found.indices).tolist()
    if len(trained) < 2:
        only = found.classes[trained[0]]
        there = f"column '{found.column}' has {only} alone: choose another data.label_column"
        there = _lone_folder(training, found, config, only) or there
        raise ValueError(f"training needs two classes or more, {there}")
    # All labels before the first image: a mistake in them shows at once.
    index, named = {found.classes[k]: k for k in trained}, training.columns[found.column]
    labels = {part: label_indices(rows, found.column, index, named) for part, rows in parts.items()}
    sets, greys = dict[str, ImageSet](), None
    for part, rows in parts.items():
        sets[part], greys = _images(rows, config, labels[part], greys, trains=part == TRAIN)
    sizes = {part: size_text(images.images.shape[2:]) for part, images in sets.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{part} images are {size} pixels" for part, size in sizes.items())
        raise ValueError(f"{told}: give one size, such as data.image_size={sizes[TRAIN].replace('×', 'x')}")
    # Grey becomes colour where another split has colour.
    channels = max(images.images.shape[1] for images in sets.values())
    sets = {part: _with_channels(images, channels) for part, images in sets.items()}
    for part, images in sets.items():
        require_scale(sets[TRAIN].images, images.images, f"split '{parts[part].split}'")
    if config.hold_out is not None:
        sets[TRAIN], sets[TEST] = hold_out(sets[TRAIN], config.hold_out)
    return ImageData(
        train=sets[TRAIN],
        validation=sets.get(VALIDATION),
        test=sets[TEST],
        classes=found.classes,
        grey_range=None if greys is None else greys[:2],
        rows=identity(training, found),
    )


def _lone_folder(training: Rows, found: Labels, config: DataConfig, only: str) -> str:
    """Describe a single class that is a folder of images, and its neighbours; nothing if it is none."""
    folder = _local_folder(config.source)
    if folder is None or len(training.files) != training.count or not training.columns[found.column]:
        return ""
    parent = (folder / (config.subset or "") / training.files[0]).parent.parent
    empty = [name for name in _folders(parent) if name not in found.classes and not name.startswith(".")]
    others = f", and none with a known extension are in {listed(empty)}" if empty else ""
    return f"{parent} has images in the folder {only} alone{others}: give each class a folder of images"


def _with_channels(images: ImageSet, channels: int) -> ImageSet:
    wide = images.images.expand(-1, channels, -1, -1)
    return replace(images, images=wide if images.rows is not None else wide.contiguous())


def _parts(splits: Mapping[str, Rows], config: DataConfig) -> dict[str, Rows]:
    """Return the splits to train, test and validate on, as far as there are; say which are not used."""
    parts = {TRAIN: _split(splits, config.train_split, "train_split to name another")}
    if config.hold_out is None:
        parts[TEST] = _split(splits, config.test_split, "test_split to name another, or hold_out=0.2")
    elif config.test_split in splits or split_of(config.test_split) in splits:
        told = f"{config.source} has a split '{config.test_split}' of its own"
        raise ValueError(f"{told}: drop data.hold_out, or let data.test_split name one that it lacks")
    if config.validation and VALIDATION in splits and splits[VALIDATION] not in parts.values():
        parts[VALIDATION] = splits[VALIDATION]
    if left := {name: rows for name, rows in splits.items() if rows not in parts.values()}:
        told = ", ".join(f"{name} ({len(rows):,} images)" for name, rows in left.items())
        warnings.warn(f"splits of {config.source} that are not used: {told}", stacklevel=5)
    return parts


def _split(splits: Mapping[str, Rows], name: str, fix: str) -> Rows:
    """Return the split called ``name``, in any case, or what it stands for, as ``val`` does."""
    usual = {own.lower(): rows for own, rows in splits.items()}
    rows = splits.get(name, usual.get(split_of(name).lower()))
    if rows is None or not len(rows):
        there = ", ".join(name for name, rows in splits.items() if len(rows))
        raise ValueError(f"no split '{name}', the source has {there} with images: use {fix}")
    return rows


def _images(
    rows: Rows, config: DataConfig, labels: Tensor, grey_range: GreyRange | None, *, trains: bool = False
) -> tuple[ImageSet, GreyRange | None]:
    """Return the images of a split, from the cache if they are there, and the range of their greys."""
    column = find_image_column(rows, config.image_column)
    key: dict[str, object] = {
        "rows": [rows.key(), len(rows), *sorted(rows.left_out)],
        "column": column,
        "image_size": config.image_size,
        "grey_range": grey_range and grey_range[:2],
    }
    how: Any = {"image_size": config.image_size, "grey_range": grey_range}
    decode = partial(decode_pieces, len(rows), partial(rows.images, column), **how)
    pixels, in_file, found = cached_images(key, decode)
    images = ImageSet(pixels, labels, rows=torch.arange(len(labels)) if in_file else None)
    if found is None:
        return images, None
    if not trains and grey_range is None:
        raise ValueError(f"split '{rows.split}' has greys of 16 bits, and training has 8: save all alike")
    some = images.images[:: max(1, len(images) // 1000)]
    levels = len(np.unique(some))
    if trains and levels < min(_FEW_LEVELS, found.values):
        told = f"of {found.values:,} greys from {found.low} to {found.high}, {levels} are left in 8 bits"
        warnings.warn(f"16-bit images: {told}: clip what lies far from the others", stacklevel=5)
    if grey_range is not None and (narrow := narrow_greys(some, grey_range)):
        raise ValueError(f"split '{rows.split}' of {config.source}: {narrow}; save all with one scale")
    return images, found


def _warn_of_classes(data: ImageData, splits: Sequence[str]) -> None:
    """Warn of classes without an image in one of the splits, or with none or one to train on."""
    counts = {split: np.array(count) for split, count in data.counts.items()}
    trained = counts[TRAIN]
    said = {f"without a {split} image": (counts[split] == 0) & (trained > 0) for split in splits}
    said |= {"without a training image": trained == 0, "with a single training image": trained == 1}
    for what, chosen in said.items():
        if chosen.any():
            warnings.warn(
                f"classes {what}: {listed(np.array(data.classes)[chosen].tolist())}", stacklevel=3
            )


def open_source(config: DataConfig) -> dict[str, Rows]:
    """Return the splits of a folder, read without the network, or a data set of the Hub, undecoded."""
    folder = _local_folder(config.source)
    if folder is not None:
        inner = folder / (config.subset or "")
        if not inner.is_dir():
            there = f"{folder} has {listed(_folders(folder)) or 'none'}"
            raise ValueError(f"no folder {config.subset}, {there}: choose another data.subset")
        order = {TRAIN: 0, VALIDATION: 1, TEST: 2}
        found = list_folder(inner.resolve(), config.table).items()
        splits = dict(sorted(found, key=lambda item: (order.get(item[0], 3), item[0])))
    elif config.table is not None:
        raise ValueError(f"table is for a folder of images: received source {config.source}; leave it out")
    else:
        splits = _from_hub(config.source, config.subset)
    return {name: _readable(rows, config) for name, rows in splits.items()}


def _readable(rows: Rows, config: DataConfig) -> Rows:
    """Leave out the rows whose images cannot be read, if the configuration says so."""
    if not config.skip_unreadable:
        return rows
    failed = unreadable_images(partial(rows.images, find_image_column(rows, config.image_column)))
    kept = [row for row, _ in rows.kept(range(rows.count))]
    if failed:
        told = f"{len(failed)} of {len(rows):,} images of split '{rows.split}' are left out"
        warnings.warn(f"{told}: {listed([*failed.values()], '; ')}", stacklevel=6)
    return replace(rows, left_out=rows.left_out.union(kept[index] for index in failed))


def _local_folder(source: str) -> Path | None:
    """Return the folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        fixes = dict.fromkeys(ARCHIVES, "unpack it, and give the folder of images")
        labels = f"if it labels images give data.source={path.parent} and data.table={path.name}"
        fixes |= dict.fromkeys(TABLES, f"{labels}; {NUMBERS}")
        fix = fixes.get(path.suffix.lower(), "give the folder that it lies in")
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
    config, was_offline = datasets.config, datasets.config.HF_HUB_OFFLINE
    missing = (hub.utils.RepositoryNotFoundError, hub.utils.HFValidationError)
    try:
        try:  # Once: ``load_dataset`` would try for half a minute.
            hub.HfApi().dataset_info(source, timeout=HUB_TIMEOUT_SECONDS)
        except missing:
            raise
        except Exception:  # no network, a proxy that refuses: what was loaded before still works
            config.HF_HUB_OFFLINE = True
        splits = datasets.load_dataset(source, subset)
    except (*missing, datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Only the cause names a broken file.
        is_broken = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = " ".join(str((is_broken and error.__cause__) or error).split())
        fix = "check the spelling and data.subset, connect to the network, or log in with `hf auth login`"
        raise MissingSourceError(
            f"no folder '{source}' in {Path.cwd()}, and it cannot be loaded from the Hugging Face Hub "
            f"({told:.300}): {suggestion(source, [*SOURCES, *_folders(Path.cwd())], fix)}"
        ) from error
    finally:
        config.HF_HUB_OFFLINE = was_offline
    caches = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, hub.constants.HF_HUB_CACHE)
    folders = tuple(path for cache in caches for path in (Path(cache).absolute(), Path(cache).resolve()))
    return {
        name: Rows(
            split=name,
            columns=class_names(split.data.table.schema),
            count=split.num_rows,
            read=partial(_values, split.data.table),
            key=partial(str, split._fingerprint),  # follows the version of the data set
            contents=partial(_contents, split.data.table),
            folders=folders,
        )
        for name, split in splits.items()
    }


def _values(table: Any, column: str) -> Iterator[Any]:
    return chain.from_iterable(chunk.to_pylist() for chunk in table.column(column).iterchunks())


def _contents(table: Any) -> list[str]:
    """Return digests of the images of rows that are spread over a table."""
    rows = table.take([*range(0, len(table), max(1, len(table) // _MOST_SAMPLED))]).to_pylist()
    images = (value.get("bytes") for row in rows for value in row.values() if isinstance(value, dict))
    return [blake2b(image, digest_size=16).hexdigest() for image in images if isinstance(image, bytes)]
