"""Cases of large matrices: those of a kind of their own, and those that CI runs beside them.

``make test`` runs what differs in kind; ``make test-slow`` runs the rest, where the same code is reached by
another name.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from trifecta import METHODS, Schedule
from trifecta.schedules import END_TO_END, LAYER_WISE, OVERLAPPING

# Between them they have every kind of label input, objective, normalisation, schedule and optimizer.
KINDS = ("trifecta", "superfecta", "hcl-ff", "scff", "predsim", "rec-lra", "deep-supervision", "cwcomp")


# Pairs, one pass by Muon, new pairs in every block, feedback: enough where each case takes seconds.
FEW = ("trifecta", "superfecta", "scff", "rec-lra")


SCHEDULES = [
    LAYER_WISE,
    OVERLAPPING,
    Schedule(size=2, overlapping=True, trains_remainder=False),
    Schedule(size=3, overlapping=True),
    Schedule(size=4),
    END_TO_END,
]


def methods(names: Iterable[str] = METHODS, *, quick: Sequence[str] = KINDS) -> list[Any]:
    """Every method; those that are not among ``quick`` are slow."""
    return [pytest.param(name, marks=_slow(name not in quick)) for name in names]


def crossed(names: Iterable[str], others: Sequence[Any], *, quick: Sequence[str] = KINDS) -> list[Any]:
    """Every method with one of ``others`` in turn; slow where the method is not among ``quick``.

    Each of ``others`` is met, as there are more methods than any of these lists is long.
    """
    cases, turns = [], {True: 0, False: 0}
    for name in names:
        is_quick = name in quick
        other = others[turns[is_quick] % len(others)]
        turns[is_quick] += 1
        cases.append(pytest.param(name, other, marks=_slow(not is_quick), id=f"{name}-{other}"))
    return cases


def _slow(is_slow: bool) -> Any:
    return (pytest.mark.slow,) if is_slow else ()
