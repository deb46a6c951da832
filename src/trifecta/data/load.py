"""Opening a source: a local folder, or a data set of the Hugging Face Hub."""

import difflib
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.checks import memory_bytes, require_memory
from trifecta._utils.extras import require
from trifecta._utils.files import StorageError, write_atomically
from trifecta.data.arrow_files import table_rows
from trifecta.data.config import DataConfig, find_statistics
from trifecta.data.decode import (
    MOST_NAMED,
    GreyRange,
    Pixels,
    Shape,
    decode_pieces,
    size_text,
    stacked,
    unreadable_images,
)
from trifecta.data.folder import ARCHIVES, list_folder
from trifecta.data.images import TEST, TRAIN, VALIDATION, ImageData, ImageSet, hold_out, split_of
from trifecta.data.rows import (
    Rows,
    class_indices,
    digest,
    find_classes,
    find_image_column,
    find_label_column,
    require_columns,
)
from trifecta.data.tables import TABLES

HUB_TIMEOUT_SECONDS = 10


class MissingSourceError(ValueError):
    """There is no such folder or data set, or it cannot be reached."""


def open_source(config: DataConfig) -> dict[str, Rows]:
    """All splits of a source, undecoded. A local folder is read without the network.

    Raises:
        MissingSourceError: there is no such source.
        ValueError: there is no such subset, or it cannot be read.
        ImportError: a library that it takes is not installed.
    """
    folder = _local_folder(config.source)
    if folder is not None:
        splits = list_folder(_subset(folder, config.subset), config.table)
        return {name: splits[name] for name in sorted(splits, key=_rank)}
    if config.table is not None:
        raise ValueError(f"table is for a folder of images: received source {config.source}; leave it out")
    with _offline(not _hub_answers(config.source)):
        return _from_hub(config.source, config.subset)


def _rank(split: str) -> tuple[int, str]:
    usual = (TRAIN, VALIDATION, TEST)
    return (usual.index(split) if split in usual else len(usual)), split


def _local_folder(source: str) -> Path | None:
    """The folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ValueError(f"source is a folder, a Hub id or 'digits', {source} is a file: {_instead(path)}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise MissingSourceError(
            f"no folder {source}{_nearest(path)}: give the right one as source; if it has moved, its new "
            "place, or put a link to it there"
        )
    return None


def _instead(file: Path) -> str:
    if file.suffix.lower() in TABLES:
        return f"give data.source={file.parent} and data.table={file.name}"
    if file.suffix.lower() in ARCHIVES:
        return "unpack it, and give the folder of images"
    return "give the folder that it lies in"


def _nearest(path: Path) -> str:
    """How far the path exists, and what is there in place of the rest."""
    parent = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir() if entry.is_dir()])
    return f" ({parent} has no {missing}{f', but {near[0]}' if near else ''})"


def _subset(folder: Path, subset: str | None) -> Path:
    if subset is None:
        return folder
    if not (folder / subset).is_dir():
        there = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:10]) or "none"
        raise ValueError(
            f"no folder {subset} in {folder}, whose folders are {there}: choose another data.subset"
        )
    return (folder / subset).resolve()


def _from_hub(source: str, subset: str | None) -> dict[str, Rows]:
    datasets = require("datasets")
    try:
        with _quiet():
            splits = datasets.load_dataset(source, subset)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Only the cause names a broken file.
        broken = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = error.__cause__ if broken and error.__cause__ else error
        kind = MissingSourceError if isinstance(told, ConnectionError) else ValueError
        raise kind(f"cannot load '{source}' from the Hugging Face Hub: {_advice(told)}") from error
    config, kept = datasets.config, require("huggingface_hub").constants.HF_HUB_CACHE
    own = [Path(folder) for folder in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, kept)]
    folders = tuple(folder.absolute() for folder in [*own, *(folder.resolve() for folder in own)])
    return {name: _hub_rows(name, rows, folders) for name, rows in splits.items()}


def _hub_rows(name: str, rows: Any, folders: tuple[Path, ...]) -> Rows:
    # The fingerprint follows the version of the data set.
    return table_rows(name, rows.data.table, folders, lambda: str(rows._fingerprint))


def _advice(error: BaseException) -> str:
    """Return the complaint of ``datasets`` on one line, and the fix."""
    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ConnectionError):
        return (
            f"there is no such folder in {Path.cwd()}, and the Hub cannot be reached: check the spelling, "
            "or connect to the network"
        )
    if "BuilderConfig" in reason or "Config name is missing" in reason:
        return f"{reason}: choose one with data.subset"
    return reason


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
    except Exception:  # No network, a proxy that refuses, offline mode: what was loaded before still works.
        return False
    return True


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keep ``datasets`` to what it has on disk, if ``offline``; then restore its setting."""
    config = require("datasets").config
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no log lines of ``datasets`` (its errors are raised as well); then as before."""
    datasets, logging = require("datasets"), require("datasets.utils.logging")
    level, shown = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    # An environment variable that decides about the bars has the last word.
    switched = shown and datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None
    logging.set_verbosity(logging.CRITICAL)
    if switched:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if switched:
            datasets.enable_progress_bars()


FORMAT_VERSION = 3
"""Raise it when the same key would decode to other pixels."""

# Images that would take a larger share of the machine's memory stay on disk.
MOST_OF_MEMORY = 0.25
_PIECE = 2**24
_RANGE_BYTES = 24
_SUM_BYTES = 8


class CachedImages(NamedTuple):
    """Images ``(N, C, H, W)`` uint8, and whether they stay in a file: then copy only what is used.

    ``grey_range`` is what they were scaled by, where they had 16 bits.
    """

    images: Tensor
    in_file: bool = False
    grey_range: GreyRange | None = None


Consume = Callable[[Shape, Iterator[Pixels], GreyRange | None], CachedImages]
Decode = Callable[[Consume], CachedImages]
"""Hands the decoded images to a function, and returns what that returns."""


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    if own := os.environ.get("TRIFECTA_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "trifecta"


def cached_images(identity: dict[str, object], count: int, decode: Decode) -> CachedImages:
    """Read the images from the cache, or decode and keep them.

    Images that would fill memory are a read-only tensor whose storage is the file. Processes may do this at
    once: a file appears whole or not at all. A file that is damaged is replaced, with a warning; a folder
    that cannot be written gives a warning.

    Args:
        identity: all that the pixels depend on, as plain values.
        count: how many images there have to be.
        decode: decodes ``(count, C, H, W)`` uint8.
    """
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
    images = _read(file, count)
    if images is not None:
        return images
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        decode(lambda shape, pieces, grey_range: _keep(file, shape, pieces, grey_range))
    except OSError as error:
        reason = error if isinstance(error, StorageError) else error.strerror
        warnings.warn(
            f"decoded images are not kept, as {file.parent} cannot be written ({reason}): "
            "set TRIFECTA_CACHE to a folder that can",
            stacklevel=2,
        )
    images = _read(file, count)
    return decode(_in_memory) if images is None else images


def _in_memory(shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> CachedImages:
    return CachedImages(stacked(shape, pieces), grey_range=grey_range)


def _keep(file: Path, shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> CachedImages:
    """Write the pieces to ``file``, unless they would fill the disk."""
    if math.prod(shape) > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_atomically(file, lambda path: _write(path, shape, pieces, grey_range))
    return CachedImages(torch.empty(0))


def _write(path: Path, shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> None:
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        total = zlib.crc32(path.read_bytes())
        behind = " ".join(map(str, grey_range or ())).encode().rjust(_RANGE_BYTES)
        for content in itertools.chain((piece.tobytes() for piece in pieces), [behind]):
            total = zlib.crc32(content, total)
            file.write(content)
        file.write(f"{total:0{_SUM_BYTES}x}".encode())


def _read(file: Path, count: int) -> CachedImages | None:
    """Return the images in ``file``; None where there are none, or not those."""
    try:
        with file.open("rb") as opened:
            if not _is_whole(opened, file.stat().st_size):
                warnings.warn(f"decoded images in {file} are damaged: they are decoded again", stacklevel=3)
                return None
            opened.seek(-_RANGE_BYTES - _SUM_BYTES, os.SEEK_END)
            numbers = opened.read(_RANGE_BYTES).split()
        grey_range = GreyRange(*map(int, numbers)) if numbers else None
        mapped = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if mapped.ndim != 4 or len(mapped) != count or mapped.dtype != np.uint8:
        return None
    if mapped.nbytes <= MOST_OF_MEMORY * (memory_bytes() or np.inf):
        return CachedImages(torch.from_numpy(np.array(mapped)), grey_range=grey_range)
    with warnings.catch_warnings():
        # Nothing writes to images of a data set.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return CachedImages(torch.from_numpy(mapped), in_file=True, grey_range=grey_range)


def _is_whole(file: IO[bytes], size: int) -> bool:
    """Whether the checksum at the end is that of what is before it."""
    total, left = 0, size - _SUM_BYTES
    while left > 0:
        piece = file.read(min(_PIECE, left))
        if not piece:
            return False
        total, left = zlib.crc32(piece, total), left - len(piece)
    return file.read() == f"{total:0{_SUM_BYTES}x}".encode()


DIGITS = "digits"
DIGIT_CLASSES = tuple("0123456789")
TEST_FRACTION = 0.2
"""The test share of the digits, which have no official split."""


def load_digits(image_size: tuple[int, int] | None) -> ImageSet:
    """The 1,797 handwritten digits of 8×8 pixels, grey, with their 17 levels spread over 0..255.

    Args:
        image_size: (height, width) in pixels to resize to, bicubic and without aliasing; None
            keeps 8×8.

    Returns:
        All of them, in scikit-learn's order.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    digits = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    if image_size is not None:
        # Resized in floating point.
        needed = 8.0 * len(pixels) * math.prod(image_size)
        require_memory(needed, "digits of that size", "use a smaller data.image_size")
        pixels = F.interpolate(pixels, image_size, mode="bicubic", antialias=True)
    images = pixels.round().clamp(0, 255).to(torch.uint8)
    return ImageSet(images, torch.from_numpy(digits.target).long())


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
