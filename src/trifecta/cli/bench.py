"""``trifecta bench``: speed, memory, inference and time to accuracy, against backprop on equal work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trifecta._utils.files import write_atomically
from trifecta.bench import (
    Setting,
    measure_accuracy,
    measure_inference,
    measure_memory,
    measure_speed,
)
from trifecta.bench.memory import DEPTHS
from trifecta.bench.report import check_figure, draw_bench, print_bench
from trifecta.bench.speed import STEPS_A_TURN, Say
from trifecta.bench.variants import select
from trifecta.cli.options import accuracy_configs
from trifecta.cli.parameters import command_line
from trifecta.cli.progress import waiting

PREDICTORS = "trifecta,trifecta-shortlist,class-groups,backprop,published"
KEEPERS = "trifecta,class-groups,backprop,backprop-plain-graph,backprop-checkpointed"
EQUAL = ",".join(f"equal:{depth}:128" for depth in DEPTHS)
_PATH: click.Path = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


@click.group("bench")
def bench_command() -> None:
    """Measure training and prediction beside backprop, on equal work."""


def _options(*options: Decorator) -> Decorator:
    shared = [
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
        click.option("--out", type=_PATH, help="Append the report to this .jsonl file."),
        click.option("--figure", type=_PATH, help="Draw it: .svg, .png or .pdf."),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed([*options, *shared]):
            function = option(function)
        return function

    return decorate


_SETTING: list[Decorator] = [
    click.option("--width", type=float, default=1.0, show_default=True, help="Multiplies its channels."),
    click.option("--image-shape", default="3x32x32", metavar="CxHxW", show_default=True),
    click.option("--classes", "num_classes", type=int, default=10, show_default=True),
    click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step."),
    click.option("--device", default="auto", metavar="NAME", show_default=True),
    click.option("--precision", default="auto", metavar="NAME", show_default=True),
    click.option(
        "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each row."
    ),
]
_DATA = click.option("--data", required=True, metavar="SOURCE", help="Folder, Hub id, or `digits`.")
_NETWORK = click.option("--network", default="small", metavar="NAME", show_default=True)


def _rows(default: str | None) -> Decorator:
    return click.option(
        "--rows", default=default, metavar="NAMES", help="Comma-separated.  [default: all that apply]"
    )


@bench_command.command("speed")
@_options(
    _NETWORK,
    _rows(None),
    *_SETTING,
    click.option(
        "--steps",
        type=click.IntRange(1),
        default=STEPS_A_TURN,
        show_default=True,
        help="Of a turn; more where blocks learn at the same time.",
    ),
)
def speed_command(rows: str | None, rounds: int, steps: int, **options: Any) -> None:
    """Training, images a second."""
    _finish(
        options,
        lambda setting, say: measure_speed(setting, select(rows), rounds=rounds, steps=steps, say=say),
    )


@bench_command.command("inference")
@_options(_NETWORK, _rows(PREDICTORS), *_SETTING)
def inference_command(rows: str | None, rounds: int, **options: Any) -> None:
    """Prediction with all labels, images a second."""
    _finish(options, lambda setting, say: measure_inference(setting, select(rows), rounds=rounds, say=say))


@bench_command.command("memory")
@_options(
    click.option(
        "--networks", default=f"{EQUAL},small,large", metavar="NAMES", show_default=True, help="Compared."
    ),
    _rows(KEEPERS),
    *_SETTING[:-1],
    click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Of each row."),
)
def memory_command(networks: str, rows: str | None, rounds: int, **options: Any) -> None:
    """Training memory above the model, over depth."""
    names = networks.split(",")
    _finish(
        options,
        lambda setting, say: measure_memory(setting, select(rows), names, rounds=rounds, say=say),
    )


@bench_command.command("accuracy")
@_options(
    _DATA,
    click.option("--methods", default="trifecta,class-groups,backprop", show_default=True),
    click.option("--thresholds", default="0.4,0.5,0.6,0.7,0.8,0.9", show_default=True),
    click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many."),
    click.option("--epochs", type=int, default=5, show_default=True),
    click.option("--augment", default="none", metavar="NAME", show_default=True),
    _NETWORK,
    *_SETTING[:1],
    *_SETTING[3:6],
)
def accuracy_command(
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
    setting = Setting(**options | {"image_shape": _image_shape(options["image_shape"])})
    _report(shown, lambda say: measure(setting, say))


def _report(shown: dict[str, Any], measure: Callable[[Say], dict[str, Any]]) -> None:
    """Measure, then leave the report where it is wanted."""
    as_json, out, figure = (shown[name] for name in ("as_json", "out", "figure"))
    if figure is not None:
        check_figure(figure)
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


def _image_shape(text: str) -> tuple[int, int, int]:
    words = text.lower().split("x")
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"--image-shape is CHANNELSxHEIGHTxWIDTH, such as 3x32x32: received '{text}'")
    return int(words[0]), int(words[1]), int(words[2])


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
