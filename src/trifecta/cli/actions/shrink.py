"""``trifecta shrink``."""

import json
from pathlib import Path

import click

from trifecta.report.page import write_report
from trifecta.report.terminal import print_run
from trifecta.shrinking import shrink
from trifecta.training import RunFolder


def shrink_run(
    run: Path, out: str, keep: float, epochs: int, imports: tuple[str, ...], as_json: bool
) -> None:
    """Remove the channels of a trained network that its blocks need least; leave a smaller run."""
    before = RunFolder(run)
    smaller = shrink(run, out, keep=keep, epochs=epochs, imports=imports)
    write_report(smaller)
    if as_json:
        click.echo(json.dumps(smaller.result, indent=2))
        return
    print_run(smaller, Path(out))
    if before.result.is_file():
        whole = before.read_result()
        share = smaller.result["parameters"] / whole["parameters"]
        points = 100 * (smaller.result["test_accuracy"] - whole["test_accuracy"])
        click.echo(f"{share:.1%} of the parameters, {points:+.2f} points")
