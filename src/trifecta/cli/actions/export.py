"""``trifecta export``."""

from pathlib import Path

import click

from trifecta.training import load


def export_run(run: Path, format: str, out: Path, preprocess: bool, imports: tuple[str, ...]) -> None:
    """Write a trained network as one graph, for other runtimes: samples in, class scores out."""
    from trifecta.integrations.export import export

    file = export(load(run, device="cpu", imports=imports), out, format=format, preprocess=preprocess)
    click.echo(file)
