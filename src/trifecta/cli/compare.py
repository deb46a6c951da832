"""``trifecta compare``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act

_PATH: click.Path = click.Path(path_type=Path)


@click.command("compare")
@click.option("--data", required=True, metavar="SOURCE", help="Folder, Hub id, or `digits`.")
@click.option(
    "--methods",
    required=True,
    metavar="NAMES",
    help="Comma-separated: methods as in `trifecta list`, and rows that are none, such as backprop-muon.",
)
@click.option("--networks", default="small", metavar="NAMES", show_default=True)
@click.option("--budget", default="grid", metavar="NAME", show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--thresholds", default="0.5,0.7", show_default=True, help="Validation accuracies.")
@click.option("--device", default="auto", metavar="NAME", show_default=True)
@click.option("--precision", default="auto", metavar="NAME", show_default=True)
@click.option(
    "--pipeline",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="So many blocks learn at the same time, where a method allows (CPU).",
)
@click.option("--out", type=_PATH, default=Path("benchmarks/results/compared"), show_default=True)
@click.option("--work", type=_PATH, default=Path("runs/compare"), show_default=True)
@click.option("--figure", type=_PATH, help="Accuracy over seconds: .svg, .png or .pdf.")
@click.option("--untimed", is_flag=True, help="Keep no times: the machine does other work too.")
@click.option("--show", is_flag=True, help="Run nothing: show what there is.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def compare_command(**options: Any) -> None:
    """Train methods on equal work; show accuracy, size, work, speed, memory and locality side by side."""
    act("compare", "compare_methods", options)
