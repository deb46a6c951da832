"""``trifecta report``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The page.  [default: in the run; compared.html]"
)
@IMPORT
def report_command(**options: Any) -> None:
    """Write the page of a run anew, or put several runs beside each other."""
    act("report", "report", options)
