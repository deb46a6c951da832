"""``trifecta list``."""

import inspect
import json
from collections.abc import Mapping

import click
import yaml

from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.methods import all_methods
from trifecta.nn.networks import NETWORKS
from trifecta.recipes import RECIPES, TABLES
from trifecta.report.terminal import print_listing
from trifecta.training import RunConfig, to_plain


def show_list(with_recipes: bool, settings: bool, as_json: bool) -> None:
    """Show the methods, networks, augmentations, tables of experiments and recipes there are."""
    if settings:
        plain = to_plain(RunConfig(data=DataConfig(source="FOLDER")))
        click.echo(
            json.dumps(plain, indent=2) if as_json else yaml.safe_dump(plain, sort_keys=False).rstrip()
        )
        return
    tables = {
        "methods": _described(all_methods()),
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
    return {name: (inspect.getdoc(entry) or "–").splitlines()[0] for name, entry in table.items()}
