"""Effects of the factors of a full grid: main effects, interactions, synergy, with spreads over seeds.

Formulas over cells y of one seed, for factors with levels a0 (the base), a1, …:

    main effect of a1       mean over the other factors of  y[a1, …] − y[a0, …]
    interaction a1 × b1     mean over the others of  (y[a1, b1] − y[a0, b1]) − (y[a1, b0] − y[a0, b0])
    synergy                 (y[all last] − y[all first]) − Σ_factors (y[only it last] − y[all first])
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product

from trifecta.experiments.summary import Estimate, RowSummary

# A cell of a grid is a level of every factor, in the factors' order; its values are one a seed.
Cell = tuple[str, ...]
Factors = Mapping[str, Sequence[str]]


def contrasts(factors: Factors) -> list[tuple[str, str, str]]:
    """Every level of every factor against the factor's first: (factor, level, first level)."""
    return [(name, level, levels[0]) for name, levels in factors.items() for level in levels[1:]]


def main_effect(cells: Mapping[Cell, float], factors: Factors, factor: str, level: str, base: str) -> float:
    """Gain of ``level`` over ``base``, mean over all levels of the other factors."""
    index = list(factors).index(factor)
    gains = [cells[_with(cell, index, level)] - cells[cell] for cell in cells if cell[index] == base]
    return statistics.mean(gains)


def interaction(
    cells: Mapping[Cell, float], factors: Factors, a: tuple[str, str, str], b: tuple[str, str, str]
) -> float:
    """Gain of contrast ``a`` at the level of ``b`` less that at the base of ``b``."""
    index_a, index_b = (list(factors).index(name) for name, _, _ in (a, b))

    def gain(level_b: str) -> float:
        with_b = {cell: value for cell, value in cells.items() if cell[index_b] == level_b}
        starts = [cell for cell in with_b if cell[index_a] == a[2]]
        return statistics.mean(with_b[_with(cell, index_a, a[1])] - with_b[cell] for cell in starts)

    return gain(b[1]) - gain(b[2])


def synergy(cells: Mapping[Cell, float], factors: Factors) -> float:
    """The gain of all last levels together, less the sum of what each gains alone on the first levels."""
    first = tuple(levels[0] for levels in factors.values())
    last = tuple(levels[-1] for levels in factors.values())
    alone = sum(cells[_with(first, k, last[k])] - cells[first] for k in range(len(first)))
    return cells[last] - cells[first] - alone


def without_one(cells: Mapping[Cell, float], factors: Factors, factor: str) -> float:
    """Change when, from all last levels, ``factor`` goes back to its first level."""
    index = list(factors).index(factor)
    last = tuple(levels[-1] for levels in factors.values())
    return cells[_with(last, index, factors[factor][0])] - cells[last]


def grid_effects(grids: Sequence[Mapping[Cell, float]], factors: Factors) -> dict[str, Estimate]:
    """Every effect with its spread over ``grids``, one a seed; incomplete grids are left out."""
    whole = [grid for grid in grids if set(grid) == set(product(*factors.values()))]
    effects: dict[str, list[float]] = {}
    steps = contrasts(factors)
    for grid in whole:
        for name, level, base in steps:
            effect = main_effect(grid, factors, name, level, base)
            effects.setdefault(f"{level} in place of {base}", []).append(effect)
        for a, b in combinations(steps, 2):
            if a[0] != b[0]:
                effects.setdefault(f"{a[1]} × {b[1]}", []).append(interaction(grid, factors, a, b))
        effects.setdefault("synergy", []).append(synergy(grid, factors))
        for name, levels in factors.items():
            loss = without_one(grid, factors, name)
            effects.setdefault(f"all, but {levels[0]} in place of {levels[-1]}", []).append(loss)
    return {name: estimate for name, values in effects.items() if (estimate := Estimate.of(values))}


def grids_of(rows: Iterable[RowSummary], cell_of: Mapping[str, Cell]) -> list[dict[Cell, float]]:
    """Test accuracy by cell, one grid a seed."""
    grids: dict[int, dict[Cell, float]] = {}
    for row in rows:
        for run in row.runs:
            grid = grids.setdefault(run.config["seed"], {})
            grid[cell_of[row.recipe.name]] = 100 * run.result["test_accuracy"]
    return [grids[seed] for seed in sorted(grids)]


def _with(cell: Cell, index: int, level: str) -> Cell:
    return (*cell[:index], level, *cell[index + 1 :])
