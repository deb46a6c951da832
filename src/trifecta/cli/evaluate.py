"""``trifecta evaluate``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Other images.  [default: the run's own]")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SETTING=VALUE",
    help="A setting of these images, such as data.label_column=species.",
)
@click.option("--split", metavar="NAME", help="Another split.  [default: the run's test split]")
@click.option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, …")
@click.option("--precision", default=None, metavar="NAME", help="[default: the run's]")
@click.option(
    "--shortlist", type=int, metavar="N", help="Only the N likeliest labels to the end, 0 for all."
)
@click.option(
    "--views", default="none", metavar="NAME", help="Mean over flip or flip-shift: 2 or 6 times the work."
)
@IMPORT
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate_command(**options: Any) -> None:
    """Measure a trained run on its test split, block by block."""
    act("evaluate", "evaluate_run", options)
