"""``trifecta bench``: speed, memory, inference and time to accuracy, against backprop on equal work."""

import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from trifecta._utils.files import write_atomically
from trifecta.bench import (
    Setting,
    measure_accuracy,
    measure_inference,
    measure_memory,
    measure_scaling,
    measure_speed,
)
from trifecta.bench.memory import DEPTHS
from trifecta.bench.report import draw_bench, print_bench
from trifecta.bench.scaling import select_rows
from trifecta.bench.speed import STEPS_A_TURN, Say
from trifecta.bench.variants import select
from trifecta.cli.actions.options import accuracy_configs, image_shape
from trifecta.cli.actions.progress import waiting
from trifecta.cli.parameters import command_line
from trifecta.report.figures import check_format

EQUAL = ",".join(f"equal:{depth}:128" for depth in DEPTHS)


def speed(rows: str | None, rounds: int, steps: int | None, **options: Any) -> None:
    """Training, images a second."""
    _finish(
        options,
        lambda setting, say: measure_speed(
            setting, select(rows), rounds=rounds, steps=steps or STEPS_A_TURN, say=say
        ),
    )


def inference(rows: str | None, rounds: int, **options: Any) -> None:
    """Prediction with all labels, images a second."""
    _finish(options, lambda setting, say: measure_inference(setting, select(rows), rounds=rounds, say=say))


def memory(networks: str | None, rows: str | None, rounds: int, **options: Any) -> None:
    """Training memory above the model, over depth."""
    names = (networks or f"{EQUAL},small,large").split(",")
    _finish(
        options,
        lambda setting, say: measure_memory(setting, select(rows), names, rounds=rounds, say=say),
    )


def scaling(rows: str | None, **options: Any) -> None:
    """One process beside several, one thread each: layers, data, and backprop's pipelines."""
    names = ("method", "processes", "micro_batches", "steps", "rounds")
    how = {name: options.pop(name) for name in names}
    _finish(options, lambda setting, say: measure_scaling(setting, rows=select_rows(rows), say=say, **how))


def accuracy(
    thresholds: str,
    **options: Any,
) -> None:
    """Seconds of training until the validation split is read well enough."""
    shown = {name: options.pop(name) for name in ("as_json", "out", "figure")}
    configs = accuracy_configs(options)
    wanted = [share(word, "--thresholds") for word in thresholds.split(",")]
    _report(shown, lambda say: measure_accuracy(configs, wanted, say=say))


def _finish(options: dict[str, Any], measure: Callable[[Setting, Say], dict[str, Any]]) -> None:
    shown = {name: options.pop(name) for name in ("as_json", "out", "figure")}
    setting = Setting(**options | {"image_shape": image_shape(options["image_shape"])})
    _report(shown, lambda say: measure(setting, say))


def _report(shown: dict[str, Any], measure: Callable[[Say], dict[str, Any]]) -> None:
    """Measure, then leave the report where it is wanted."""
    as_json, out, figure = (shown[name] for name in ("as_json", "out", "figure"))
    if figure is not None:
        check_format(figure)
    with waiting(Console(stderr=True, quiet=as_json), "") as say:
        report = measure(say) | {"command": command_line(click.get_current_context())}
    if out is not None:
        earlier = out.read_text() if out.exists() else ""
        write_atomically(out, lambda path: path.write_text(f"{earlier}{json.dumps(report)}\n"))
    if figure is not None:
        draw_bench(report, figure)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        print_bench(report)


def share(text: str, option: str) -> float:
    """Read a number between 0 and 1.

    Raises:
        ValueError: another one, or none.
    """
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"{option} are numbers between 0 and 1, such as 0.3,0.5: received '{text}'")
    return share
