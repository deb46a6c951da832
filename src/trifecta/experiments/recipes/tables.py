"""Tables of experiments: what ``trifecta reproduce`` runs and shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from trifecta._utils.references import lookup
from trifecta.experiments.recipes.ablation import FACTORS, grid_recipes
from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.factors import batch_size_recipes, factor_recipes
from trifecta.experiments.recipes.fast import fast_recipes
from trifecta.experiments.recipes.paper import paper_recipes
from trifecta.experiments.recipes.recipe import Recipe, data_of
from trifecta.experiments.recipes.superfecta import longer_recipes, superfecta_recipes
from trifecta.experiments.recipes.tierce import tierce_recipes


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Rows that belong together.

    Attributes:
        name: as given to ``trifecta reproduce``.
        title: its heading.
        recipes: one a row.
        budget: the one that it was made for.
        cells: for a grid, the level of every factor of ``FACTORS`` by the recipe's name.
    """

    name: str
    title: str
    recipes: Sequence[Recipe]
    budget: str
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _tables() -> list[ResultTable]:
    paper = paper_recipes()
    by_data = [
        ResultTable(
            name=data,
            title=f"The paper's experiments on {data}",
            recipes=[recipe for recipe in paper if data_of(recipe).source == config.source],
            budget="cpu",
        )
        for data, config in DATA_SETS.items()
    ]
    grids = [
        _grid(network, data) for network, data in product(("small", "large"), ("cifar10", "fashion-mnist"))
    ]
    return [*by_data, *grids, *_single_tables()]


def _single_tables() -> list[ResultTable]:
    """Tables of one network on one data set: name, title, rows, budget."""
    tables: list[tuple[str, str, Sequence[Recipe], str]] = [
        ("factors", "One factor at a time: small", factor_recipes("small", "cifar10"), "grid"),
        ("batch-sizes", "Batch sizes at one epoch: small", batch_size_recipes("small", "cifar10"), "grid"),
        (
            "superfecta",
            "Superfecta, one thing changed at a time: small",
            superfecta_recipes("small", "cifar10"),
            "grid",
        ),
        (
            "superfecta-longer",
            "Superfecta beside backprop for 8 epochs: small",
            longer_recipes("small", "cifar10"),
            "cpu",
        ),
        (
            "tierce",
            "Tierce, one thing changed at a time, and the Trifecta: small",
            tierce_recipes("small", "cifar10"),
            "grid",
        ),
        ("fast", "Local learning on the fast trunk: airbench", fast_recipes("cifar10"), "full"),
    ]
    return [
        ResultTable(name=name, title=f"{title}, cifar10", recipes=recipes, budget=budget)
        for name, title, recipes, budget in tables
    ]


def _grid(network: str, data: str) -> ResultTable:
    recipes = grid_recipes(network, data)
    levels = product(*FACTORS.values())
    return ResultTable(
        name=f"ablation-{network}-{data}",
        title=f"Loss × normalisation × update: {network}, {data}",
        recipes=recipes,
        budget="grid",
        cells={recipe.name: cell for recipe, cell in zip(recipes, levels, strict=True)},
    )


TABLES: dict[str, ResultTable] = {table.name: table for table in _tables()}


def get_table(name: str) -> ResultTable:
    """The table called ``name``.

    Raises:
        ValueError: no such table; names the nearest ones.
    """
    return lookup(TABLES, name, "table")
