"""``trifecta predict``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, …")
@click.option(
    "--shortlist", type=int, metavar="N", help="Only the N likeliest labels to the end, 0 for all."
)
@IMPORT
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def predict_command(**options: Any) -> None:
    """Label image files, or all images in a folder.

    Beside each label stands the probability of every class, or of the likeliest five.
    """
    act("predict", "predict", options)
