"""Recipes: complete, at every budget, and what they say they are."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from trifecta.data import AUGMENTATIONS, Augmentation
from trifecta.losses import Symmetric, Threshold
from trifecta.network import build_network
from trifecta.recipes import (
    DATA_SETS,
    FACTORS,
    RECIPES,
    TABLES,
    ResultTable,
    get_recipe,
    get_table,
    in_folder,
)
from trifecta.schedules import LAYER_WISE, OVERLAPPING

BUDGETS = ("quick", "grid", "cpu", "night", "full")
PAPER = [recipe for data in DATA_SETS for recipe in TABLES[data].recipes]


METHODS = ("trifecta", "published-trifecta", "published-ff", "ff", "symba", "backprop")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("network", "data"), list(zip(("small", "large") * 2, DATA_SETS, strict=True)))
def test_the_papers_experiments_are_recipes_at_every_budget(data: str, network: str, method: str) -> None:
    recipe = get_recipe(f"{method}-{network}-{data}")
    assert recipe in TABLES[data].recipes
    sizes = [recipe(budget) for budget in BUDGETS]
    for config, budget in zip(sizes, BUDGETS, strict=True):
        assert (config.network, config.recipe) == (network, recipe.name)
        assert config.data is not None
        held_out = 0.1 if budget == "night" else 0.0
        assert replace(config.data, mean=None, std=None) == replace(DATA_SETS[data], validation=held_out)
        assert (config.data.mean is not None) is method.startswith("published")
        assert config.budget == budget
        # Only the size differs.
        small = replace(sizes[0], width=config.width, epochs=config.epochs, budget=budget)
        assert (
            replace(
                small,
                batch_size=config.batch_size,
                augmentation=config.augmentation,
                compiled=config.budget == "full",
                data=config.data,
            )
            == config
        )
    work = [config.width**2 * config.epochs for config in sizes]
    assert all(a <= b for a, b in pairwise(work))
    assert work[0] < work[-1]
    assert sizes[-1].width == 1


def test_no_recipe_chooses_among_epochs_and_published_ones_predict_as_published() -> None:
    for name, recipe in RECIPES.items():
        config = recipe()
        assert config.keep == "last"
        assert (config.statistics == "running") is name.startswith("published-")


def test_no_figure_without_a_source() -> None:
    for recipe in PAPER:
        assert recipe.source
        if recipe.published is not None:
            assert 50 < recipe.published.accuracy < 100
            assert 0 < recipe.published.tolerance < 2
            assert recipe.published.source


def test_the_published_figures_stand_beside_the_published_networks() -> None:
    figures = {r.name: r.published.accuracy for r in RECIPES.values() if r.published is not None}
    assert figures == {
        "published-trifecta-large-mnist": 99.58,
        "published-trifecta-large-fashion-mnist": 91.44,
        "published-trifecta-large-cifar10": 83.51,
        "ff-mlp-mnist": 98.69,
        "symba-mlp-mnist": 98.58,
    }


def test_the_faithful_recipe_has_every_choice_of_the_published_code() -> None:
    config = get_recipe("published-trifecta-small-cifar10")()
    method = config.method
    assert (config.batch_size, config.augmentation) == (512, AUGMENTATIONS["crop-rotate"])
    assert method.objective == Symmetric(alpha=4.0)
    assert (method.normalization, method.label_input, method.readout) == ("batch", "channel", "last")
    assert (method.optimizer.ownership, method.optimizer.decay) == ("objective", "constant")
    assert method.optimizer.learning_rate == 1e-3
    assert method.schedule == replace(OVERLAPPING, trains_remainder=False, restarts=True)
    assert config.data is not None
    assert (config.data.mean, config.data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    plain = get_recipe("published-ff-small-cifar10")().method
    assert (plain.objective, plain.normalization) == (Threshold(threshold=2.0), "layer-elementwise")
    assert plain.schedule == LAYER_WISE
    assert (plain.label_input, plain.readout, plain.optimizer) == ("channel", "last", method.optimizer)


@pytest.mark.parametrize("table", [table for table in TABLES.values() if table.cells], ids=lambda t: t.name)
def test_a_grid_has_every_combination_once_and_its_cells_differ_in_nothing_else(table: ResultTable) -> None:
    recipes, cells = table.recipes, table.cells
    assert sorted(cells.values()) == sorted(product(*FACTORS.values()))
    losses = {"threshold": Threshold(), "symmetric": Symmetric()}
    updates = {"layer-wise": LAYER_WISE, "overlapping": OVERLAPPING}
    reference = recipes[0]("grid")
    for recipe in recipes:
        loss, normalization, update = cells[recipe.name]
        varied = replace(
            reference.method,
            objective=losses[loss],
            normalization=normalization,
            schedule=updates[update],
        )
        assert replace(reference, method=varied, recipe=recipe.name) == recipe("grid")


def test_equal_seconds_means_more_epochs_and_nothing_else() -> None:
    shorter, longer = (
        get_recipe(f"{name}-small-cifar10")("cpu") for name in ("backprop", "longer-backprop")
    )
    assert longer.epochs > shorter.epochs
    assert replace(longer, epochs=shorter.epochs, recipe=shorter.recipe) == shorter


def test_every_method_of_a_recipe_builds_its_network() -> None:
    tables = ("factors", "batch-sizes", "superfecta", "tierce", "fast", "mnist")
    configs = [recipe("quick") for table in tables for recipe in TABLES[table].recipes]
    widths = {(config.method, config.network): config.width for config in configs}
    for (method, network), width in widths.items():
        built = build_network(method, network, sample_shape=(3, 32, 32), num_classes=10, width=width)
        assert len(built.blocks) == {"mlp": 4, "small": 6, "large": 12, "airbench": 6}[str(network)]


def test_rows_of_a_table_have_names_and_titles_of_their_own() -> None:
    for table in TABLES.values():
        assert len({recipe.name for recipe in table.recipes}) == len(table.recipes)
        assert len({recipe.title for recipe in table.recipes}) == len(table.recipes)
    assert {r.name for t in TABLES.values() for r in t.recipes} | {"demo"} == set(RECIPES)


def test_tables_that_share_a_row_share_its_runs() -> None:
    first, cell = TABLES["factors"].recipes[0], TABLES["ablation-small-cifar10"].recipes[-1]
    assert first("grid", seed=2) == cell("grid", seed=2)
    assert first.name == cell.name
    assert cell("grid").method == get_recipe("trifecta-small-cifar10")("grid").method


def test_budgets_of_a_few_epochs_have_no_augmentation() -> None:
    for recipe in PAPER:
        assert all(recipe(budget).augmentation == Augmentation() for budget in BUDGETS[:3])


def test_the_largest_budget_is_the_default_and_a_seed_changes_nothing_else() -> None:
    recipe = get_recipe("ff-mlp-mnist")
    assert recipe() == recipe("full")
    assert replace(recipe("cpu", seed=3), seed=0) == recipe("cpu")


def test_data_comes_from_a_folder_where_it_has_them(tmp_path: Path) -> None:
    (tmp_path / "svhn").mkdir()
    assert in_folder(DATA_SETS["svhn"], tmp_path).source == str(tmp_path / "svhn")
    assert in_folder(DATA_SETS["svhn"], tmp_path).subset == "cropped_digits"
    assert in_folder(DATA_SETS["mnist"], tmp_path) == DATA_SETS["mnist"]
    assert in_folder(DATA_SETS["mnist"], None) == DATA_SETS["mnist"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: get_recipe("trifecta-small-cifar"), "did you mean .*trifecta-small-cifar10"),
        (lambda: get_recipe("ff-mlp-mnist")("huge"), "unknown budget of ff-mlp-mnist 'huge'"),
        (lambda: get_table("cifar"), "unknown table 'cifar': did you mean .*cifar10"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(ask: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()  # type: ignore[operator]
