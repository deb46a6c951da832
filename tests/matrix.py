"""Cases of large matrices: those of a kind of their own, and those that CI runs beside them.

``make test`` runs what differs in kind; ``make test-slow`` runs the rest, where the same code is reached by
another name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from trifecta import METHODS

# Between them they have every kind of label input, objective, normalisation, schedule and optimizer.
KINDS = ("trifecta", "superfecta", "hcl-ff", "scff", "predsim", "rec-lra", "deep-supervision", "cwcomp")


def methods(names: Iterable[str] = METHODS) -> list[Any]:
    """Every method; those that are no kind of their own are slow."""
    return [pytest.param(name, marks=_slow(name not in KINDS)) for name in names]


def crossed(names: Iterable[str], others: Sequence[Any]) -> list[Any]:
    """Every method with every one of ``others``; slow but for each kind with one of ``others``."""
    cases, kinds = [], 0
    for name in names:
        own = None
        if name in KINDS:
            own, kinds = kinds % len(others), kinds + 1
        for index, other in enumerate(others):
            cases.append(pytest.param(name, other, marks=_slow(index != own), id=f"{name}-{other}"))
    return cases


def _slow(is_slow: bool) -> Any:
    return (pytest.mark.slow,) if is_slow else ()
