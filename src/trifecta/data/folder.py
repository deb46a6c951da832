"""A local folder: which of its files are of which split and class, and what is not used."""

import csv
import io
import json
import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from trifecta._utils.extras import IMAGE_FORMATS, pillow
from trifecta.data.decode import MOST_NAMED, GreyRange, decode_images, listed
from trifecta.data.rows import SPLITS, TRAIN, Column, Rows, data_rows, file_rows, split_of

TABLES = (".csv", ".tsv", ".jsonl")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
# Columns of file names, in lower case, the likeliest first.
_NAME_COLUMNS = (
    *("file_name", "filename", "file", "image_path", "path", "image", "image_name", "image_id", "id"),
)
_MOST_TABLE_BYTES = 2**28
# Left behind by programs, thumbnails and copies among it.
_IGNORED = {
    *(".git", ".cache", ".ipynb_checkpoints", ".thumbnails", ".trashes", ".appledouble", "@eadir"),
    *("__macosx", "__pycache__", ".ds_store", "thumbs.db", "desktop.ini"),
}
# What a folder says about itself.
_ABOUT = re.compile(
    r"(readme|licen[cs]e|citation|\.git|\.huggingface|dataset_infos?\.json)[^/]*$", re.IGNORECASE
)
_UNREADABLE = re.compile("[\r\n\\\\\udc80-\udcff]")
_MOST_DEPTH = 8


def find_images(path: Path) -> list[Path]:
    """Return the file ``path``, or all image files below the folder ``path`` but hidden ones, sorted.

    Raises:
        ValueError: there is nothing at ``path``, or no image.
        ImportError: Pillow is not installed.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no file or folder {path}: check the spelling")
    extensions = image_extensions()
    files = (file for file in path.rglob("*") if file.suffix.lower() in extensions)
    found = sorted(file for file in files if not file.name.startswith(".") and file.is_file())
    if not found:
        raise ValueError(f"no images in {path}: give an image, or a folder with images in it")
    return found


def image_extensions() -> set[str]:
    """Return the extensions of the formats that are read, such as ``.png``."""
    image = pillow()
    kinds = image.registered_extensions().items()
    return {extension for extension, kind in kinds if kind in image.OPEN and kind in IMAGE_FORMATS}


def read_images(
    paths: Sequence[Path],
    *,
    image_shape: tuple[int, int, int],
    grey_range: Sequence[int] | None = None,
) -> Tensor:
    """Decode files to the shape that a network takes.

    Args:
        paths: at least one file.
        image_shape: (C, H, W); C is 1 or 3.
        grey_range: 16-bit greys of the training images that became 0 and 255; None for 8 bits.

    Returns:
        ``(N, C, H, W)`` uint8, in the order of ``paths``.

    Raises:
        ValueError: there are no files, a file cannot be read, greys have another depth or range than the
            training images', or C is neither 1 nor 3.
        ImportError: Pillow is not installed.
    """
    channels, height, width = image_shape
    if channels not in {1, 3}:
        raise ValueError(f"image files have 1 or 3 channels, the network takes {channels}")
    if not paths:
        raise ValueError("no images to read: give at least one file")
    images = decode_images(
        len(paths),
        lambda start, stop: [(str(path), path) for path in paths[start:stop]],
        image_size=(height, width),
        channels=channels,
        grey_range=None if grey_range is None else GreyRange(*grey_range),
    )
    if grey_range is not None and (narrow := narrow_greys(images, grey_range)):
        warnings.warn(f"{narrow}: are they on the training images' scale?", stacklevel=3)
    return images


def narrow_greys(images: Tensor, grey_range: Sequence[int]) -> str:
    """Describe scaled 16-bit images that use less than a 16th of the training images' range, if they do."""
    if np.ptp(images.numpy()) >= 16:
        return ""
    used = f"they use less than a 16th of {grey_range[0]} to {grey_range[1]}"
    return f"images have greys of another range than the training images: {used}"


@dataclass
class Listing:
    """Files below a folder, relative to it, in the order of their paths."""

    folder: Path
    images: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def list_folder(folder: Path, table: str | None = None) -> dict[str, Rows]:
    """Return the splits of a folder of images, Parquet files, or Arrow files of ``save_to_disk``.

    Args:
        folder: absolute; only links in it lead outside.
        table: file of labels, relative to the folder or to each split; None takes class folders, and looks
            for a table where there are fewer than two.

    Raises:
        ValueError: there is nothing to read, or its classes are ambiguous.
    """
    found = Listing(folder)
    lists = dict.fromkeys(image_extensions(), found.images)
    lists |= {".parquet": found.data, ".arrow": found.data} | dict.fromkeys(TABLES, found.tables)
    for file in sorted(_walk(found, "", ())):
        lists.get(PurePosixPath(file).suffix.lower(), found.others).append(file)
    if found.images and found.data:
        raise ValueError(
            f"{folder} has images, such as {found.images[0]}, and {found.data[0]}: give one kind"
        )
    if found.data:
        return _data_splits(folder, found.data)
    if not found.images:
        others = [*found.others, *found.tables]
        what = (
            f" or Parquet files{f', only {_counted(others)}' if others else ''}: give a folder with images"
        )
        for archive in [other for other in others if other.lower().endswith(ARCHIVES)][:1]:
            what = f", but the archive {archive}: unpack it, and give its folder"
        raise ValueError(f"{folder} has no images{what}")
    folders = _split_folders(found.images)
    splits = _class_splits(found, folders) if table is None else None
    splits = _table_splits(found, folders, table) if splits is None else splits
    said = [listed(sorted(found.unused))] if found.unused else []
    if others := [other for other in found.others if not _ABOUT.match(other)]:
        hint = " (data.table takes labels from a table)" if set(others) & set(found.tables) else ""
        said.append(_counted(others) + hint)
    if said:
        warnings.warn(f"not used, of what is in {folder}: {'; '.join(said)}", stacklevel=5)
    return splits


def _counted(files: Sequence[str]) -> str:
    """Count files by their extension, each with an example."""
    by_suffix = defaultdict[str, list[str]](list)
    for file in files:
        by_suffix[PurePosixPath(file).suffix.lower()].append(file)
    most = sorted(by_suffix.items(), key=lambda item: -len(item[1]))[:MOST_NAMED]
    return ", ".join(
        f"{len(own):,} {suffix or 'without extension'} such as {own[0]}" for suffix, own in most
    )


def _walk(found: Listing, below: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield all files below a folder, relative to the listing's; links are followed, but not in circles."""
    here = found.folder / below
    try:
        status = here.stat()
        with os.scandir(here) as scanned:
            entries = [(entry, entry.is_dir(), entry.is_file()) for entry in scanned]
    except OSError as error:
        raise ValueError(f"cannot read folder {error.filename!r}: {error.strerror}") from None
    itself = (status.st_dev, status.st_ino)
    if itself in parents or len(parents) > _MOST_DEPTH or (parents and not entries):
        found.unused.append(below)
        return
    for entry, is_folder, is_file in entries:
        name = entry.name
        if name.lower() in _IGNORED or (not is_folder and name.startswith("._")):
            continue
        if is_folder and _UNREADABLE.search(name):
            raise ValueError(f"folder {name!a} in {str(here)!a} has a name that cannot be shown: rename it")
        if is_folder:
            yield from _walk(found, f"{below}{name}/", (*parents, itself))
        elif is_file or entry.is_symlink():
            yield f"{below}{name}"
        else:
            found.unused.append(f"{below}{name}")


def _split_folders(images: Sequence[str]) -> dict[str, str]:
    """Return the split of each folder at the top; nothing where these are classes.

    They are splits if one of them has a split's name, and that has folders of images in it or at most one
    other folder beside it.
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


def _class_splits(found: Listing, folders: Mapping[str, str]) -> dict[str, Rows] | None:
    """Return splits whose classes are folders; None where there is a table and no split has two of them."""
    by_split, loose, level = defaultdict[str, list[str]](list), list[str](), 1 + bool(folders)
    for image in found.images:
        split = folders.get(image.partition("/")[0], TRAIN)
        (by_split[split] if image.count("/") == level else loose).append(image)
    splits = {}
    for split, images in by_split.items():
        # Equal names in other bytes of Unicode are one class.
        labels = [unicodedata.normalize("NFC", PurePosixPath(image).parent.name) for image in images]
        names = tuple(sorted(set(labels)))
        number = {name: index for index, name in enumerate(names)}
        columns = {"label": Column("class", "ClassLabel", names)}
        values = {"label": [number[label] for label in labels]}
        splits[split] = file_rows(split, found.folder, images, values, columns)
    if found.tables and all(len(rows.columns["label"].names) < 2 for rows in splits.values()):
        return None
    deep = [image for image in loose if image.count("/") > level]
    if deep or not splits:
        parent = (deep or loose)[0].rpartition("/")[0] or "the folder itself"
        raise ValueError(
            f"no labels: images of {found.folder} lie in {parent}, and a class is a sub-folder of it, or "
            "of train/ and test/ in it: give the folder that the classes lie in, put the images into one "
            "folder per class, with two classes or more, or give a table of file_name,label (data.table)"
        )
    tops = sorted({image.partition("/")[0] for image in loose if "/" in image})
    classes = [top for top in tops if top.lower() not in SPLITS]
    if len(classes) > 1:
        raise ValueError(
            f"folders {listed(classes)} of {found.folder} have images in them as classes have, and "
            f"{', '.join(splits)} has folders of images as a split has: move one kind elsewhere"
        )
    found.unused += loose
    found.others += found.tables
    return splits


def _table_splits(found: Listing, folders: Mapping[str, str], chosen: str | None) -> dict[str, Rows]:
    """Return splits whose labels are in tables.

    A split is told by a table's name such as ``train.csv``, the images' folder, or a column ``split``.
    """
    splits: dict[str, Rows] = {}
    for name in _chosen_tables(found, folders, chosen):
        own = SPLITS.get(PurePosixPath(name).stem.lower()) if "/" not in name else None
        within = tuple(f"{first}/" for first, split in folders.items() if split == own) or ""
        files, columns = _labelled(
            found, name, [image for image in found.images if image.startswith(within)]
        )
        told = [str(value) for value in columns.get("split", [])]
        if any(split.lower() in SPLITS for split in told):
            del columns["split"]
        else:
            told = [TRAIN] * len(files)
        by_split = defaultdict[str, list[int]](list)
        for row in sorted(range(len(files)), key=files.__getitem__):
            split = own or folders.get(files[row].partition("/")[0]) or split_of(told[row])
            by_split[split].append(row)
        kinds = {column: _kind(values) for column, values in columns.items()}
        for split, rows in by_split.items():
            if split in splits:
                raise ValueError(
                    f"several tables, {name} among them, label split '{split}': choose data.table"
                )
            labels = {column: [values[row] for row in rows] for column, values in columns.items()}
            splits[split] = file_rows(split, found.folder, [files[row] for row in rows], labels, kinds)
    used = {file for rows in splits.values() for file in rows.files}
    found.unused += [image for image in found.images if image not in used]
    return splits


def _chosen_tables(found: Listing, splits: Mapping[str, str], chosen: str | None) -> list[str]:
    """Return the chosen table, or the one of each folder: ``metadata``, the only one, or one per split."""
    if chosen is not None:
        names = {chosen, *(f"{split}/{chosen}" for split in splits)} & set(found.tables)
        if not names:
            raise ValueError(
                f"no table {chosen} in {found.folder}, which has {listed(found.tables) or 'none'}: "
                f"data.table names a file {', '.join(TABLES)} in it, or in each split"
            )
        return sorted(names)
    by_folder = defaultdict[str, dict[str, str]](dict)
    for name in found.tables:
        by_folder[str(PurePosixPath(name).parent)][name] = PurePosixPath(name).stem.lower()
    tables = []
    for stems in by_folder.values():
        best = [name for name, stem in stems.items() if stem == "metadata"] or list(stems)
        if len(best) > 1 and not all(stem in SPLITS for stem in stems.values()):
            raise ValueError(
                f"{found.folder} has no folders of classes, and several tables, {listed(best)}: choose "
                "the one with the labels by data.table"
            )
        tables += best
    return tables


def _labelled(found: Listing, name: str, images: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the images that a table names, and its other columns."""
    table, inside = found.folder / name, name.rpartition("/")[0]
    columns = read_table(table)
    by_lower = {column.strip().lower(): column for column in columns}
    named = next((by_lower[column] for column in _NAME_COLUMNS if column in by_lower), None)
    if named is None:
        raise ValueError(
            f"{table} has no column of file names, such as file_name, among {', '.join(columns)}"
        )
    # By path or by name, with or without extension.
    known = defaultdict[str, set[str]](set)
    for image in images:
        path = PurePosixPath(image)
        for key in (image, path.name, path.stem, str(path.with_suffix(""))):
            known[unicodedata.normalize("NFC", key)].add(image)
    files = dict[str, None]()
    for value in columns[named]:
        wanted = unicodedata.normalize("NFC", str(value).strip().replace("\\", "/").removeprefix("./"))
        there = known.get(f"{inside}/{wanted}" if inside else wanted) or known.get(wanted, set())
        within = [image for image in there if not inside or image.startswith(f"{inside}/")]
        if len(within) != 1:
            which = f"several images, such as {min(within)}" if within else "no image in its folder"
            raise ValueError(f"table {table} has {value!r:.100}, which is {which}: give paths of images")
        if within[0] in files:
            raise ValueError(f"table {table} has {within[0]} twice: keep one line")
        files[within[0]] = None
    return list(files), {key: _typed(own) for key, own in columns.items() if key not in {named, "image"}}


def read_table(file: Path) -> dict[str, list[Any]]:
    """Return the columns of a CSV, TSV or JSON lines file.

    Raises:
        ValueError: it cannot be read, lines differ in length, or it is larger than tables of labels are.
    """
    try:
        if file.stat().st_size > _MOST_TABLE_BYTES:
            raise ValueError(f"it is larger than {_MOST_TABLE_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            header = list(rows[0]) if rows else []
            if any(set(row) != set(header) for row in rows):
                raise ValueError(f"not every line is an object with {', '.join(header)}")
            return {name: [row[name] for row in rows] for name in header}
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, ""), delimiter=delimiter, strict=True, skipinitialspace=True)
        # Spaces around a value are no part of it: else "cat" and " cat" would be two classes.
        header, *lines = [[value.strip() for value in line] for line in reader if line] or [[]]
        if len(set(header)) < len(header):
            raise ValueError(f"two columns have the same name, of {', '.join(header)}")
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise ValueError(f"line {number} has {len(line)} values for {len(header)} columns")
        return {name: [line[column] for line in lines] for column, name in enumerate(header)}
    except (OSError, ValueError, TypeError, csv.Error, RecursionError) as error:
        raise ValueError(f"cannot read table {file}: {' '.join(str(error).split())}") from None


def _typed(values: Sequence[Any]) -> list[Any]:
    """Return numbers where all texts are, None for missing values, and texts for mixed types."""
    values = [None if value == "" else value for value in values]
    there = [value for value in values if value is not None]
    # 007 is a name: numbers are written as Python would.
    if all(isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) for value in there):
        return [None if value is None else int(value) for value in values]
    if len(set(map(type, there))) > 1 or any(isinstance(value, dict | list) for value in there):
        return [None if value is None else str(value) for value in values]
    return values


def _kind(values: Sequence[Any]) -> Column:
    kinds = {int: ("integer", "int64"), bool: ("integer", "bool"), str: ("text", "string")}
    first = next((value for value in values if value is not None), None)
    return Column(*kinds.get(type(first), ("other", "other")))


def _data_splits(folder: Path, files: Sequence[str]) -> dict[str, Rows]:
    """Return the splits of Parquet or Arrow files, by their folder or a word of their name."""
    suffixes = {PurePosixPath(file).suffix.lower() for file in files}
    if len(suffixes) > 1:
        raise ValueError(f"{folder} has files {' and '.join(sorted(suffixes))}: give one kind")
    inner = {file: file.removeprefix("data/") for file in files}
    tops = {path.partition("/")[0] for path in inner.values() if "/" in path}
    if tops and not any(top.lower() in SPLITS for top in tops):
        if len(tops) > 1 or any("/" not in path for path in inner.values()):
            raise ValueError(f"{folder} has {listed(sorted(tops))}: choose a data set with data.subset")
        return _data_splits(folder / tops.pop(), [path.partition("/")[2] for path in inner.values()])
    words = {
        file: path.partition("/")[0] if "/" in path else _split_word(PurePosixPath(path).stem)
        for file, path in inner.items()
    }
    names_splits = any(word.lower() in SPLITS for word in words.values())
    by_split = defaultdict[str, list[str]](list)
    for file, word in words.items():
        by_split[split_of(word) if names_splits else TRAIN].append(file)
    return {split: data_rows(split, folder, own) for split, own in by_split.items()}


def _split_word(stem: str) -> str:
    """Return the word of a file's name that says its split: the first, or the only one that can."""
    name = re.sub(r"-\d{5}-of-\d{5}.*", "", stem)
    words = [word for word in re.split(r"[\W_]+", name) if word.lower() in SPLITS]
    return words[0] if len(words) == 1 or name.startswith(tuple(words[:1])) else name
