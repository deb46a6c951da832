"""Loose image files, to predict on."""

import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from torch import Tensor

from trifecta._utils.extras import IMAGE_FORMATS, pillow, require
from trifecta.data.arrow_files import data_splits
from trifecta.data.decode import GreyRange, decode_images
from trifecta.data.images import SPLITS, TRAIN, split_of
from trifecta.data.rows import Column, Rows, file_rows
from trifecta.data.tables import TABLES, table_splits


def find_images(path: Path) -> list[Path]:
    """The file ``path``, or every image file in the folder ``path`` and below, sorted.

    An image file is one with the extension of a format that is read here; hidden files are left out.

    Raises:
        ValueError: there is nothing at ``path``, or no image.
        ImportError: Pillow is not installed.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no file or folder {path}: check the spelling")
    extensions = image_extensions()
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in extensions and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        raise ValueError(f"no images in {path}: give an image, or a folder with images in it")
    return found


def image_extensions() -> set[str]:
    """Return the extensions of the formats that are read, such as ``.png``."""
    image = pillow()
    return {
        extension
        for extension, image_format in image.registered_extensions().items()
        if image_format in image.OPEN and image_format in IMAGE_FORMATS
    }


def read_images(
    paths: Sequence[Path],
    *,
    image_shape: tuple[int, int, int],
    grey_range: Sequence[int] | None = None,
) -> Tensor:
    """Decode files to the shape that a network takes, converting colours and sizes as needed.

    Args:
        paths: of the files, at least one.
        image_shape: (C, H, W); C is 1 or 3.
        grey_range: of the training images, where these have greys of 16 bits.

    Returns:
        ``(N, C, H, W)`` uint8, in the order of ``paths``.

    Raises:
        ValueError: there are no files, a file cannot be read or has another depth than the training images
            (names it), or C is neither 1 nor 3.
        ImportError: Pillow is not installed.
    """
    channels, height, width = image_shape
    if channels not in {1, 3}:
        raise ValueError(f"image files have 1 or 3 channels, the network takes {channels}")
    if not paths:
        raise ValueError("no images to read: give at least one file")
    return decode_images(
        len(paths),
        lambda start, stop: [(str(path), path) for path in paths[start:stop]],
        image_size=(height, width),
        channels=channels,
        grey_range=None if grey_range is None else GreyRange(*grey_range),
    )


# What programs leave behind, thumbnails and copies among it.
_LEFT_BY_PROGRAMS = {
    *(".git", ".cache", ".ipynb_checkpoints", ".thumbnails", ".Trashes", ".AppleDouble", "@eaDir"),
    *("__MACOSX", "__pycache__"),
}
_FILES_BY_PROGRAMS = {".ds_store", "thumbs.db", "desktop.ini"}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
_DATA = (".parquet", ".arrow")
_UNREADABLE = re.compile("[\r\n\\\\\udc80-\udcff]")
# What a folder says about itself.
_ABOUT = re.compile(
    r"(readme|licen[cs]e|citation|\.git|\.huggingface|dataset_infos?\.json)[^/]*$", re.IGNORECASE
)
_MOST_DEPTH = 8
_MOST_NAMED = 10


@dataclass
class Listing:
    """Files below a folder, relative to it, in the order of their paths, and what is left out."""

    images: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def list_folder(folder: Path, table: str | None = None) -> dict[str, Rows]:
    """The splits of a folder of images, Parquet files, or Arrow files of ``save_to_disk``.

    Args:
        folder: absolute; nothing outside it is read, but where links in it lead.
        table: of the labels, relative to the folder or to each split; None takes the folders for classes,
            and looks for a table where there are fewer than two.

    Raises:
        ValueError: there is nothing to read, or no telling how.
    """
    found = _listed(folder)
    if found.images and found.data:
        raise ValueError(
            f"{folder} has images, such as {found.images[0]}, and other data, such as {found.data[0]}: "
            "give a folder with one of them"
        )
    if found.data:
        return data_splits(folder, found.data)
    if not found.images:
        raise ValueError(_nothing(folder, found.others))
    splits = None if table is not None else _class_splits(folder, found)
    if splits is None:
        splits = table_splits(folder, found.images, found.tables, _split_folders(found.images), table)
        used = {file for rows in splits.values() for file in rows.files}
        found.left_out += [image for image in found.images if image not in used]
    _warn_of_left_out(folder, found)
    return splits


def _listed(folder: Path) -> Listing:
    found, extensions = Listing(), image_extensions()
    for file in sorted(_walk(folder, "", (), found)):
        suffix = PurePosixPath(file).suffix.lower()
        kinds = [(extensions, found.images), (_DATA, found.data), (TABLES, found.tables)]
        next((into for kind, into in kinds if suffix in kind), found.others).append(file)
    return found


def _walk(folder: Path, below: str, parents: tuple[tuple[int, int], ...], found: Listing) -> Iterator[str]:
    """All files in ``folder`` / ``below``, relative to it; links are followed, but not in circles."""
    try:
        status = (folder / below).stat()
        with os.scandir(folder / below) as scanned:
            entries = [(entry, entry.is_dir(), entry.is_file()) for entry in scanned]
    except OSError as error:
        raise ValueError(f"cannot read folder {error.filename!r}: {error.strerror}") from None
    itself = (status.st_dev, status.st_ino)
    if itself in parents or len(parents) > _MOST_DEPTH or (parents and not entries):
        found.left_out.append(below)
        return
    for entry, is_folder, is_file in entries:
        name = entry.name
        if is_folder and _UNREADABLE.search(name):
            raise ValueError(
                f"the name of a folder in {str(folder / below)!a} has a line break, a backslash or bytes "
                f"that are no UTF-8, {name!a}: rename it"
            )
        if is_folder and name not in _LEFT_BY_PROGRAMS:
            yield from _walk(folder, f"{below}{name}/", (*parents, itself), found)
        elif not is_folder and not is_file and not entry.is_symlink():
            found.left_out.append(f"{below}{name}")
        elif not is_folder and not name.startswith("._") and name.lower() not in _FILES_BY_PROGRAMS:
            yield f"{below}{name}"


def _split_folders(images: Iterable[str]) -> dict[str, str]:
    """The split of each folder at the top; nothing where these are classes.

    They are splits if one has a split's name: then it has classes in it, unless all images lie in folders
    at the top and two of those have other names.
    """
    parts = [image.split("/", 2) for image in images]
    tops = {first for first, *rest in parts if rest}
    words = {first for first in tops if first.lower() in SPLITS}
    has_classes = any(len(rest) > 1 for first, *rest in parts if first in words)
    if not words or (not has_classes and len(tops - words) > 1):
        return {}
    folders = {first: split_of(first) for first in sorted(tops)}
    same = [first for first, split in folders.items() if list(folders.values()).count(split) > 1]
    if same:
        raise ValueError(f"folders {', '.join(same)} are the same split: put their images into one of them")
    return folders


def _class_splits(folder: Path, found: Listing) -> dict[str, Rows] | None:
    """Splits whose classes are folders; None where there is a table and no split has two of them."""
    folders = _split_folders(found.images)
    levels = [image.count("/") - bool(folders) for image in found.images]
    by_split, loose = defaultdict[str, list[str]](list), list[str]()
    for image, level in zip(found.images, levels, strict=True):
        split = folders[image.partition("/")[0]] if folders and level >= 0 else TRAIN
        (by_split[split] if level == 1 else loose).append(image)
    splits = {split: _class_rows(split, folder, images) for split, images in by_split.items()}
    if found.tables and all(len(rows.columns["label"].names) < 2 for rows in splits.values()):
        return None
    if max(levels) > 1:
        raise ValueError(_too_deep(folder, found.images[levels.index(max(levels))]))
    if not splits:
        raise ValueError(
            f"no labels: images of {folder} lie in {_parent(loose[0])}, and a class is a sub-folder of it: "
            "put the images into one folder per class, with two classes or more, or give a table of "
            "file_name,label (data.table)"
        )
    found.left_out += loose
    found.others += found.tables
    return splits


def _class_rows(split: str, folder: Path, images: Sequence[str]) -> Rows:
    """Rows whose label is the folder of each image; equal names in other bytes of Unicode are one class."""
    arrow = require("pyarrow")
    labels = [unicodedata.normalize("NFC", PurePosixPath(image).parent.name) for image in images]
    names = tuple(sorted(set(labels)))
    number = {name: index for index, name in enumerate(names)}
    column = Column("class", "ClassLabel", names)
    values = arrow.array([number[label] for label in labels])
    return file_rows(split, folder, images, {"label": values}, {"label": column})


def _too_deep(folder: Path, image: str) -> str:
    return (
        f"no labels: images of {folder} lie in {_parent(image)}, and a class is a sub-folder of it, or of "
        "train/ and test/ in it: give the folder that the classes lie in, or put all images of a class into"
        " one folder"
    )


def _parent(image: str) -> str:
    parent = str(PurePosixPath(image).parent)
    return "the folder itself" if parent == "." else parent


def _nothing(folder: Path, others: Sequence[str]) -> str:
    archives = [other for other in others if other.lower().endswith(ARCHIVES)]
    if archives:
        return f"{folder} has no images, but the archive {archives[0]}: unpack it, and give its folder"
    also = f", only {_counted(others)}" if others else ""
    return (
        f"{folder} has no images or Parquet files{also}: give a folder with Parquet files, or with images "
        "as PNG, JPEG, TIFF, WebP, BMP or GIF"
    )


def _warn_of_left_out(folder: Path, found: Listing) -> None:
    """Say what lies in a folder and is not used; of what is no image, how much."""
    said = []
    if found.left_out:
        shown = ", ".join(sorted(found.left_out)[:_MOST_NAMED])
        more = len(found.left_out) - _MOST_NAMED
        said.append(f"{shown} and {more:,} more" if more > 0 else shown)
    others = [other for other in found.others if not _ABOUT.match(other)]
    if others:
        tables = any(PurePosixPath(other).suffix.lower() in TABLES for other in others)
        said.append(_counted(others) + (" (data.table takes labels from a table)" if tables else ""))
    if said:
        warnings.warn(f"not used, of what is in {folder}: {'; '.join(said)}", stacklevel=5)


def _counted(files: Sequence[str]) -> str:
    """Files by their extension, each with an example."""
    first: dict[str, str] = {}
    counts = Counter(PurePosixPath(file).suffix.lower() for file in files)
    for file in files:
        first.setdefault(PurePosixPath(file).suffix.lower(), file)
    return ", ".join(
        f"{count:,} {suffix or 'without extension'} such as {first[suffix]}"
        for suffix, count in counts.most_common(_MOST_NAMED)
    )
