"""A split as a table: one column of encoded images, one of labels, whatever files hold it."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta._utils.extras import open_image, require
from trifecta.data.decode import Encoded, in_threads, listed

# Of columns and of mappings, the likeliest first.
IMAGE_NAMES = ("image", "images", "img", "sample", "samples", "pixel_values", "data", "x", "features")
LABEL_NAMES = ("label", "labels", "class", "target", "targets", "y")
# Texts that spreadsheets, pandas and R write into a table where a value is missing.
MISSING = ("", "NA", "N/A", "<NA>", "nan", "NaN", "None", "null", "NULL")
# What to do with a table of numbers, which is no source of a run.
NUMBERS = "read a table of numbers with pandas, and fit a TrifectaClassifier or train on arrays in Python"
# The description of a Parquet file, at its end, holds the names of its classes.
_MOST_FOOTER_BYTES = 2**26
_ROWS_AT_ONCE = 256
# No head has that many classes of which training images show but a tenth.
_MOST_UNSEEN = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """The rows of a split.

    Attributes:
        split: its name.
        columns: names of the classes of each column, empty where it names none.
        count: number of rows, with those that are left out.
        read: returns all values of a column in order; an image is bytes, a path, or a mapping of one.
        key: returns a digest of everything that the pixels depend on.
        contents: returns a digest of each file's content, wherever and whenever it was written.
        files: file of each row, or all files together, relative to the source.
        folders: folders in which a file that a row names must lie.
        left_out: rows that are left out.
    """

    split: str
    columns: Mapping[str, tuple[str, ...]]
    count: int
    read: Callable[[str], Iterable[Any]]
    key: Callable[[], str]
    contents: Callable[[], Sequence[str]]
    files: Sequence[str] = ()
    folders: tuple[Path, ...] = ()
    left_out: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return self.count - len(self.left_out)

    def kept(self, values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the number and the value of each row that is not left out."""
        return ((row, value) for row, value in enumerate(values) if row not in self.left_out)

    def named(self, column: str) -> str:
        """Return the name of a column that may be written in another case."""
        in_other_case = (name for name in self.columns if name.lower() == column.lower())
        return column if column in self.columns else next(in_other_case, column)

    def labels(self, column: str) -> Iterator[tuple[int, Any]]:
        """Yield the number and the label of each row, with whole floats as integers."""
        for row, value in self.kept(self.read(column)):
            yield row, int(value) if isinstance(value, float) and value.is_integer() else value

    def images(self, column: str) -> Iterator[Encoded]:
        """Yield the encoded images of a column."""
        for row, value in self.kept(self.read(column)):
            where = f"in row {row} of split '{self.split}'"
            data = value if isinstance(value, dict) else {"bytes": value, "path": value}
            path = data.get("path")
            if isinstance(data.get("bytes"), bytes):
                yield where, data["bytes"]
            elif isinstance(path, Path):
                yield str(path), path
            elif not isinstance(path, str):
                raise ValueError(f"there is no image {where}")
            # By its name alone: links in a folder are the user's own.
            elif {*self.folders}.isdisjoint(Path(os.path.abspath(path)).parents):  # noqa: PTH100
                raise ValueError(f"the image {where} is a file outside the source, {path!r:.100}")
            else:
                yield path, Path(path)


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(text.encode(errors="surrogatepass") + b"\0")
    return total.hexdigest()


def file_rows(paths: Sequence[Path], *, pieces: int, size: int, **rows: Any) -> Rows:
    """Return rows with the key and contents of files, of large ones ``pieces`` of ``size`` bytes."""

    def facts(file: Path) -> tuple[str, ...]:
        total = hashlib.blake2b(digest_size=16)
        try:
            with file.open("rb", buffering=0) as opened:
                status = os.fstat(opened.fileno())
                step = max(size, (status.st_size - size) // (pieces - 1))
                for position in range(0, status.st_size, step):
                    opened.seek(position)
                    total.update(opened.read(size))
        except OSError:  # decoding says why
            return ("unreadable",)
        return str(status.st_size), str(status.st_mtime_ns), total.hexdigest()

    @cache
    def every() -> list[tuple[str, ...]]:
        return [*chain.from_iterable(in_threads(lambda some: [*map(facts, some)], paths, 256))]

    return Rows(
        key=lambda: digest(map(" ".join, every())),
        contents=lambda: [" ".join(own[::2]) for own in every()],
        **rows,
    )


def data_rows(split: str, folder: Path, files: Sequence[str]) -> Rows:
    """Return the rows of Parquet files, or Arrow files of ``Dataset.save_to_disk``, in their order."""
    paths = [folder / file for file in files]
    schemas, counts = zip(*map(_described, paths), strict=True)
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]) or class_names(schema) != class_names(schemas[0]):
            raise ValueError(f"{path} has other columns or classes than {paths[0]}: one split has the same")
    return file_rows(
        paths,
        pieces=64,
        size=2**20,
        split=split,
        columns=class_names(schemas[0]),
        count=sum(counts),
        read=lambda column: chain.from_iterable(_values(path, column) for path in paths),
        files=files,
        folders=(folder,),
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (require("pyarrow").ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split()).rstrip('.')}") from error


def _opened(path: Path) -> tuple[Any, int, Callable[[str], Iterable[Any]]]:
    """Return the schema and number of rows of a file, and a function that reads a column in pieces."""
    if path.suffix.lower() == ".arrow":
        arrow = require("pyarrow")
        table = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        return table.schema, len(table), lambda column: table.column(column).iterchunks()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        size = int.from_bytes(file.read(4), "little")
    if size > _MOST_FOOTER_BYTES:
        raise ValueError(f"its description takes {size:,} bytes, more than {_MOST_FOOTER_BYTES:,}")
    parquet = require("pyarrow.parquet").ParquetFile(path)
    batches = partial(parquet.iter_batches, _ROWS_AT_ONCE)
    count = parquet.metadata.num_rows
    return parquet.schema_arrow, count, lambda own: (batch.column(own) for batch in batches(columns=[own]))


def _described(path: Path) -> tuple[Any, int]:
    with _naming(path):
        return _opened(path)[:2]


def _values(path: Path, column: str) -> Iterator[Any]:
    with _naming(path):
        for piece in _opened(path)[2](column):
            piece.validate(full=True)
            yield from piece.to_pylist()


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Return the class names of each column of an Arrow schema, from the metadata of ``datasets``."""
    names: dict[str, tuple[str, ...]] = dict.fromkeys(schema.names, ())
    if len(names) < len(schema):
        raise ValueError(f"two columns have the same name, of {', '.join(schema.names)}")
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        named = {name: noted["names"] for name, noted in features.items() if noted["_type"] == "ClassLabel"}
        return names | {name: tuple(map(str, own)) for name, own in named.items() if name in names}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return names


def find_image_column(rows: Rows, chosen: str | None) -> str:
    """Return the column of images: ``chosen``, or the one whose first value is an image."""
    found = [name for name, value in first_values(rows).items() if _is_image(value)]
    return _choose(rows, chosen, found, _usual(IMAGE_NAMES, found)[:1] or found, "image")


def first_values(rows: Rows) -> dict[str, Any]:
    """Return the first value of each column that is not missing, of a hundred rows."""
    return {
        name: next((value for value in islice(rows.read(name), 100) if value is not None), None)
        for name in rows.columns
    }


def _usual(names: Sequence[str], found: Iterable[str]) -> list[str]:
    """Return the found names that are among ``names`` in any case, the likeliest first."""
    return sorted((own for own in found if own.lower() in names), key=lambda own: names.index(own.lower()))


def _is_image(value: Any) -> bool:
    if not isinstance(value, bytes):
        return isinstance(value, Path) or (isinstance(value, dict) and "bytes" in value)
    try:
        open_image(BytesIO(value)).close()
    except Exception:  # whatever broken bytes make Pillow trip over
        return False
    return True


def _find_label_column(rows: Rows, chosen: str | None) -> str:
    """Return the column of labels: ``chosen``, or the one of the most named classes.

    Else it is that with the likeliest name for labels, or the only one of integers or text that repeat.
    """
    firsts = first_values(rows)
    named = sorted(
        (name for name in firsts if rows.columns[name]), key=lambda name: -len(rows.columns[name])
    )
    plain = [name for name in firsts if name not in named and isinstance(firsts[name], int | str | float)]
    best = [*named, *_usual(LABEL_NAMES, plain)]
    if chosen is None and not best:
        whole = [name for name in plain if not isinstance(firsts[name], float)]
        repeated = [name for name in whole if len(set(rows.read(name))) < rows.count]
        best = sorted(whole, key=lambda name: name not in repeated) if len(repeated) == 1 else []
    return _choose(rows, chosen, [*named, *plain], best, "label")


def _choose(rows: Rows, chosen: str | None, fitting: Sequence[str], best: Sequence[str], what: str) -> str:
    """Return the chosen column of those that fit, or else the best, with a warning if there are others."""
    field, there = f"data.{what}_column", ", ".join(rows.columns)
    if chosen is not None:
        if (name := rows.named(chosen)) not in fitting:
            raise ValueError(f"{field}: no column '{chosen}' that can be {what}s; there are {there}")
        return name
    if not best:
        told = f"cannot tell which of {there} are {what}s: choose one with {field}"
        raise ValueError(f"{told}; {NUMBERS}" if what == "image" else told)
    if len(best) > 1:
        told = f"{what}s are taken from column '{best[0]}', of {', '.join(best)}"
        warnings.warn(f"{told}: choose another with {field}", stacklevel=4)
    return best[0]


class Labels(NamedTuple):
    """Labels of rows: column, class names, and indices into these (N,) int64."""

    column: str
    classes: tuple[str, ...]
    indices: Tensor


def find_labels(rows: Rows, chosen: str | None) -> Labels:
    """Return the labels of a split, of the classes that the column names, or else of its values, sorted."""
    column = _find_label_column(rows, chosen)
    used = {value for _, value in rows.labels(column) if not isinstance(value, float | None)}
    classes = rows.columns[column] or tuple(map(str, sorted(used)))
    if len(classes) > max(_MOST_UNSEEN, 10 * len(used)):
        told = f"column '{column}' names {len(classes):,} classes, and the images are of {len(used):,}"
        raise ValueError(f"{told}: name those alone, or choose another data.label_column")
    return Labels(column, classes, label_indices(rows, column, {name: k for k, name in enumerate(classes)}))


def identity(rows: Rows, labels: Labels) -> str:
    """Return the number of rows, a digest of their names and labels, and one of their contents."""
    files, contents = rows.files, rows.contents()
    if len(files) == rows.count:
        files, contents = ([own for _, own in rows.kept(every)] for every in (files, contents))
    texts = [rows.split, *files, "", *labels.classes, labels.indices.numpy().tobytes().hex()]
    return f"{len(rows)} rows, {digest(texts)}, {digest(contents)}"


def is_same_rows(then: str, now: str) -> bool:
    """Whether two identities are of the same rows; earlier versions stored no contents."""
    return all(one == other for one, other in zip(then.split(", "), now.split(", "), strict=False))


def label_indices(rows: Rows, column: str, index: Mapping[str, int], named: Sequence[str] = ()) -> Tensor:
    """Return labels ``(N,)`` int64 by their names; integers have ``named``, or the column's own names."""
    column, found = rows.named(column), []
    if column not in rows.columns:
        there = f"'{column}', as the training split has, but {', '.join(rows.columns)}"
        raise ValueError(f"split '{rows.split}' has no column {there}: choose another data.test_split")
    named = rows.columns[column] or named
    for row, value in rows.labels(column):
        name = None if isinstance(value, float | None) else str(value)
        if named and isinstance(value, int):
            name = named[value] if 0 <= value < len(named) else None
        if name is None or name not in index:
            has_files = len(rows.files) == rows.count
            place = rows.files[row] if has_files else f"row {row} (from 0)"
            if value is None and has_files and all(own is None for _, own in rows.labels(column)):
                told = f"no image of split '{rows.split}' has a label in column '{column}'"
                fix = "take the table that has them, such as data.table=train.csv, and data.hold_out=0.2"
                raise ValueError(f"{told}: {fix}")
            error = unknown_label(f"split '{rows.split}', {place}", name or value, list(index))
            if value is None and has_files:
                empty = f"nothing, {', '.join(MISSING[1:])} mean that in a table"
                error = ValueError(f"{error}; {empty}: rename a class of such a name")
            raise error
        found.append(index[name])
    return torch.tensor(found, dtype=torch.int64)


def unknown_label(where: str, label: Any, classes: Sequence[str] = ()) -> ValueError:
    """Return the error of a label that is missing or none of the training classes."""
    if label is None or label != label:
        return ValueError(f"{where} has no label ({label}): give it one, or leave it out")
    known = f"none of the {len(classes)} classes of training ({listed(classes)})" if classes else "no class"
    return ValueError(f"{where} has label {label!r:.60}, which is {known}: leave it out, or train on some")
