"""A split as a table: one column of encoded images, one of labels, whatever files hold it."""

import hashlib
import json
import os
import re
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from io import BytesIO
from itertools import accumulate, chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import open_image, require
from trifecta.data.decode import Encoded, in_threads

T = TypeVar("T")

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Splits by the names that people give them, in lower case."""
# Of columns and of mappings, the likeliest first.
IMAGE_NAMES = ("image", "images", "img", "sample", "samples", "pixel_values", "data", "x", "features")
LABEL_NAMES = ("label", "labels", "target", "targets", "class", "y")
LABEL_KINDS = ("class", "integer", "text")

# Kinds of columns by Arrow's names of their types.
_KINDS = {
    "integer": r"(u?int\d+|bool)$",
    "text": r"(large_)?string$",
    "binary": r"(large_)?binary$",
    "image": r"struct<(.*, )?bytes: (large_)?binary\b",
}
# The description of a Parquet file, at its end, holds the names of its classes.
_MOST_FOOTER_BYTES = 2**26
# No head has that many classes of which training images show but a tenth.
_MOST_UNSEEN = 1000
# Rows in which an encoded image is looked for.
_TRIED = 100


def split_of(name: str) -> str:
    """Return the split that a name stands for: ``Val`` is ``validation``; any other name is itself."""
    return SPLITS.get(name.lower(), name)


class Column(NamedTuple):
    """Content of a column.

    Attributes:
        kind: ``image``, ``class`` (integers with names), ``integer``, ``text``, ``binary`` or ``other``.
        type: for messages.
        names: class names, for ``class``.
    """

    kind: str
    type: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """The rows of a split.

    Attributes:
        split: its name.
        columns: by name.
        count: number of rows.
        values: returns all values of a column.
        encoded: returns the images of a column from one row up to another.
        content: returns a digest of everything that the pixels depend on.
        files: of each row, or of all together, relative to the source; they identify the rows.
    """

    split: str
    columns: Mapping[str, Column]
    count: int
    values: Callable[[str], Sequence[Any]]
    encoded: Callable[[str, int, int], list[Encoded]]
    content: Callable[[], str]
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        return ", ".join(f"{name} ({column.type})" for name, column in self.columns.items())

    def select(self, kept: Sequence[int]) -> "Rows":
        """Return the rows at ``kept``, ascending."""

        def encoded(column: str, start: int, stop: int) -> list[Encoded]:
            wanted = kept[start:stop]
            every = self.encoded(column, wanted[0], wanted[-1] + 1)
            return [every[index - wanted[0]] for index in wanted]

        def values(column: str) -> list[Any]:
            every = self.values(column)
            return [every[index] for index in kept]

        return replace(
            self,
            count=len(kept),
            values=values,
            encoded=encoded,
            content=lambda: digest([self.content(), *map(str, kept)]),
            files=[self.files[index] for index in kept] if len(self.files) == self.count else self.files,
        )


def file_rows(
    split: str,
    folder: Path,
    files: Sequence[str],
    labels: Mapping[str, Sequence[Any]],
    columns: Mapping[str, Column],
) -> Rows:
    """Return rows of image files in ``folder`` with ``labels``, columns of one value per file."""
    paths = [folder / file for file in files]
    return Rows(
        split=split,
        columns={"image": Column("image", "Image"), **columns},
        count=len(files),
        values=labels.__getitem__,
        encoded=lambda _, start, stop: [(str(path), path) for path in paths[start:stop]],
        content=lambda: sampled(paths, pieces=16, size=2**11),
        files=files,
    )


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(text.encode(errors="surrogatepass") + b"\0")
    return total.hexdigest()


def sampled(files: Sequence[Path], *, pieces: int, size: int) -> str:
    """Return a digest of files' sizes, dates and content, of large ones ``pieces`` spread over them."""

    def facts(file: Path) -> str:
        total = hashlib.blake2b(digest_size=16)
        try:
            with file.open("rb", buffering=0) as opened:
                status = os.fstat(opened.fileno())
                step = max(size, (status.st_size - size) // (pieces - 1))
                for position in range(0, status.st_size, step):
                    opened.seek(position)
                    total.update(opened.read(size))
        except OSError:  # decoding says why
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns} {total.hexdigest()}"

    tasks = in_threads(lambda start, stop: [*map(facts, files[start:stop])], len(files), 256)
    return digest(chain.from_iterable(tasks))


class Chunk(NamedTuple):
    """Part of an Arrow table: its number of rows, and a function that reads one of its columns."""

    rows: int
    read: Callable[[str], Any]


def data_rows(split: str, folder: Path, files: Sequence[str]) -> Rows:
    """Return the rows of Parquet files, or Arrow files of ``Dataset.save_to_disk``, in their order.

    Raises:
        ValueError: one cannot be read, or they have different columns.
    """
    paths = [folder / file for file in files]
    opened = [_readable(path, _opened) for path in paths]
    first = opened[0][0]
    for path, (schema, _) in zip(paths, opened, strict=True):
        if not schema.equals(first) or columns_of(schema) != columns_of(first):
            raise ValueError(f"{path} has other columns or classes than {paths[0]}: one split has the same")
    chunks = [chunk for _, own in opened for chunk in own]
    rows = chunk_rows(split, first, chunks, (folder,), lambda: sampled(paths, pieces=64, size=2**20))
    return replace(rows, files=files)


def chunk_rows(
    split: str, schema: Any, chunks: Sequence[Chunk], folders: tuple[Path, ...], content: Callable[[], str]
) -> Rows:
    """Return the rows of chunks, whose images may be files in ``folders``."""
    starts = [0, *accumulate(chunk.rows for chunk in chunks)]
    lock = Lock()

    # Threads ask for neighbouring rows, which mostly lie in one chunk.
    @lru_cache(maxsize=2)
    def read(index: int, column: str) -> Any:
        return chunks[index].read(column)

    def cells(column: str, start: int, stop: int) -> Iterator[Any]:
        for index in range(bisect_right(starts, start) - 1, len(chunks)):
            if starts[index] >= stop:
                return
            with lock:
                whole = read(index, column)
            skipped = max(start - starts[index], 0)
            yield from whole.slice(skipped, stop - starts[index] - skipped).to_pylist()

    return Rows(
        split=split,
        columns=columns_of(schema),
        count=starts[-1],
        values=lambda column: [value for chunk in chunks for value in chunk.read(column).to_pylist()],
        encoded=lambda column, start, stop: [
            _encoded(value, f"in row {row} of split '{split}'", folders)
            for row, value in enumerate(cells(column, start, stop), start)
        ],
        content=content,
    )


def table_chunks(table: Any) -> list[Chunk]:
    """Return the record batches of an Arrow table, which stay on disk where it is memory-mapped."""
    return [Chunk(batch.num_rows, batch.column) for batch in table.to_batches()]


def _opened(path: Path) -> tuple[Any, list[Chunk]]:
    """Return the schema and the chunks of a file."""
    arrow = require("pyarrow")
    if path.suffix.lower() == ".arrow":
        table = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        table.validate(full=True)
        return table.schema, table_chunks(table)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        footer_bytes = int.from_bytes(file.read(4), "little")
    if footer_bytes > _MOST_FOOTER_BYTES:
        raise ValueError(f"its description takes {footer_bytes:,} bytes, more than {_MOST_FOOTER_BYTES:,}")
    parquet = require("pyarrow.parquet").ParquetFile(path)
    groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
    reads = [partial(_row_group, path, group, one.total_byte_size) for group, one in enumerate(groups)]
    return parquet.schema_arrow, list(map(Chunk, [group.num_rows for group in groups], reads))


def _row_group(path: Path, group: int, needed: int, column: str) -> Any:
    require_memory(needed, f"a row group of {path}", "write it with smaller row groups")
    opened = require("pyarrow.parquet").ParquetFile
    return _readable(path, lambda file: opened(file).read_row_group(group, [column]).column(column))


def _readable(path: Path, read: Callable[[Path], T]) -> T:
    """Return what ``read`` makes of a file; errors name it."""
    try:
        return read(path)
    except (require("pyarrow").ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split()).rstrip('.')}") from error


def columns_of(schema: Any) -> dict[str, Column]:
    """Return the columns of an Arrow schema, by their types and the metadata of ``datasets``."""
    try:
        features = dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (ValueError, KeyError, TypeError, RecursionError):
        features = {}
    columns = {field.name: _column(field.type, features.get(field.name)) for field in schema}
    if len(columns) < len(schema):
        raise ValueError(f"two columns have the same name, of {', '.join(schema.names)}")
    return columns


def _column(dtype: Any, noted: Any) -> Column:
    text = str(dtype.value_type if str(dtype).startswith("dictionary") else dtype)
    kind = next((kind for kind, pattern in _KINDS.items() if re.match(pattern, text)), "other")
    noted = noted if isinstance(noted, dict) else {}
    names = noted.get("names")
    if noted.get("_type") == "ClassLabel" and kind == "integer" and isinstance(names, list):
        return Column("class", "ClassLabel", tuple(map(str, names)))
    if noted.get("_type") == "Image" or kind == "image":
        return Column("image", "Image" if noted else "struct")
    return Column(kind, text.partition("<")[0])


def _encoded(value: Any, where: str, folders: tuple[Path, ...]) -> Encoded:
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return where, data
    if not isinstance(path, str):
        raise ValueError(f"there is no image {where}")
    # By its name alone: links in a folder are the user's own.
    whole = Path(os.path.abspath(path))  # noqa: PTH100  (resolve would follow links)
    if not any(whole.is_relative_to(folder) for folder in folders):
        raise ValueError(f"the image {where} is a file outside the source, {path!r:.100}: it is not read")
    return path, Path(path)


def find_image_column(rows: Rows, chosen: str | None) -> str:
    """Return the column of images: ``chosen``, or the one whose type and first value say so.

    Raises:
        ValueError: ``chosen`` is not a column of images, or there is none.
    """
    found = [name for name in rows.columns if _is_image(rows, name)]
    usual = [name for name in IMAGE_NAMES if name in found]
    return _choose(rows, chosen, found, usual[:1] or found, "image")


def _is_image(rows: Rows, name: str) -> bool:
    """Whether a column is of images, or of bytes whose first value is one."""
    if rows.columns[name].kind != "binary":
        return rows.columns[name].kind == "image"
    for row in range(min(len(rows), _TRIED)):
        try:
            ((_, content),) = rows.encoded(name, row, row + 1)
        except ValueError:  # there is none in this row
            continue
        try:
            open_image(BytesIO(content) if isinstance(content, bytes) else content).close()
        except Exception:  # whatever broken bytes make Pillow trip over
            return False
        return True
    return False


def find_label_column(rows: Rows, chosen: str | None) -> str:
    """Return the column of labels.

    It is ``chosen``; else the one of named classes, that with the most classes if there are several; else a
    column of integers or text with a usual name for labels; else the only one of integers or text in which
    a value repeats.

    Raises:
        ValueError: ``chosen`` cannot be labels, or there is no such column.
    """
    by_kind = {kind: [n for n, c in rows.columns.items() if c.kind == kind] for kind in LABEL_KINDS}
    named = sorted(by_kind["class"], key=lambda name: -len(rows.columns[name].names))
    plain = [*by_kind["integer"], *by_kind["text"]]
    usual = [name for kind in ("integer", "text") for name in LABEL_NAMES if name in by_kind[kind]]
    best = named or usual[:1]
    if chosen is None and not best:
        repeated = [name for name in plain if len(set(values := rows.values(name))) < len(values)]
        best = [*repeated, *(name for name in plain if name not in repeated)] if len(repeated) == 1 else []
    return _choose(rows, chosen, [*named, *plain], best, "label")


def _choose(rows: Rows, chosen: str | None, fitting: Sequence[str], best: Sequence[str], what: str) -> str:
    """Return the chosen column of those that fit, or else the best, with a warning if there are others."""
    field = f"data.{what}_column"
    if chosen is not None:
        if chosen not in rows.columns:
            raise ValueError(f"{field}: no column '{chosen}' among {rows}")
        if chosen not in fitting:
            raise ValueError(f"{field}: column '{chosen}' cannot be {what}s; columns: {rows}")
        return chosen
    if not best:
        raise ValueError(
            f"no column that is surely of {what}s among {rows}: choose one with {field}, or keep the "
            "images in one folder per class, with two classes or more"
        )
    if len(best) > 1:
        others = ", ".join(best)
        warnings.warn(
            f"{what}s are taken from column '{best[0]}', of {others}: choose another with {field}",
            stacklevel=4,
        )
    return best[0]


class Classes(NamedTuple):
    """Label values of a column and their names, both in class order."""

    values: Sequence[Any]
    names: tuple[str, ...]


def find_classes(training: Rows, column: str) -> Classes:
    """Return the classes that ``column`` names, or else its distinct values, sorted.

    Raises:
        ValueError: there are fewer than two classes, or far more than the rows show.
    """
    used = set(training.values(column)) - {None}
    names = training.columns[column].names
    values: Sequence[Any] = range(len(names)) if names else sorted(used)
    names = names or tuple(map(str, values))
    if len(names) < 2:
        raise ValueError(
            f"training needs two classes or more, column '{column}' has {len(names)} "
            f"({', '.join(names)}): choose another with data.label_column, or add images of others"
        )
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"column '{column}' names two classes '{twice}': give each a name of its own")
    if len(names) > max(_MOST_UNSEEN, 10 * len(used)):
        raise ValueError(
            f"column '{column}' names {len(names):,} classes, and the images are of {len(used):,}: name "
            "those alone, or choose another with data.label_column"
        )
    return Classes(values, names)


def class_indices(rows: Rows, column: str, classes: Classes) -> Tensor:
    """Return labels ``(N,)`` int64 as indices into ``classes``; named classes are matched by name.

    Raises:
        ValueError: a label is missing or is none of ``classes``; names its file, or its row, from 0.
    """
    if column not in rows.columns:
        raise ValueError(
            f"split '{rows.split}' has no column '{column}', as the training split has, but {rows}: give "
            "it one, or choose another with data.test_split"
        )
    labels, own = rows.values(column), rows.columns[column].names
    if len(labels) != len(rows):
        raise ValueError(f"column '{column}' of split '{rows.split}' is damaged: {len(labels)} values")
    index = {value: number for number, value in enumerate(classes.names if own else classes.values)}
    if own:
        index = {number: index[name] for number, name in enumerate(own) if name in index}
    found = [index.get(label, -1) for label in labels]
    if -1 in found:
        row = found.index(-1)
        place = rows.files[row] if len(rows.files) == len(rows) else f"row {row} (from 0)"
        label, known = labels[row], classes.values
        if label in range(len(own)):
            label, known = own[label], classes.names
        raise ValueError(
            f"labels outside the classes: split '{rows.split}', {place} has label {label!r}, but the "
            f"{len(known)} classes are labelled {known[0]!r} to {known[-1]!r}: choose a split with the "
            "same labels (data.test_split) or another data.label_column"
        )
    return torch.tensor(found, dtype=torch.int64)
