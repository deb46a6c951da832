"""``trifecta plan``."""

from typing import Any

import click

from trifecta.cli.lazy import act


@click.command("plan")
@click.option("--method", default="superfecta", metavar="NAME", show_default=True)
@click.option("--network", default="small", metavar="NAME", show_default=True)
@click.option("--width", type=float, default=1.0, show_default=True, help="Multiplies its channels.")
@click.option("--image-shape", default="3x32x32", metavar="CxHxW", show_default=True)
@click.option("--classes", type=int, default=10, show_default=True)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@click.option("--parallel", default="layers", metavar="HOW", show_default=True, help="layers, data or DxL.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan_command(**options: Any) -> None:
    """Show which process would hold which blocks, and what would cross between them."""
    act("plan", "show_plan", options)
