"""Finding the columns that hold the images and the labels, by their types."""

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

from trifecta.data.extras import pillow, require

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
        return _choice(split, chosen, found, "images", "--image-column")
    if not found:
        raise ValueError(
            f"no column of images among {_columns(split)}: the source needs image files or "
            "encoded images (see --image-column)"
        )
    name = next((name for name in IMAGE_NAMES if name in found), found[0])
    if len(found) > 1 and name not in IMAGE_NAMES:
        warnings.warn(
            f"images are taken from column '{name}', of {', '.join(found)}: "
            "choose another with --image-column",
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
    features = split.features
    classes = [name for name, feature in features.items() if isinstance(feature, class_label)]
    integers = [n for n, f in features.items() if _dtype(f) in (*INTEGER_TYPES, "bool")]
    texts = [name for name, feature in features.items() if _dtype(feature) in TEXT_TYPES]
    integers = [name for name in integers if name not in classes]
    if chosen is not None:
        return _choice(split, chosen, [*classes, *integers, *texts], "labels", "--label-column")
    if classes:
        return _finest(split, classes)
    usual = [name for group in (integers, texts) for name in LABEL_NAMES if name in group]
    only = [group[0] for group in (integers, texts) if len(group) == 1]
    if not usual and not only:
        raise ValueError(
            f"no column of labels among {_columns(split)}: choose one with --label-column, or "
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
        pillow().open(BytesIO(first.as_py())).close()
    except OSError:
        return False
    return True


def _finest(split: "Dataset", names: list[str]) -> str:
    name = max(names, key=lambda name: len(split.features[name].names))
    if len(names) > 1:
        counts = ", ".join(f"{other} ({len(split.features[other].names)})" for other in names)
        warnings.warn(
            f"labels are taken from column '{name}', which has the most classes of {counts}: "
            "choose another with --label-column",
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
    return ", ".join(f"{name} ({_type(feature)})" for name, feature in split.features.items())


def _type(feature: Any) -> str:
    return "struct" if isinstance(feature, dict) else (_named(feature) or "list")


def _named(feature: Any) -> str:
    dtype = getattr(feature, "dtype", None)
    is_value = type(feature).__name__ == "Value"
    return str(dtype) if is_value else type(feature).__name__


def _dtype(feature: Any) -> str | None:
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else None
