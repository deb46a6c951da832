"""A local folder: the split and the class of each file, and the files that are not used."""

import csv
import io
import json
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, compress, pairwise
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from trifecta._utils.extras import IMAGE_FORMATS, pillow
from trifecta.data.decode import listed
from trifecta.data.rows import MISSING, NUMBERS, Rows, data_rows, file_rows, first_values

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Splits by the names that people give them, in lower case."""
# Images relative to the folder, the split of each, and columns of their labels and other values.
Images = tuple[list[str], list[str], dict[str, list[Any]]]
TABLES = (".csv", ".tsv", ".jsonl")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
# Columns of file names, in lower case, the likeliest first.
_NAME_COLUMNS = (
    *("file_name", "filename", "file", "image_path", "path", "image", "image_name", "image_id", "id"),
)
_MOST_TABLE_BYTES, _MOST_DEPTH = 2**28, 8
# Left behind by programs, thumbnails and copies among it.
_IGNORED = {
    *(".git", ".cache", ".ipynb_checkpoints", ".thumbnails", ".trashes", ".appledouble", "@eadir"),
    *("__macosx", "__pycache__", ".ds_store", "thumbs.db", "desktop.ini"),
}
# A column that divides rows into splits, such as cv_fold, data-split or is_test.
_SPLIT_COLUMN = re.compile(
    r"(?i)(\w+[_ .-])?(k?fold|split|set|subset|partition|usage)s?([_ .-](id|no|nr|name|number))?"
    r"|(is[_ .-]?)?(train|training|val|valid|validation|dev|test|testing)([_ .-]?(img|image|set|split))?"
)
# What a folder says about itself.
_ABOUT = re.compile(r"(?i)(readme|licen[cs]e|citation|\.git|\.huggingface|dataset_infos?\.json)[^/]*$")
_UNREADABLE = re.compile("[\r\n\\\\\udc80-\udcff]")


def split_of(name: str) -> str:
    """Return the split that a name stands for: ``Val`` is ``validation``; any other name is itself."""
    return SPLITS.get(name.lower(), name)


def find_images(path: Path) -> list[Path]:
    """Return the file ``path``, or all image files below the folder ``path`` but hidden ones, sorted."""
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


def list_folder(folder: Path, table: str | None = None) -> dict[str, Rows]:
    """Return the splits of a folder of images, Parquet files, or Arrow files of ``save_to_disk``.

    Labels are in ``table``, relative to the folder or to each split; None takes class folders, and looks
    for a table where there are fewer than two.
    """
    unused, kinds = list[str](), defaultdict[str, list[str]](list)
    kind_of = dict.fromkeys(image_extensions(), "image") | dict.fromkeys(TABLES, "table")
    kind_of |= {".parquet": "rows", ".arrow": "rows"}
    for file in sorted(_walk(folder, "", (), unused)):
        kinds[kind_of.get(_suffix(file), "other")].append(file)
    images, tables, rows = kinds["image"], kinds["table"], _without_copies(folder, kinds["rows"])
    copies = sorted({*kinds["rows"]} - {*rows})
    others = kinds["other"] + copies
    if images and rows:
        raise ValueError(f"{folder} has images, such as {images[0]}, and {rows[0]}: give one kind")
    if rows:
        _warn_of_unused(folder, listed(copies))
        return _data_splits(folder, rows)
    if not images:
        there = _counted([*others, *tables])
        told = f"{folder} has no images or Parquet files{there and f', only {there}'}"
        told += ": give a folder with images, and unpack an archive"
        raise ValueError(f"{told}; {NUMBERS}" if tables else told)
    folders, used = _split_folders(images, has_table=bool(tables)), list[str]()
    found = _in_folders(folder, images, folders, has_table=bool(tables)) if table is None else None
    if found is None:
        used = _chosen_tables(folder, tables, table)
        found = _in_tables(folder, images, folders, used)
    files, splits, _ = found
    unused += sorted({*images} - {*files})
    left = sorted(file for file in {*tables, *others} - {*used} if not _ABOUT.match(file))
    hint = " (data.table takes labels from a table)" if {*left} & {*tables} else ""
    _warn_of_unused(folder, listed(sorted(unused)), _counted(left) + hint)
    return {own: _image_rows(folder, own, found, has_classes=not used) for own in dict.fromkeys(splits)}


def _warn_of_unused(folder: Path, *told: str) -> None:
    if any(told):
        warnings.warn(f"not used, of what is in {folder}: {'; '.join(filter(None, told))}", stacklevel=6)


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _counted(files: Sequence[str]) -> str:
    counts = Counter(_suffix(file) or "without extension" for file in files)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(10))


def _image_rows(folder: Path, split: str, found: Images, *, has_classes: bool) -> Rows:
    """Return the rows of a split of image files; the labels of folders name classes."""
    every, splits, columns = found
    chosen = [own == split for own in splits]
    files = [*compress(every, chosen)]
    labels = {name: [*compress(own, chosen)] for name, own in columns.items()}
    paths = [folder / file for file in files]
    return file_rows(
        paths,
        pieces=16,
        size=2**11,
        split=split,
        columns={"image": ()} | {n: tuple(sorted(set(labels[n]))) if has_classes else () for n in labels},
        count=len(files),
        read={**labels, "image": paths}.__getitem__,
        files=files,
    )


def _walk(
    folder: Path, below: str, parents: tuple[tuple[int, int], ...], unused: list[str]
) -> Iterator[str]:
    """Yield all files in ``below``, relative to the folder; links are followed, but not in circles."""
    try:
        status = (folder / below).stat()
        with os.scandir(folder / below) as scanned:
            entries = [(e.name, e.is_dir(), e.is_file() or e.is_symlink()) for e in scanned]
    except OSError as error:
        raise ValueError(f"cannot read folder {error.filename!r}: {error.strerror}") from None
    itself = (status.st_dev, status.st_ino)
    if itself in parents or len(parents) > _MOST_DEPTH or (parents and not entries):
        unused.append(below)
        return
    for name, is_folder, is_file in entries:
        if name.lower() in _IGNORED or (not is_folder and name.startswith("._")):
            continue
        if is_folder and _UNREADABLE.search(name):
            raise ValueError(f"folder {below + name!a} has a name that cannot be shown: rename it")
        if is_folder:
            yield from _walk(folder, f"{below}{name}/", (*parents, itself), unused)
        elif is_file:
            yield f"{below}{name}"
        else:
            unused.append(f"{below}{name}")


def _split_folders(images: Sequence[str], *, has_table: bool) -> dict[str, str]:
    """Return the split of each folder at the top; nothing where these are classes.

    They are splits if one of them has a split's name, and at most one of the others has images of its own.
    Two folders of images alone, only one of which has a split's name, are classes if no table labels them.
    """
    inside = [image.split("/") for image in images if "/" in image]
    tops = {first for first, *_ in inside}
    named = {first for first in tops if first.lower() in SPLITS}
    if not named or len({parts[0] for parts in inside if len(parts) == 2} - named) > 1:
        return {}
    if named != tops and max(map(len, inside)) == 2 and not has_table:
        told = f"the folders {listed(sorted(tops))} are taken for classes, as they have images alone"
        warnings.warn(f"{told}: put class folders into each if they are splits", stacklevel=6)
        return {}
    folders = {first: split_of(first) for first in sorted(tops)}
    for split in folders.values():
        if len(own := [first for first in folders if folders[first] == split]) > 1:
            raise ValueError(f"the folders {' and '.join(own)} are the same split, {split}: make them one")
    return folders


def _in_folders(
    folder: Path, images: Sequence[str], folders: Mapping[str, str], *, has_table: bool
) -> Images | None:
    """Return images whose classes are folders; None where there is a table and no split has two of them."""
    level = 1 + bool(folders)
    files = [image for image in images if image.count("/") == level]
    splits = [folders.get(image.split("/")[0], TRAIN) for image in files]
    # Equal names in other bytes of Unicode are one class.
    labels = [normalize("NFC", image.split("/")[-2]) for image in files]
    classes = Counter(split for split, _ in {*zip(splits, labels, strict=True)})
    if has_table and max(classes.values(), default=0) < 2:
        return None
    deepest = max(images, key=lambda image: image.count("/"))
    if not files or deepest.count("/") > level:
        parent = deepest.rpartition("/")[0] or "the folder itself"
        raise ValueError(
            f"no labels: images of {folder} lie in {parent}, and a class is a sub-folder of it, or of "
            "train/ and test/ in it: put the images into one folder per class, with two classes or more, "
            "or give a table of file_name,label (data.table)"
        )
    return files, splits, {"label": labels}


def _chosen_tables(folder: Path, tables: Sequence[str], chosen: str | None) -> list[str]:
    """Return the chosen table, in the folder or in each split, or those named as tables of labels."""
    found = [name for name in tables if chosen in (None, name, name.partition("/")[2])]
    usual = [name for name in found if PurePosixPath(name).stem.lower() in {"metadata", *SPLITS}]
    if not usual and len({PurePosixPath(name).name for name in found}) != 1:
        there = listed(found) or f"no table {chosen}"
        raise ValueError(f"{folder} has {there}, not one of labels: data.table names one, as labels.csv")
    return usual or found


def _in_tables(
    folder: Path, images: Sequence[str], folders: Mapping[str, str], tables: Sequence[str]
) -> Images:
    """Return images whose labels are in tables.

    A split is told by a column ``split``, a table's name such as ``train.csv``, or the images' folder.
    """
    lines = list[tuple[str, str | None, dict[str, Any]]]()
    for name in tables:
        own = SPLITS.get(PurePosixPath(name).stem.lower()) if "/" not in name else None
        within = tuple(f"{first}/" for first, split in folders.items() if split == own) or ""
        there = [image for image in images if image.startswith(within)]
        lines += [(file, own, values) for file, values in _labelled(folder, name, there)]
    lines.sort(key=itemgetter(0))
    files = [file for file, *_ in lines]
    if twice := [file for file, following in pairwise(files) if file == following]:
        raise ValueError(f"{folder} has two lines for {twice[0]} in {listed(tables)}: keep one")
    names = dict.fromkeys(chain.from_iterable(values for *_, values in lines))
    columns = {name: _typed([values.get(name) for *_, values in lines]) for name in names}
    column, told = _split_column(columns, columns.__getitem__) or ("", [""] * len(lines))
    columns.pop(column, None)
    splits = [
        said or own or folders.get(file.partition("/")[0], TRAIN)
        for said, (file, own, _) in zip(told, lines, strict=True)
    ]
    return files, splits, columns


def _split_column(
    columns: Iterable[str], read: Callable[[str], Iterable[Any]]
) -> tuple[str, list[str]] | None:
    """Return the column that names the split of each row, and these splits; None if there is none."""
    for column in columns:
        named = [str(value) for value in read(column)] if column.lower() == "split" else []
        if any(name.lower() in SPLITS for name in named):
            return column, [split_of(name) for name in named]
    return None


def warn_of_split_columns(rows: Rows, used: Collection[str]) -> None:
    """Warn of columns other than ``used`` that seem, by name or values, to divide the rows into splits."""
    for name, first in first_values(rows).items():
        is_named = isinstance(first, str | int | float) and _SPLIT_COLUMN.fullmatch(name) is not None
        if name in used or not (is_named or (isinstance(first, str) and first.lower() in SPLITS)):
            continue
        values = sorted({str(own) for _, own in rows.labels(name)})
        if len(values) > 1 and (is_named or {own.lower() for own in values} <= {*SPLITS, "none"}):
            told = f"column '{name}' ({listed(values)}) looks like a split of its own and is not used"
            fix = "to use it, call it split, give each row train, validation or test"
            warnings.warn(f"{told}: {fix}, and drop data.hold_out", stacklevel=5)


def _labelled(folder: Path, name: str, images: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the images that a table names, each with the other values of its line."""
    table, inside = folder / name, name.rpartition("/")[0]
    lines = read_table(table)
    by_lower = {column.lower(): column for column in (lines[0] if lines else {})}
    named = next((by_lower[column] for column in _NAME_COLUMNS if column in by_lower), None)
    if named is None:
        raise ValueError(f"{table} has no column of file names, such as file_name: {', '.join(by_lower)}")
    # By path or by name, with or without extension.
    known = defaultdict[str, set[str]](set)
    for image in images:
        if image.startswith(f"{inside}/" if inside else ""):
            path, below = PurePosixPath(image), PurePosixPath(image).relative_to(inside)
            for key in (image, str(below), str(below.with_suffix("")), path.name, path.stem):
                known[normalize("NFC", key)].add(image)
    for line in lines:
        value = line.pop(named, None)
        wanted = normalize("NFC", str(value).strip().replace("\\", "/").removeprefix("./"))
        if len(known[wanted]) != 1:
            which = f"{len(known[wanted]) or 'no'} image in its folder"
            raise ValueError(f"table {table} has {value!r:.100}, which is {which}: give paths of images")
        yield min(known[wanted]), {key: value for key, value in line.items() if key != "image"}


def read_table(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a CSV, TSV or JSON lines file."""
    try:
        if file.stat().st_size > _MOST_TABLE_BYTES:
            raise ValueError(f"it is larger than {_MOST_TABLE_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".jsonl":
            return [dict(json.loads(line)) for line in text.splitlines() if line.strip()]
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, ""), delimiter=delimiter, strict=True, skipinitialspace=True)
        # Spaces around a value are no part of it: else "cat" and " cat" would be two classes.
        header, *lines = [[value.strip() for value in line] for line in reader if line] or [[]]
        if len(set(header)) < len(header):
            raise ValueError(f"two columns have the same name, of {', '.join(header)}")
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise ValueError(f"line {number} has {len(line)} values for {len(header)} columns")
        return [dict(zip(header, line, strict=True)) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error, RecursionError) as error:
        raise ValueError(f"cannot read table {file}: {' '.join(str(error).split())}") from None


def _typed(values: Sequence[Any]) -> list[Any]:
    """Return integers where all values are, else texts, and None for missing values."""
    texts = [None if value is None or str(value) in MISSING else str(value) for value in values]
    # 007 is a name: numbers are written as Python would.
    if all(text is None or re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) for text in texts):
        return [None if text is None else int(text) for text in texts]
    return texts


def _without_copies(folder: Path, files: Sequence[str]) -> list[str]:
    """Leave out the Arrow files that methods of ``datasets``, such as ``map``, put beside the data."""
    named = dict[Path, set[str] | None]()
    for parent in {(folder / file).parent for file in files if _suffix(file) == ".arrow"}:
        state = parent / "state.json"
        try:
            data = json.loads(state.read_text())["_data_files"] if state.is_file() else None
            named[parent] = data and {str(own["filename"]) for own in data}
        except (OSError, ValueError, LookupError, TypeError) as error:
            told = f"it names no _data_files ({type(error).__name__})"
            raise ValueError(f"cannot read {state}: {told}; save the data set again") from None
        if missing := [name for name in sorted(named[parent] or ()) if not (parent / name).is_file()]:
            raise ValueError(f"{state} names {listed(missing)}, not there: copy or save the data set again")

    def is_data(file: Path) -> bool:
        own = named.get(file.parent)
        return file.name in own if own else not re.fullmatch(r"cache-.*\.arrow", file.name)

    return [file for file in files if is_data(folder / file)]


def _require_whole(files: Sequence[str]) -> None:
    """Check that the files that say how many there are, as ``train-00000-of-00002``, are all, and once."""
    sets = defaultdict[str, list[tuple[str, int, int]]](list)
    for file in files:
        if said := re.match(r"(.*)-(\d{5})-of-(\d{5})(?!\d)[^/]*$", file):
            sets[said[1]].append((file, int(said[2]), int(said[3])))
    for name, own in sets.items():
        if sorted(number for _, number, _ in own) != [*range(own[0][2])] or len({n for *_, n in own}) > 1:
            there = listed([file for file, *_ in own])
            rule = f"files {name}-NUMBER-of-COUNT are as many as they say, each once"
            raise ValueError(f"{rule}: received {there}; add what is missing, and remove other copies")


def _data_splits(folder: Path, files: Sequence[str]) -> dict[str, Rows]:
    """Return the splits of Parquet or Arrow files, by their folder or a word of their name.

    Where these name a single one, a column ``split`` divides it.
    """
    suffixes = {_suffix(file) for file in files}
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
    _require_whole(files)
    splits = {split: data_rows(split, folder, own) for split, own in by_split.items()}
    for split, rows in splits.items():
        if (found := _split_column(rows.columns, rows.read)) is None:
            continue
        column, told = found
        if len(splits) == 1:
            others = {name: own for name, own in rows.columns.items() if name != column}
            whole, numbers = replace(rows, columns=others), range(len(told))
            return {
                name: replace(whole, split=name, left_out=frozenset(k for k in numbers if told[k] != name))
                for name in dict.fromkeys(told)
            }
        if {*told} != {split}:
            named = f"column '{column}' of split '{split}' names {listed(sorted({*told}))}"
            warnings.warn(f"{named}: it is not used, as the files' names tell the split", stacklevel=5)
    return splits


def _split_word(stem: str) -> str:
    """Return the word of a file's name that says its split: the first, or the only one that can."""
    name = re.sub(r"-\d{5}-of-\d{5}.*", "", stem)
    words = [word for word in re.split(r"[\W_]+", name) if word.lower() in SPLITS]
    return words[0] if len(words) == 1 or name.startswith(tuple(words[:1])) else name
