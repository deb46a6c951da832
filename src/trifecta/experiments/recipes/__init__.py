"""Published experiments: each recipe, called with a budget, returns its full configuration."""

from trifecta._utils.references import lookup
from trifecta.experiments.recipes.data_sets import DATA_SETS, in_folder
from trifecta.experiments.recipes.demo import DEMO
from trifecta.experiments.recipes.recipe import Budget, Published, Recipe
from trifecta.experiments.recipes.tables import TABLES, ResultTable, get_table

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in [DEMO, *(recipe for table in TABLES.values() for recipe in table.recipes)]
}


def get_recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ValueError: no such recipe; names the nearest ones.
    """
    return lookup(RECIPES, name, "recipe", listed="trifecta list --recipes")


__all__ = [
    "DATA_SETS",
    "RECIPES",
    "TABLES",
    "Budget",
    "Published",
    "Recipe",
    "ResultTable",
    "get_recipe",
    "get_table",
    "in_folder",
]
