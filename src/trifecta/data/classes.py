"""Label values → indices into the classes."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.extras import require
from trifecta.data.rows import Rows

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
