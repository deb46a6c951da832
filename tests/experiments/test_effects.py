"""Effects of a factorial grid, on grids whose effects are known."""

from itertools import product

import pytest

from trifecta.experiments import Cell, grid_effects
from trifecta.recipes import FACTORS

Grid = dict[tuple[int, *Cell], float]
GAINS = {"symmetric": 3.0, "layer": 1.0, "batch": 5.0, "overlapping": 2.0}


def grid(seed: int = 0, *, together: float = 0.0, offset: float = 0.0) -> Grid:
    """Additive gains, and ``together`` more for batch normalisation with the symmetric loss."""
    return {
        (seed, *cell): 10
        + offset
        + sum(GAINS.get(level, 0) for level in cell)
        # Only where both are.
        + (together if {"symmetric", "batch"} <= set(cell) else 0)
        for cell in product(*FACTORS.values())
    }


def test_additive_grids_have_main_effects_only() -> None:
    effects = grid_effects(grid() | grid(1, offset=7), FACTORS)
    symmetric = effects["symmetric in place of threshold"]
    assert symmetric.mean == pytest.approx(3)
    assert symmetric.deviation == pytest.approx(0)
    assert symmetric.n == 2
    assert effects["layer in place of length"].mean == pytest.approx(1)
    assert effects["batch in place of length"].mean == pytest.approx(5)
    assert effects["overlapping in place of layer-wise"].mean == pytest.approx(2)
    assert effects["symmetric × batch"].mean == pytest.approx(0)
    assert effects["synergy"].mean == pytest.approx(0)
    assert effects["all, but length in place of batch"].mean == pytest.approx(-5)


def test_what_two_gain_together_is_their_interaction_and_synergy() -> None:
    effects = grid_effects(grid(together=4), FACTORS)
    assert effects["symmetric × batch"].mean == pytest.approx(4)
    assert effects["symmetric × layer"].mean == pytest.approx(0)
    assert effects["symmetric × overlapping"].mean == pytest.approx(0)
    assert effects["synergy"].mean == pytest.approx(4)
    # A third of the cells of the symmetric loss have batch normalisation.
    assert effects["symmetric in place of threshold"].mean == pytest.approx(3 + 4 / 3)
    assert effects["all, but threshold in place of symmetric"].mean == pytest.approx(-7)


def test_the_spread_is_over_seeds() -> None:
    effects = grid_effects(grid(together=1) | grid(1, together=3), FACTORS)
    assert effects["synergy"].mean == pytest.approx(2)
    assert effects["synergy"].deviation == pytest.approx(2**0.5)


def test_an_incomplete_grid_is_left_out() -> None:
    partial = grid(1, together=100)
    partial.popitem()
    assert grid_effects(grid() | partial, FACTORS)["synergy"].n == 1
    assert grid_effects(partial, FACTORS) == {}
