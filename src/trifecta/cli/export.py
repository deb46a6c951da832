"""``trifecta export``."""

from pathlib import Path
from typing import Any

import click

from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--preprocess", is_flag=True, help="Take images as bytes, and normalise them in the graph.")
@IMPORT
def export_command(**options: Any) -> None:
    """Write a trained network as one graph, for other runtimes: samples in, class scores out."""
    act("export", "export_run", options)
