"""Looking a name up in a table, with an error that helps whoever mistyped it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return ``table[name]``.

    Raises:
        ValueError: the name is not in the table; the message has the nearest names, or all of them.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(table)}"
    raise ValueError(f"unknown {what} '{name}': {hint}")
