"""``trifecta list``."""

import inspect
import json
from collections.abc import Mapping

import click

from trifecta.data import AUGMENTATIONS
from trifecta.methods import METHODS
from trifecta.networks import NETWORKS
from trifecta.recipes import RECIPES
from trifecta.report.terminal import print_listing


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
def list_command(as_json: bool) -> None:
    """Show the methods, networks, recipes and augmentations there are."""
    tables = {
        "methods": _described(METHODS),
        "networks": _described(NETWORKS),
        "recipes": _described(RECIPES),
        "augmentations": {name: str(config) for name, config in AUGMENTATIONS.items()},
    }
    if as_json:
        click.echo(json.dumps(tables, indent=2))
    else:
        print_listing(tables)


def _described(table: Mapping[str, object]) -> dict[str, str]:
    return {name: (inspect.getdoc(entry) or "").splitlines()[0] for name, entry in table.items()}
