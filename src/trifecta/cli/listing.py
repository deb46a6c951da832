"""``trifecta list``."""

from typing import Any

import click

from trifecta.cli.lazy import act


@click.command("list")
@click.option("--recipes", "with_recipes", is_flag=True, help="The recipes too: over a hundred.")
@click.option("--settings", is_flag=True, help="All settings of a run, for --set, at their defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def list_command(**options: Any) -> None:
    """Show the methods, networks, augmentations, tables of experiments and recipes there are."""
    act("listing", "show_list", options)
