"""Published experiments: each recipe, called with a budget, returns its full configuration."""

from trifecta.names import lookup
from trifecta.recipes.data_sets import DATA_SETS, in_folder
from trifecta.recipes.demo import DEMO
from trifecta.recipes.recipe import Budget, Published, Recipe
from trifecta.recipes.tables import TABLES, ResultTable, get_table

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in [DEMO, *(recipe for table in TABLES.values() for recipe in table.recipes)]
}


def get_recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ValueError: no such recipe; names the nearest ones.
    """
    return lookup(RECIPES, name, "recipe")


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
