"""``trifecta bench``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trifecta.cli.groups import Group
from trifecta.cli.lazy import act

PREDICTORS = "trifecta,trifecta-shortlist,class-groups,backprop,published"
KEEPERS = "trifecta,class-groups,backprop,backprop-plain-graph,backprop-checkpointed"
_PATH: click.Path = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


@click.group("bench", cls=Group)
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
        help="Of a turn; more where blocks learn at the same time.  [default: 2]",
    ),
)
def speed_command(**options: Any) -> None:
    """Training, images a second."""
    act("bench", "speed", options)


@bench_command.command("inference")
@_options(_NETWORK, _rows(PREDICTORS), *_SETTING)
def inference_command(**options: Any) -> None:
    """Prediction with all labels, images a second."""
    act("bench", "inference", options)


@bench_command.command("memory")
@_options(
    click.option(
        "--networks", metavar="NAMES", help="Compared.  [default: equal blocks over depth, small, large]"
    ),
    _rows(KEEPERS),
    *_SETTING[:-1],
    click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Of each row."),
)
def memory_command(**options: Any) -> None:
    """Training memory above the model, over depth."""
    act("bench", "memory", options)


@bench_command.command("scaling")
@_options(
    _NETWORK,
    click.option("--method", default="superfecta", metavar="NAME", show_default=True),
    _rows(None),
    click.option("--processes", type=click.IntRange(2), default=2, show_default=True),
    click.option(
        "--micro-batches", type=click.IntRange(1), default=4, show_default=True, help="Backprop's."
    ),
    *_SETTING,
    click.option("--steps", type=click.IntRange(1), default=16, show_default=True, help="Of a turn."),
)
def scaling_command(**options: Any) -> None:
    """One process beside several, one thread each: layers, data, and backprop's pipelines."""
    act("bench", "scaling", options)


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
def accuracy_command(**options: Any) -> None:
    """Seconds of training until the validation split is read well enough."""
    act("bench", "accuracy", options)
