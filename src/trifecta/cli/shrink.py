"""``trifecta shrink``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT


@click.command("shrink")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="RUN", help="Folder for the smaller run.")
@click.option("--keep", type=float, default=0.3, show_default=True, help="Share of the parameters.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Of fine-tuning.")
@IMPORT
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def shrink_command(**options: Any) -> None:
    """Remove the channels of a trained network that its blocks need least; leave a smaller run."""
    act("shrink", "shrink_run", options)
