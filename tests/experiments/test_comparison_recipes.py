"""Rows of the comparison: equal but for what they are named after."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from trifecta.comparison import (
    COMPARISONS,
    PUBLISHED_CIFAR10,
    RIVALS,
    SHORT,
    WIDENED,
    Images,
    comparison_recipes,
)
from trifecta.data import DataConfig
from trifecta.methods import METHODS, backprop, deep_supervision, superfecta
from trifecta.network import build_network
from trifecta.recipes import Recipe

CIFAR10 = DataConfig(source="cifar10")


@cache
def all_rows() -> dict[str, Recipe]:
    """By name; finding the width of one of them takes seconds."""
    return {r.name: r for r in recipes_of(list(COMPARISONS))}


def recipes_of(names: list[str]) -> list[Recipe]:
    return comparison_recipes(names, ["small"], CIFAR10, find_images=lambda: Images((3, 32, 32), 10))


def row(name: str) -> Recipe:
    return all_rows()[f"compared-{name}-small-cifar10"]


def parameters(recipe: Recipe, budget: str, *, width: float | None = None) -> int:
    config = recipe(budget)
    size = {"sample_shape": (3, 32, 32), "num_classes": 10, "width": width or config.width}
    with torch.device("meta"):
        network = build_network(config.method, config.network, **size)  # type: ignore[arg-type]
    return sum(p.numel() for p in network.parameters())


def test_every_method_and_everything_beside_them_is_a_row_of_its_own() -> None:
    assert list(all_rows()) == [f"compared-{name}-small-cifar10" for name in (*METHODS, *RIVALS, *SHORT)]
    assert len({recipe.title for recipe in all_rows().values()}) == len(all_rows())
    assert len({recipe.base.method for recipe in all_rows().values()}) == len(all_rows()) - len(WIDENED)


def test_rows_differ_in_their_method_alone_and_widened_ones_in_width() -> None:
    reference = row("backprop")
    for name in COMPARISONS:
        for budget in ("quick", "grid", "cpu", "full"):
            config = row(name)(budget)
            same = replace(config, method=reference.base.method, recipe=reference.name)
            if name in WIDENED:
                assert same.width > reference(budget).width
                same = replace(same, width=reference(budget).width)
            assert same == reference(budget)


def test_rivals_have_what_they_are_named_after_and_nothing_else() -> None:
    optimizer, classifier = superfecta.method().optimizer, superfecta.method().objective
    assert row("backprop-muon").base.method == replace(backprop.method(), optimizer=optimizer)
    assert row("backprop-muon-classifier").base.method == replace(
        backprop.method(), optimizer=optimizer, objective=classifier
    )
    assert row("deep-supervision-muon-classifier").base.method == replace(
        deep_supervision.method(), optimizer=optimizer, objective=classifier
    )
    small = row("superfecta-small-heads").base.method
    assert replace(small, objective=classifier) == superfecta.method()
    assert row("backprop-muon-wide").base.method == row("backprop-muon").base.method


def test_small_heads_are_a_small_part_of_the_network() -> None:
    for budget, most in (("grid", 1.3), ("cpu", 1.15)):
        size = parameters(row("superfecta-small-heads"), budget) / parameters(row("backprop"), budget)
        assert 1 < size < most
        assert parameters(row("superfecta"), budget) / parameters(row("backprop"), budget) > 9


@pytest.mark.parametrize("budget", ["grid", "cpu"])
def test_the_wide_row_has_superfectas_parameters_as_nearly_as_a_width_can(budget: str) -> None:
    wide, wanted = row("backprop-muon-wide"), parameters(row("superfecta"), budget)
    width = wide(budget).width
    distance = abs(parameters(wide, budget) - wanted)
    assert distance < 0.01 * wanted
    for other in (-0.02, -0.01, -0.001, 0.001, 0.01, 0.02):
        assert abs(parameters(wide, budget, width=width + other) - wanted) >= distance
    assert recipes_of(["backprop-muon-wide"]) == [wide]


def test_a_published_figure_stands_beside_the_methods_own_row_alone() -> None:
    figures = {name: row(name).published for name in COMPARISONS}
    known = {name: figure.accuracy for name, figure in figures.items() if figure is not None}
    assert known == PUBLISHED_CIFAR10
    (other,) = comparison_recipes(["backprop"], ["small"], DataConfig(source="digits"))
    assert other.published is None


def test_the_size_of_a_wide_row_is_found_from_the_images_if_nobody_tells_it(stripes_folder: Path) -> None:
    rows, data = ["backprop-muon-wide"], DataConfig(source=str(stripes_folder))
    (found,) = comparison_recipes(rows, ["small"], data, budget="quick")
    (told,) = comparison_recipes(
        rows, ["small"], data, budget="quick", find_images=lambda: Images((1, 8, 8), 3)
    )
    assert found.budgets == told.budgets
    assert list(found.budgets) == ["quick"]


def test_a_wrong_row_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match="unknown method 'backprop-moun': did you mean backprop-muon"):
        comparison_recipes(["backprop-moun"], ["small"], CIFAR10)
