"""``trifecta reproduce``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act

_PATH: click.Path = click.Path(path_type=Path)


@click.command("reproduce")
@click.argument("table", required=False)
@click.option(
    "--budget", metavar="NAME", help="quick, grid, cpu, night or full.  [default: the table's own]"
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--rows", default="*", metavar="PATTERN", help="Only rows whose name fits, such as `ff-*`.")
@click.option(
    "--data-root",
    type=_PATH,
    envvar="TRIFECTA_DATA",
    help="Folder with mnist, cifar10, …; what it lacks comes from the Hub.  [env: TRIFECTA_DATA]",
)
@click.option("--device", default="auto", metavar="NAME", show_default=True)
@click.option("--precision", default="auto", metavar="NAME", show_default=True)
@click.option("--out", type=_PATH, default=Path("benchmarks/results/reproduced"), show_default=True)
@click.option("--work", type=_PATH, default=Path("runs/reproduce"), show_default=True)
@click.option("--untimed", is_flag=True, help="Keep no times: the machine does other work too.")
@click.option("--show", is_flag=True, help="Run nothing: show what there is.")
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
def reproduce_command(**options: Any) -> None:
    """Run what is missing of TABLE (all where none is named), then show it beside the published figures.

    What was interrupted goes on where it stopped; what is finished is not run again. Several of these
    commands at once share the work.
    """
    act("reproduce", "reproduce", options)
