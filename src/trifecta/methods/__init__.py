"""The table of methods: one file per paper, one line here."""

from collections.abc import Callable

from trifecta.methods.backprop import backprop
from trifecta.methods.class_groups import class_groups
from trifecta.methods.ff import ff
from trifecta.methods.method import Method
from trifecta.methods.symba import symba
from trifecta.methods.trifecta import trifecta
from trifecta.names import lookup

METHODS: dict[str, Callable[[], Method]] = {
    "trifecta": trifecta,
    "ff": ff,
    "symba": symba,
    "class-groups": class_groups,
    "backprop": backprop,
}


def get_method(name: str) -> Method:
    """The method called ``name``, with its default settings.

    Raises:
        ValueError: no such method; names the nearest ones.
    """
    return lookup(METHODS, name, "method")()


__all__ = ["METHODS", "Method", "backprop", "class_groups", "ff", "get_method", "symba", "trifecta"]
