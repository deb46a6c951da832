"""Finding the columns that hold the images and the labels, by their types."""

import warnings
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any

from trifecta._utils.extras import open_image, require

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "target", "class", "y")
BINARY_TYPES = ("binary", "large_binary")
INTEGER_TYPES = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
TEXT_TYPES = ("string", "large_string")


def find_image_column(split: "Dataset", chosen: str | None) -> str:
    """The column of images: ``chosen``, or the one whose type and first row say so.

    Raises:
        ValueError: ``chosen`` is not a column of images, or there is none; lists the columns.
    """
    found = [name for name in split.column_names if _is_image(split, name)]
    if chosen is not None:
        return _choice(split, chosen, found, "images", "--set data.image_column")
    if not found:
        raise ValueError(
            f"no column of images among {_columns(split)}: the source needs image files or "
            "encoded images (see --set data.image_column)"
        )
    name = next((name for name in IMAGE_NAMES if name in found), found[0])
    if len(found) > 1 and name not in IMAGE_NAMES:
        warnings.warn(
            f"images are taken from column '{name}', of {', '.join(found)}: "
            "choose another with --set data.image_column",
            stacklevel=2,
        )
    return name


def find_label_column(split: "Dataset", chosen: str | None) -> str:
    """The column of labels.

    It is ``chosen``; else the ``ClassLabel`` column, the one with the most classes if there are
    several; else a column of integers, else of strings, that has a usual name for labels; else
    the only column of integers, else the only one of strings.

    Raises:
        ValueError: ``chosen`` cannot be labels, or there is no such column; lists the columns.
    """
    class_label = require("datasets").ClassLabel
    kinds: dict[str, list[str]] = {"class": [], "integer": [], "text": []}
    for name, feature in split.features.items():
        if isinstance(feature, class_label):
            kinds["class"].append(name)
        elif _dtype(feature) in (*INTEGER_TYPES, "bool"):
            kinds["integer"].append(name)
        elif _dtype(feature) in TEXT_TYPES:
            kinds["text"].append(name)
    if chosen is not None:
        return _choice(split, chosen, [*chain(*kinds.values())], "labels", "--set data.label_column")
    if kinds["class"]:
        return _finest(split, kinds["class"])
    return _most_likely(split, kinds["integer"], kinds["text"])


def _most_likely(split: "Dataset", *groups: list[str]) -> str:
    """The first column with a usual name, else the first that is alone in its group."""
    usual = [name for group in groups for name in LABEL_NAMES if name in group]
    only = [group[0] for group in groups if len(group) == 1]
    if not usual and not only:
        raise ValueError(
            f"no column of labels among {_columns(split)}: choose one with --set data.label_column, or "
            "keep the images in one folder per class, with two classes or more"
        )
    return [*usual, *only][0]


def _is_image(split: "Dataset", name: str) -> bool:
    feature = split.features[name]
    if isinstance(feature, require("datasets").Image):
        return True
    if isinstance(feature, dict):  # How a Parquet file without metadata stores an image.
        return _dtype(feature.get("bytes")) in BINARY_TYPES
    return _dtype(feature) in BINARY_TYPES and _opens(split.data.column(name))


def _opens(column: Any) -> bool:
    """Whether the first binary value is an image."""
    first = next((value for value in column if value.is_valid), None)
    if first is None:
        return False
    try:
        open_image(BytesIO(first.as_py())).close()
    except Exception:  # whatever broken bytes make Pillow trip over
        return False
    return True


def _finest(split: "Dataset", names: list[str]) -> str:
    name = max(names, key=lambda name: len(split.features[name].names))
    if len(names) > 1:
        counts = ", ".join(f"{other} ({len(split.features[other].names)})" for other in names)
        warnings.warn(
            f"labels are taken from column '{name}', which has the most classes of {counts}: "
            "choose another with --set data.label_column",
            stacklevel=2,
        )
    return name


def _choice(split: "Dataset", name: str, fitting: list[str], what: str, option: str) -> str:
    if name not in split.column_names:
        raise ValueError(f"{option}: no column '{name}' among {_columns(split)}")
    if name not in fitting:
        raise ValueError(f"{option}: column '{name}' cannot be {what}; columns: {_columns(split)}")
    return name


def _columns(split: "Dataset") -> str:
    return ", ".join(f"{name} ({_type_name(feature)})" for name, feature in split.features.items())


def _type_name(feature: Any) -> str:
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else {"dict": "struct"}.get(name, name)


def _dtype(feature: Any) -> str | None:
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else None
