"""Names: looking them up in a table, with an error that helps whoever mistyped one; showing them."""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import TypeVar

T = TypeVar("T")
# A longer table is not read in an error.
MOST_LISTED = 40
# How alike names must be, 0 … 1, and how much less than the nearest one.
ALIKE, NEARLY_AS_ALIKE = 0.57, 0.15


def printable(text: str) -> str:
    """Replace what is not shown but acts on whatever shows it, such as a terminal's control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the names that ``word`` may stand for, the likeliest first; none where nothing is near.

    A name is near that begins with it, has it as a part, has its letters as initials, or is spelled alike.
    """
    by_likeness = sorted(((_likeness(word, name), name) for name in known), key=lambda pair: -pair[0])
    best = by_likeness[0][0] if by_likeness else 0.0
    least = max(ALIKE, best - NEARLY_AS_ALIKE)
    return [name for likeness, name in by_likeness[:most] if likeness >= least]


def _likeness(word: str, name: str) -> float:
    one, other = (text.lower().strip("-").replace("_", "-") for text in (word, name))
    parts = other.split("-")
    if one == other:
        return 1.0
    if len(one) > 1 and one == "".join(part[:1] for part in parts):
        return 0.95
    if min(len(one), len(other)) > 2 and (other.startswith(one) or one.startswith(other) or one in parts):
        return 0.9
    return SequenceMatcher(None, one, other).ratio()


def lookup(table: Mapping[str, T], name: str, what: str, *, listed: str = "trifecta list") -> T:
    """Return ``table[name]``.

    Args:
        table: of what is known.
        name: asked for.
        what: it is a name of.
        listed: what shows all of a long table.

    Raises:
        ValueError: the name is not in the table; the message has the nearest names, or all of a few.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    near = nearest(str(name), table)
    known = ", ".join(table) if len(table) <= MOST_LISTED else f"one of {len(table)}, see {listed}"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    raise ValueError(f"unknown {what} '{name}': {hint}")
