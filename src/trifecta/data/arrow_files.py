"""Rows of Arrow tables and Parquet files."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import require
from trifecta.data.decode import Encoded
from trifecta.data.images import SPLITS, TRAIN, split_of
from trifecta.data.rows import Column, Rows, sampled

# The description of a Parquet file is at its end, and holds the names of its classes.
MOST_FOOTER_BYTES = 2**26
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def data_splits(folder: Path, files: Sequence[str]) -> dict[str, Rows]:
    """Splits of Parquet or Arrow files, by their folder or a word of their name.

    Args:
        folder: that they lie in.
        files: relative to it.

    Raises:
        ValueError: they are of several data sets, or one cannot be read.
    """
    suffixes = {PurePosixPath(file).suffix.lower() for file in files}
    if len(suffixes) > 1:
        raise ValueError(
            f"{folder} has files {' and '.join(sorted(suffixes))}: give a folder with one kind"
        )
    inner = {file: file.removeprefix("data/") for file in files}
    tops = {path.partition("/")[0] for path in inner.values() if "/" in path}
    has_splits = any(top.lower() in SPLITS for top in tops)
    if tops and not has_splits:
        if len(tops) > 1 or any("/" not in path for path in inner.values()):
            raise ValueError(
                f"{folder} has several data sets, {', '.join(sorted(tops))}: choose one with data.subset"
            )
        return data_splits(folder / tops.pop(), [path.partition("/")[2] for path in inner.values()])
    words = {
        file: path.partition("/")[0] if "/" in path else _word(PurePosixPath(path).stem)
        for file, path in inner.items()
    }
    if not any(word.lower() in SPLITS for word in words.values()):
        words = dict.fromkeys(words, TRAIN)
    by_split = defaultdict[str, list[str]](list)
    for file, word in words.items():
        by_split[split_of(word)].append(file)
    rows = parquet_rows if suffixes == {".parquet"} else arrow_rows
    return {split: rows(split, folder, own) for split, own in by_split.items()}


def _word(stem: str) -> str:
    """What says the split in the name of a Parquet file: its first word, else the only one that can."""
    shard = _SHARD.match(stem)
    name = shard[1] if shard else stem
    words = [word for word in re.split(r"[\W_]+", name) if word.lower() in SPLITS]
    return words[0] if len(words) == 1 or name.startswith(tuple(words[:1])) else name


def table_rows(split: str, table: Any, folders: tuple[Path, ...], content: Callable[[], str]) -> Rows:
    """Rows of an Arrow table, whose images may lie in ``folders``."""

    def encoded(column: str, start: int, stop: int) -> list[Encoded]:
        values = table.column(column).slice(start, stop - start).to_pylist()
        return [_encoded(value, split, row, folders) for row, value in enumerate(values, start)]

    return Rows(
        split=split,
        columns=columns_of(table.schema),
        count=table.num_rows,
        values=table.column,
        encoded=encoded,
        content=content,
    )


def arrow_rows(split: str, folder: Path, files: Sequence[str]) -> Rows:
    """Rows of Arrow files, as ``Dataset.save_to_disk`` leaves them; they stay on the disk.

    Raises:
        ValueError: one cannot be read, or they have other columns.
    """
    arrow = require("pyarrow")

    def read(file: Path) -> Any:
        table = arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all()
        table.validate(full=True)
        return table

    paths = [folder / file for file in files]
    tables = [_readable(path, read) for path in paths]
    _check_alike(paths, [table.schema for table in tables])
    whole = arrow.concat_tables(tables)
    rows = table_rows(split, whole, (folder,), lambda: sampled(paths, pieces=64, size=2**20))
    return replace(rows, files=files)


def parquet_rows(split: str, folder: Path, files: Sequence[str]) -> Rows:
    """Rows of Parquet files in their order; images are read a row group at a time.

    Raises:
        ValueError: one cannot be read, or they have other columns.
    """
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    paths = [folder / file for file in files]
    opened = [_readable(path, _parquet) for path in paths]
    _check_alike(paths, [file.schema_arrow for file in opened])

    def values(column: str) -> Any:
        read = [
            _readable(path, lambda path: parquet.read_table(arrow.memory_map(str(path)), columns=[column]))
            for path in paths
        ]
        return arrow.concat_tables(read).column(column)

    cells = _cells(paths, opened)
    return Rows(
        split=split,
        columns=columns_of(opened[0].schema_arrow),
        count=sum(file.metadata.num_rows for file in opened),
        values=values,
        encoded=lambda column, start, stop: [
            _encoded(value, split, row, (folder,))
            for row, value in enumerate(cells(column, start, stop), start)
        ],
        content=lambda: sampled(paths, pieces=64, size=2**20),
        files=files,
    )


def _cells(paths: Sequence[Path], opened: Sequence[Any]) -> Callable[[str, int, int], list[Any]]:
    """Return a function that gives the values of a column from one row up to another."""
    groups = [
        (path, number, file.metadata.row_group(number).num_rows)
        for path, file in zip(paths, opened, strict=True)
        for number in range(file.num_row_groups)
    ]
    starts = np.cumsum([0, *(rows for *_, rows in groups)]).tolist()
    lock = Lock()

    # Threads ask for neighbouring rows, which mostly lie in one group.
    @lru_cache(maxsize=2)
    def group(index: int, column: str) -> Any:
        path, number, _ = groups[index]
        return _readable(path, lambda path: _row_group(path, number, column))

    def cells(column: str, start: int, stop: int) -> list[Any]:
        values: list[Any] = []
        for index, first in enumerate(starts[:-1]):
            if first < stop and starts[index + 1] > start:
                with lock:
                    whole = group(index, column)
                skipped = max(start - first, 0)
                values += whole.slice(skipped, stop - first - skipped).to_pylist()
        return values

    return cells


def _parquet(file: Path) -> Any:
    """Open a Parquet file whose description is of a sane size."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 8))
        footer_bytes = int.from_bytes(opened.read(4), "little")
    if footer_bytes > MOST_FOOTER_BYTES:
        raise ValueError(f"its description takes {footer_bytes:,} bytes, more than {MOST_FOOTER_BYTES:,}")
    return require("pyarrow.parquet").ParquetFile(file)


def _row_group(file: Path, number: int, column: str) -> Any:
    opened = _parquet(file)
    needed = opened.metadata.row_group(number).total_byte_size
    require_memory(needed, f"a row group of {file}", "write it with smaller row groups")
    return opened.read_row_group(number, columns=[column]).column(column)


def _readable(file: Path, read: Callable[[Path], Any]) -> Any:
    """Return what ``read`` makes of a file; errors name it."""
    try:
        return read(file)
    except (require("pyarrow").ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot read {file}: {' '.join(str(error).split()).rstrip('.')}") from error


def _check_alike(paths: Sequence[Path], schemas: Sequence[Any]) -> None:
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]) or columns_of(schema) != columns_of(schemas[0]):
            raise ValueError(f"{path} has other columns or classes than {paths[0]}: one split has the same")


def columns_of(schema: Any) -> dict[str, Column]:
    """What the columns of an Arrow schema hold, by their types and the metadata of Hugging Face."""
    features = _features(schema.metadata or {})
    columns = {field.name: _column(field.type, features.get(field.name)) for field in schema}
    if len(columns) < len(schema):
        raise ValueError(f"two columns have the same name, of {', '.join(schema.names)}")
    return columns


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The features that ``datasets`` has noted; none where it has not."""
    try:
        plain = json.loads(metadata.get(b"huggingface", b"{}"))
        features = plain["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(dtype: Any, feature: Any) -> Column:
    types = require("pyarrow").types
    noted = feature if isinstance(feature, dict) else {}
    names = noted.get("names")
    is_struct = types.is_struct(dtype) and dtype.get_field_index("bytes") >= 0
    if noted.get("_type") == "ClassLabel" and types.is_integer(dtype) and isinstance(names, list):
        return Column("class", "ClassLabel", tuple(map(str, names)))
    if noted.get("_type") == "Image" or (is_struct and _is_binary(dtype.field("bytes").type)):
        return Column("image", "Image" if noted else "struct")
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    kinds = {
        "integer": types.is_integer(dtype) or types.is_boolean(dtype),
        "text": types.is_string(dtype) or types.is_large_string(dtype),
        "binary": _is_binary(dtype),
    }
    kind = next((kind for kind, fits in kinds.items() if fits), "other")
    return Column(kind, "struct" if types.is_struct(dtype) else str(dtype))


def _is_binary(dtype: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_binary(dtype) or types.is_large_binary(dtype))


def _encoded(value: Any, split: str, row: int, folders: tuple[Path, ...]) -> Encoded:
    """One image; what it is called counts rows from 0."""
    where = f"in row {row} of split '{split}'"
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return where, data
    if isinstance(path, str):
        if not _is_within(path, folders):
            raise ValueError(
                f"the image {where} is a file outside the source, {path!r:.100}: it is not read"
            )
        return path, Path(path)
    raise ValueError(f"there is no image {where}")


def _is_within(path: str, folders: tuple[Path, ...]) -> bool:
    """Whether ``path`` lies in one of ``folders``, by its name: links in them are the user's own."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  (resolve would follow links)
    return any(whole.is_relative_to(folder) for folder in folders)
