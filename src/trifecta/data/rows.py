"""The rows of a split: labels by column, and images that are decoded later."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.extras import open_image, require
from trifecta.data.decode import Encoded

_FILES_PER_TASK = 256


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        kind: ``image``, ``class`` (integers with names), ``integer``, ``text``, ``binary`` or ``other``.
        type: for messages.
        names: of the classes, for ``class``.
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
        count: of the rows.
        values: returns a column as an Arrow array, whole.
        encoded: returns the images of a column from one row up to another.
        content: returns a digest of all that the pixels depend on.
        files: of each row, or of all of them, relative to the source; for recognising the rows again.
    """

    split: str
    columns: Mapping[str, Column]
    count: int
    values: Callable[[str], Any]
    encoded: Callable[[str, int, int], list[Encoded]]
    content: Callable[[], str]
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return self.count

    def select(self, kept: Sequence[int]) -> "Rows":
        """The rows at ``kept``, ascending."""

        def encoded(column: str, start: int, stop: int) -> list[Encoded]:
            wanted = kept[start:stop]
            every = self.encoded(column, wanted[0], wanted[-1] + 1)
            return [every[index - wanted[0]] for index in wanted]

        return replace(
            self,
            count=len(kept),
            values=lambda column: self.values(column).take(require("pyarrow").array(kept)),
            encoded=encoded,
            content=lambda: digest([self.content(), *map(str, kept)]),
            files=[self.files[index] for index in kept] if len(self.files) == self.count else self.files,
        )


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(text.encode(errors="surrogatepass") + b"\0")
    return total.hexdigest()


def file_rows(
    split: str,
    folder: Path,
    files: Sequence[str],
    labels: Mapping[str, Any],
    columns: Mapping[str, Column],
) -> Rows:
    """Rows of image files.

    Args:
        split: its name.
        folder: that the files lie in.
        files: relative to it.
        labels: Arrow arrays with a value a file, by column.
        columns: of ``labels``.
    """

    def encoded(_: str, start: int, stop: int) -> list[Encoded]:
        paths = [folder / file for file in files[start:stop]]
        return [(str(path), path) for path in paths]

    return Rows(
        split=split,
        columns={"image": Column("image", "Image"), **columns},
        count=len(files),
        values=labels.__getitem__,
        encoded=encoded,
        content=lambda: sampled([folder / file for file in files], pieces=16, size=2**11),
        files=files,
    )


def sampled(files: Sequence[Path], *, pieces: int, size: int) -> str:
    """Return a digest of files' sizes, dates and content.

    A file of at most ``pieces · size`` bytes is read whole, of a larger one ``pieces`` evenly spread ones.
    """

    def task(start: int) -> list[str]:
        return [_sampled(file, pieces, size) for file in files[start : start + _FILES_PER_TASK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = pool.map(task, range(0, len(files), _FILES_PER_TASK))
        return digest(text for texts in tasks for text in texts)


def _sampled(file: Path, pieces: int, size: int) -> str:
    total = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb", buffering=0) as opened:
            facts = os.fstat(opened.fileno())
            step = max(size, (facts.st_size - size) // (pieces - 1))
            for position in range(0, facts.st_size, step):
                opened.seek(position)
                total.update(opened.read(size))
    except OSError:  # its decoding says why
        return "unreadable"
    return f"{facts.st_size} {facts.st_mtime_ns} {total.hexdigest()}"


# No head has that many classes of which training images show but a tenth.
MOST_UNSEEN = 1000


class Classes(NamedTuple):
    """The label values that a column can have, and their names, both in the order of the classes."""

    values: list[Any]
    names: tuple[str, ...]


def find_classes(training: Rows, column: str) -> Classes:
    """The classes of ``column``.

    Named classes are all that it names. Otherwise they are the distinct values of the training split,
    sorted: integers by number, texts alphabetically.

    Raises:
        ValueError: there are fewer than two classes, or far more than the rows show.
    """
    if training.columns[column].kind == "class":
        names = training.columns[column].names
        values = list(range(len(names)))
    else:
        distinct = training.values(column).unique().to_pylist()
        values = sorted(value for value in distinct if value is not None)
        names = tuple(str(value) for value in values)
    if len(values) < 2:
        raise ValueError(
            f"training needs two classes or more, column '{column}' has {len(values)} "
            f"({', '.join(names)}): choose another with data.label_column, or add images of others"
        )
    _check_named(training, column, names)
    return Classes(values, names)


def _check_named(training: Rows, column: str, names: tuple[str, ...]) -> None:
    """Check that names are distinct, and not ten times as many as are used."""
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(
            f"column '{column}' names two classes '{twice}': give each class a name of its own"
        )
    if len(names) > MOST_UNSEEN:
        used = len(training.values(column).unique())
        if len(names) > 10 * used:
            raise ValueError(
                f"column '{column}' names {len(names):,} classes, and the images are of {used:,}: name "
                "those alone, or choose another with data.label_column"
            )


def class_indices(rows: Rows, column: str, classes: Classes) -> Tensor:
    """Labels ``(N,)`` int64 as indices into ``classes``; named classes are matched by their names.

    Raises:
        ValueError: a label is missing or is none of ``classes``; names its file, or its row, from 0.
    """
    arrow, compute = require("pyarrow"), require("pyarrow.compute")
    own, labels = rows.columns[column].names, rows.values(column)
    if len(labels) != len(rows):
        raise ValueError(
            f"column '{column}' of split '{rows.split}' has {len(labels)} values for {len(rows)} rows: "
            "it is damaged"
        )
    if arrow.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    values = list(range(len(own))) if own else classes.values
    try:
        indices = compute.index_in(labels, value_set=arrow.array(values, labels.type))
    except (arrow.ArrowException, TypeError) as error:
        raise ValueError(
            f"column '{column}' of split '{rows.split}' is {rows.columns[column].type}, and the classes "
            f"are labelled {classes.values[0]!r} to {classes.values[-1]!r}: store both alike"
        ) from error
    if own and own != classes.names:
        position = {name: index for index, name in enumerate(classes.names)}
        indices = arrow.array([position.get(name) for name in own], "int64").take(indices)
    if indices.null_count:
        row = indices.is_null().index(True).as_py()
        raise ValueError(_outside(rows, row, labels[row].as_py(), own, classes))
    return torch.from_numpy(indices.to_numpy().astype(np.int64))


def _outside(rows: Rows, row: int, label: Any, own: tuple[str, ...], classes: Classes) -> str:
    """What is said of a label that is no class."""
    has_name = isinstance(label, int) and 0 <= label < len(own)
    known = classes.names if has_name else classes.values
    place = rows.files[row] if len(rows.files) == len(rows) else f"row {row} (from 0)"
    return (
        f"labels outside the classes: split '{rows.split}', {place} has label "
        f"{own[label] if has_name else label!r}, but the {len(known)} classes are labelled {known[0]!r} to "
        f"{known[-1]!r}: choose a split with the same labels (data.test_split) or another data.label_column"
    )


IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "target", "class", "y")
LABEL_KINDS = ("class", "integer", "text")
# Rows in which an encoded image is looked for.
_TRIED = 100


def find_image_column(rows: Rows, chosen: str | None) -> str:
    """The column of images: ``chosen``, or the one whose type and first row say so.

    Raises:
        ValueError: ``chosen`` is not a column of images, or there is none; lists the columns.
    """
    found = [name for name in rows.columns if _is_image(rows, name)]
    if chosen is not None:
        return _choice(rows, chosen, found, "images", "image_column")
    if not found:
        raise ValueError(
            f"no column of images among {_listed(rows)}: the source needs image files or "
            "encoded images (see data.image_column)"
        )
    name = next((name for name in IMAGE_NAMES if name in found), found[0])
    if len(found) > 1 and name not in IMAGE_NAMES:
        warnings.warn(
            f"images are taken from column '{name}', of {', '.join(found)}: "
            "choose another with data.image_column",
            stacklevel=2,
        )
    return name


def find_label_column(rows: Rows, chosen: str | None) -> str:
    """The column of labels.

    It is ``chosen``; else the one of named classes, that with the most classes if there are several; else a
    column of integers, else of text, that has a usual name for labels; else the only one of integers or
    text in which a value stands more than once.

    Raises:
        ValueError: ``chosen`` cannot be labels, or there is no such column; lists the columns.
    """
    by_kind = {kind: [n for n, c in rows.columns.items() if c.kind == kind] for kind in LABEL_KINDS}
    if chosen is not None:
        return _choice(
            rows, chosen, [n for names in by_kind.values() for n in names], "labels", "label_column"
        )
    if by_kind["class"]:
        return _finest(rows, by_kind["class"])
    plain = [*by_kind["integer"], *by_kind["text"]]
    usual = [name for group in by_kind.values() for name in LABEL_NAMES if name in group]
    if usual:
        return usual[0]
    repeated = [name for name in plain if _repeats(rows, name)]
    if len(repeated) != 1:
        reason = "none of them repeats a value" if plain and not repeated else "none is surely that"
        raise ValueError(
            f"no column of labels among {_listed(rows)}, as {reason}: choose one with data.label_column, "
            "or keep the images in one folder per class, with two classes or more"
        )
    if len(plain) > 1:
        warnings.warn(
            f"labels are taken from column '{repeated[0]}', as no value repeats in "
            f"{', '.join(name for name in plain if name not in repeated)}: choose another with "
            "data.label_column",
            stacklevel=2,
        )
    return repeated[0]


def require_columns(rows: Rows, *names: str) -> None:
    """Check that a split has the columns that were found in another one.

    Raises:
        ValueError: it lacks one; lists its columns.
    """
    for name in names:
        if name not in rows.columns:
            raise ValueError(
                f"split '{rows.split}' has no column '{name}', as the training split has, but "
                f"{_listed(rows)}: give it one, or choose another with data.test_split"
            )


def _repeats(rows: Rows, name: str) -> bool:
    """Whether a value stands in several rows: what numbers the rows is no label."""
    values = rows.values(name)
    return len(values.unique()) < len(values)


def _is_image(rows: Rows, name: str) -> bool:
    kind = rows.columns[name].kind
    return kind == "image" or (kind == "binary" and _opens(rows, name))


def _opens(rows: Rows, name: str) -> bool:
    """Whether the first binary value is an image."""
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


def _finest(rows: Rows, names: list[str]) -> str:
    counts = Counter({name: len(rows.columns[name].names) for name in names})
    name = max(names, key=counts.__getitem__)
    if len(names) > 1:
        warnings.warn(
            f"labels are taken from column '{name}', which has the most classes of "
            f"{', '.join(f'{other} ({count})' for other, count in counts.items())}: "
            "choose another with data.label_column",
            stacklevel=2,
        )
    return name


def _choice(rows: Rows, name: str, fitting: list[str], what: str, field: str) -> str:
    if name not in rows.columns:
        raise ValueError(f"data.{field}: no column '{name}' among {_listed(rows)}")
    if name not in fitting:
        raise ValueError(f"data.{field}: column '{name}' cannot be {what}; columns: {_listed(rows)}")
    return name


def _listed(rows: Rows) -> str:
    return ", ".join(f"{name} ({column.type})" for name, column in rows.columns.items())
