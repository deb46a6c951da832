"""Label values → indices into the classes."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.extras import require

if TYPE_CHECKING:
    from datasets import Dataset


def find_classes(training: "Dataset", column: str) -> tuple[list[Any], tuple[str, ...]]:
    """The label values that ``column`` can have, in the order of the classes, and their names.

    A ``ClassLabel`` column names its classes. Otherwise they are the distinct values of the
    training split, sorted: integers by number, strings alphabetically.

    Raises:
        ValueError: there are fewer than two classes.
    """
    feature = training.features[column]
    if isinstance(feature, require("datasets").ClassLabel):
        values = list(range(len(feature.names)))
        names = tuple(feature.names)
    else:
        distinct = training.data.column(column).unique().to_pylist()
        values = sorted(value for value in distinct if value is not None)
        names = tuple(str(value) for value in values)
    if len(values) < 2:
        raise ValueError(
            f"training needs two classes or more, column '{column}' has {len(values)} "
            f"({', '.join(names)}): choose another with --set data.label_column, or add images of others"
        )
    return values, names


def class_indices(split: "Dataset", column: str, values: list[Any], *, name: str) -> Tensor:
    """Labels ``(N,)`` int64 of the split called ``name``, as indices into ``values``.

    Raises:
        ValueError: a label is missing or is none of ``values``; names its row, from 0.
    """
    arrow, compute = require("pyarrow"), require("pyarrow.compute")
    labels = split.data.column(column)
    indices = compute.index_in(labels, value_set=arrow.array(values, labels.type))
    if indices.null_count:
        row = indices.is_null().index(True).as_py()
        raise ValueError(
            f"labels outside the classes: split '{name}', row {row} (from 0) has label "
            f"{labels[row].as_py()!r}, but the {len(values)} classes are labelled "
            f"{values[0]!r} to {values[-1]!r}: choose a split with labels (--set data.test_split) "
            "or another --set data.label_column"
        )
    return torch.from_numpy(indices.to_numpy().astype(np.int64))
