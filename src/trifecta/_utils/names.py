"""Names: looking them up in a table, with an error that helps whoever mistyped one; showing them."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")
# A longer table is not read in an error.
MOST_LISTED = 30


def printable(text: str) -> str:
    """Replace what is not shown but acts on whatever shows it, such as a terminal's control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return ``table[name]``.

    Raises:
        ValueError: the name is not in the table; the message has the nearest names, or all of a few.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.5)
    known = ", ".join(table) if len(table) <= MOST_LISTED else f"one of {len(table)}: see trifecta list"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    raise ValueError(f"unknown {what} '{name}': {hint}")
