"""Labels of image files from a table beside them, such as ``labels.csv`` or ``metadata.jsonl``."""

import csv
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trifecta._utils.extras import require
from trifecta.data.arrow_files import columns_of
from trifecta.data.images import SPLITS, TRAIN, split_of
from trifecta.data.rows import Column, Rows, file_rows

TABLES = (".csv", ".tsv", ".jsonl")
# Lower case, the likeliest first.
NAME_COLUMNS = (
    *("file_name", "filename", "file", "image_path", "path", "image", "image_name", "image_id", "id"),
)
# Its values say which split a row is of, where neither folders nor the table's name do.
SPLIT_COLUMN = "split"
MOST_BYTES = 2**28
MOST_LINE_BYTES = 2**20
_MOST_NAMED = 10

Plain = dict[str, list[Any]]


def read_table(file: Path) -> Plain:
    """Return the columns of a table.

    Raises:
        ValueError: it cannot be read, has a line of another length, or is larger than tables of labels are.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = _short(opened)
            rows = _json_rows(lines) if file.suffix.lower() == ".jsonl" else _csv_rows(lines)
            columns: Plain = {}
            for row in rows:
                for name, value in row.items():
                    columns.setdefault(name, []).append(value)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"cannot read table {file}: {' '.join(str(error).split())}") from None
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError(f"cannot read table {file}: not every line has {', '.join(columns)}")
    return columns


def _short(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"line {number} is longer than {MOST_LINE_BYTES:,} characters")
        yield line


def _json_rows(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield row


def _csv_rows(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    (header,) = csv.reader([first], delimiter=delimiter, skipinitialspace=True) if first.strip() else ([],)
    header = [name.strip() for name in header]
    if len(set(header)) < len(header):
        raise ValueError(f"two columns have the same name, of {', '.join(header)}")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for number, row in enumerate(reader, 2):
        if row and len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} values for {len(header)} columns")
        # Spaces around a value are no part of it: else "cat" and " cat" would be two classes.
        yield dict(zip(header, map(str.strip, row), strict=False)) if row else {}


def name_column(table: Plain, file: Path) -> str:
    """The column with the names of image files.

    Raises:
        ValueError: there is none.
    """
    by_lower = {name.strip().lower(): name for name in table}
    found = next((by_lower[name] for name in NAME_COLUMNS if name in by_lower), None)
    if found is None:
        raise ValueError(
            f"table {file} has no column of file names, such as file_name or id: it has "
            f"{', '.join(table) or 'no columns'}"
        )
    return found


class Places:
    """Where the images are that a table names, by path, by name, or by name without its extension."""

    def __init__(self, images: Sequence[str]) -> None:
        self._found: dict[str, set[str]] = {}
        for image in images:
            path = PurePosixPath(image)
            for name in {image, path.name, path.stem, str(path.with_suffix(""))}:
                self._found.setdefault(_normal(name), set()).add(image)

    def find(self, name: Any, folder: str, file: Path) -> str:
        """The image called ``name`` in a table in ``folder``; both relative, "" for the source itself.

        Raises:
            ValueError: there is none, or there are several.
        """
        wanted = _normal(str(name).strip().replace("\\", "/").removeprefix("./"))
        found = self._found.get(f"{folder}/{wanted}" if folder else wanted) or self._found.get(
            wanted, set()
        )
        within = {image for image in found if image.startswith(f"{folder}/")} if folder else found
        if len(within) != 1:
            which = f"several images, such as {sorted(within)[0]}" if within else "no image in its folder"
            raise ValueError(
                f"table {file} has {name!r:.100}, which is {which}: give paths of images there"
            )
        return next(iter(within))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def labels_of(table: Plain, without: str, file: Path) -> tuple[Mapping[str, Any], Mapping[str, Column]]:
    """Arrow arrays of a table's other columns, and what they hold."""
    arrow = require("pyarrow")
    plain = {name: _typed(values) for name, values in table.items() if name not in {without, "image"}}
    try:
        whole = arrow.table({name: arrow.array(values) for name, values in plain.items()})
    except (arrow.ArrowException, OverflowError) as error:
        raise ValueError(f"cannot read table {file}: {' '.join(str(error).split())}") from None
    return {name: whole.column(name) for name in plain}, columns_of(whole.schema)


def _typed(values: list[Any]) -> list[Any]:
    """Numbers where all texts are; missing values as None; texts where they are of several types."""
    values = [None if value == "" else value for value in values]
    there = [value for value in values if value is not None]
    if all(isinstance(value, str) and _is_number(value) for value in there):
        return [None if value is None else int(value) for value in values]
    if len({type(value) for value in there}) > 1 or any(isinstance(value, dict | list) for value in there):
        return [None if value is None else str(value) for value in values]
    return values


def _is_number(text: str) -> bool:
    """Whether a whole number is written as Python would: 007 is a name."""
    return text.removeprefix("-").isdecimal() and len(text) < 19 and str(int(text)) == text


def table_splits(
    folder: Path,
    images: Sequence[str],
    tables: Sequence[str],
    folders: Mapping[str, str],
    chosen: str | None,
) -> dict[str, Rows]:
    """Splits whose labels stand in tables.

    A table's name such as ``train.csv``, its images' folders, or a column ``split`` tell the split.

    Args:
        folder: that all files lie in.
        images: relative to it.
        tables: likewise.
        folders: splits by the folders at the top.
        chosen: relative to ``folder`` or to each split; None takes the only table of each folder.

    Raises:
        ValueError: a table cannot be read, or names images that are not there.
    """
    splits: dict[str, Rows] = {}
    for name in _chosen(folder, tables, folders, chosen):
        own = SPLITS.get(PurePosixPath(name).stem.lower()) if "/" not in name else None
        within = tuple(f"{first}/" for first, split in folders.items() if split == own) or ""
        places = Places([image for image in images if image.startswith(within)])
        files, labels, kinds = _labelled(folder, name, places)
        told = _told_splits(labels)
        labels = {name: values for name, values in labels.items() if name != SPLIT_COLUMN or not told}
        kinds = {name: kinds[name] for name in labels}
        by_split = defaultdict[str, list[int]](list)
        for row in sorted(range(len(files)), key=files.__getitem__):
            split = told[row] if told else TRAIN
            by_split[own or folders.get(files[row].partition("/")[0], split)].append(row)
        for split, rows in by_split.items():
            if split in splits:
                raise ValueError(
                    f"several tables in {folder} label split '{split}', {name} among them: choose with "
                    "data.table"
                )
            taken = {column: values.take(rows) for column, values in labels.items()}
            splits[split] = file_rows(split, folder, [files[row] for row in rows], taken, kinds)
    return splits


def _told_splits(labels: Mapping[str, Any]) -> list[str]:
    """The split that each row names; none where no column has names of splits."""
    column = labels.get(SPLIT_COLUMN)
    told = [] if column is None else [str(value) for value in column.to_pylist()]
    return [split_of(name) for name in told] if any(name.lower() in SPLITS for name in told) else []


def _labelled(
    folder: Path, name: str, places: Places
) -> tuple[list[str], Mapping[str, Any], Mapping[str, Column]]:
    """Images of a table, and its other columns."""
    file, inside = folder / name, name.rpartition("/")[0]
    columns = read_table(file)
    named = name_column(columns, file)
    files = [places.find(value, inside, file) for value in columns[named]]
    if len(set(files)) < len(files):
        raise ValueError(f"table {file} has {Counter(files).most_common(1)[0][0]} twice: keep one line")
    return files, *labels_of(columns, named, file)


def _chosen(folder: Path, tables: Sequence[str], splits: Iterable[str], chosen: str | None) -> list[str]:
    """The tables to read: the one that was chosen, or the only one of each folder that has any."""
    if chosen is not None:
        found = [name for name in tables if name in {chosen, *(f"{split}/{chosen}" for split in splits)}]
        if not found:
            raise ValueError(
                f"no table {chosen} in {folder}, which has {', '.join(tables[:_MOST_NAMED]) or 'none'}: "
                f"data.table names a file {', '.join(TABLES)} in it, or in each split"
            )
        return found
    by_folder = defaultdict[str, list[str]](list)
    for name in tables:
        by_folder[str(PurePosixPath(name).parent)].append(name)
    return [name for names in by_folder.values() for name in _only(folder, names)]


def _only(folder: Path, names: list[str]) -> list[str]:
    """The table of one folder: ``metadata``, or the only one; or one a split."""
    stems = [PurePosixPath(name).stem.lower() for name in names]
    best = [name for name, stem in zip(names, stems, strict=True) if stem == "metadata"] or names
    if len(best) > 1 and not all(stem in SPLITS for stem in stems):
        raise ValueError(
            f"{folder} has no folders of classes, and several tables, {', '.join(best[:_MOST_NAMED])}: "
            "choose the one with the labels by data.table"
        )
    return best
