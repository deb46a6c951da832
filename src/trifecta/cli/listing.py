"""``trifecta list``."""

import inspect
import json
from collections.abc import Mapping

import click

from trifecta.data import AUGMENTATIONS
from trifecta.methods import METHODS
from trifecta.networks import NETWORKS
from trifecta.recipes import RECIPES, TABLES
from trifecta.report.terminal import print_listing


@click.command("list")
@click.option("--recipes", "with_recipes", is_flag=True, help="The recipes too: over a hundred.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def list_command(with_recipes: bool, as_json: bool) -> None:
    """Show the methods, networks, augmentations, tables of experiments and recipes there are."""
    tables = {
        "methods": _described(METHODS),
        "networks": _described(NETWORKS),
        "augmentations": {name: str(config) for name, config in AUGMENTATIONS.items()},
        "tables": {name: f"{table.title}: {len(table.recipes)} recipes" for name, table in TABLES.items()},
        "recipes": {
            name: f"{recipe.title} ({', '.join(recipe.budgets)})" for name, recipe in RECIPES.items()
        },
    }
    if as_json:
        click.echo(json.dumps(tables, indent=2))
    else:
        recipes = tables.pop("recipes")
        print_listing(tables | ({"recipes": recipes} if with_recipes else {}))


def _described(table: Mapping[str, object]) -> dict[str, str]:
    return {name: (inspect.getdoc(entry) or "").splitlines()[0] for name, entry in table.items()}
