"""Finding the columns that hold the images and the labels, by their types."""

import warnings
from collections import Counter
from io import BytesIO

from trifecta._utils.extras import open_image
from trifecta.data.rows import Rows

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
