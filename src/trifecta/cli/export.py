"""``trifecta export``."""

from pathlib import Path

import click

from trifecta.cli.parameters import IMPORT
from trifecta.training import load


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--preprocess", is_flag=True, help="Take images as bytes, and normalise them in the graph.")
@IMPORT
def export_command(run: Path, format: str, out: Path, preprocess: bool, imports: tuple[str, ...]) -> None:
    """Write a trained network as one graph, for other runtimes: samples in, class scores out."""
    from trifecta.integrations.export import export

    file = export(load(run, device="cpu", imports=imports), out, format=format, preprocess=preprocess)
    click.echo(file)
