"""``trifecta train``."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trifecta.cli.options import build_config, given_names
from trifecta.cli.parameters import image_size, superclass_levels
from trifecta.cli.progress import ConsoleProgress
from trifecta.cli.signals import stop_on_signal
from trifecta.report.terminal import print_run
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.run import finish, resumed_trainer

MAY_CHANGE_ON_RESUME = {"--epochs", "--device"}

# Grouped as the help shows them: name, then what click needs to know.
_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--data", metavar="SOURCE", help="Folder, Hub id, or `digits`."),
    click.option("--recipe", metavar="NAME", help="Start from a recipe; options change it."),
    click.option("--budget", metavar="NAME", help="The recipe's size.  [default: its largest]"),
    click.option("--config", metavar="FILE", help="Start from a run's config.yaml."),
    click.option("--out", metavar="RUN", help="Folder for the run.  [default: runs/NAME-NUMBER]"),
    click.option("--resume", metavar="RUN", help="Continue this run from its checkpoint."),
    click.option("--method", metavar="NAME", help="See `trifecta list`.  [default: trifecta]"),
    click.option("--network", metavar="NAME", help="See `trifecta list`.  [default: small]"),
    click.option("--width", type=float, help="Multiplies the network's channels.  [default: 1]"),
    click.option("--epochs", type=int, help="Passes over the training images.  [default: 10]"),
    click.option("--batch-size", type=int, help="Images a step.  [default: 128]"),
    click.option(
        "--optimizer", "algorithm", metavar="NAME", help="adam or muon.  [default: the method's own]"
    ),
    click.option("--learning-rate", type=float, help="At the start.  [default: 0.003]"),
    click.option(
        "--decay", metavar="NAME", help="Of the learning rate, cosine or constant.  [default: cosine]"
    ),
    click.option("--weight-decay", type=float, help="Decoupled.  [default: 0]"),
    click.option("--seed", type=int, help="Of everything random.  [default: 0]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, …  [default: auto]"),
    click.option(
        "--precision", metavar="NAME", help="auto, fp32 or bf16.  [default: auto: the faster of the two]"
    ),
    click.option("--recompute/--no-recompute", default=None, help="Less memory, more time.  [default: no]"),
    click.option("--compile/--no-compile", default=None, help="Compile what gains by it.  [default: no]"),
    click.option(
        "--pipeline",
        type=int,
        metavar="THREADS",
        help="So many blocks learn at the same time (CPU).  [default: 1]",
    ),
    click.option("--validation", type=float, help="Share of the training split.  [default: 0.1]"),
    click.option("--augment", metavar="NAME", help="See `trifecta list`.  [default: none]"),
    click.option(
        "--loss", metavar="NAME", help="symmetric, threshold, cross-entropy or group-cross-entropy."
    ),
    click.option("--alpha", type=float, help="Steepness of the symmetric loss."),
    click.option("--threshold", type=float, help="Of the threshold loss."),
    click.option(
        "--skip-settled",
        type=float,
        metavar="SHARE",
        help="Skip pairs whose gradient is below this share of its largest.  [default: 0, off]",
    ),
    click.option("--goodness", metavar="NAME", help="mean-square, sum-square or mean."),
    click.option(
        "--normalization", metavar="NAME", help="batch, running, layer, class-groups, length, none, …"
    ),
    click.option(
        "--schedule",
        metavar="NAME",
        help="layer-wise, overlapping[:K], blockwise[:K], end-to-end or deeply-supervised.",
    ),
    click.option(
        "--close-last/--idle-last",
        default=None,
        help="Whether the last block, left without a partner, learns alone or idles.",
    ),
    click.option(
        "--label-input", metavar="NAME", help="channel, pattern, overlay, none, other-image or masked-mix."
    ),
    click.option("--negatives", metavar="NAME", help="Wrong labels, uniform or hard.  [default: uniform]"),
    click.option(
        "--superclasses",
        metavar="0,0,1,…",
        callback=superclass_levels,
        help="Each class's superclass, which early blocks learn; levels are parted by /; or none.",
    ),
    click.option("--ownership", metavar="NAME", help="Adam states per `weight` or `objective`."),
    click.option("--head-resets", type=int, help="How often read-out heads start afresh.  [default: 0]"),
    click.option(
        "--freeze-from",
        type=float,
        metavar="SHARE",
        help="Of the run, after which the first block stays as it is, then others.  [default: 1: never]",
    ),
    click.option("--readout", metavar="NAME", help="last, last-half, all-but-first, all, chosen or 2,3,…"),
    click.option("--subset", metavar="NAME", help="Configuration of a Hub data set."),
    click.option("--image-column", metavar="NAME", help="If not the one found by its type."),
    click.option("--label-column", metavar="NAME", help="If not the one found by its type."),
    click.option("--image-size", metavar="SIZE", callback=image_size, help="Resize to N×N, or to HxW."),
    click.option("--train-split", metavar="NAME", help="[default: train]"),
    click.option("--test-split", metavar="NAME", help="[default: test]"),
    click.option("--hold-out", type=float, help="Test share of a source without a test split."),
]


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("train")
@_with_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train_command(as_json: bool, **options: Any) -> None:
    """Train a network on images; leave a run folder."""
    out, resume = options.pop("out"), options.pop("resume")
    console = Console(stderr=True, quiet=as_json)
    trainer = _new(out, options, console) if resume is None else _resumed(resume, out, options)
    run = _train(trainer, console)
    assert trainer.folder is not None
    if as_json:
        click.echo(json.dumps(run.result | {"run": str(trainer.folder.path)}, indent=2))
    else:
        print_run(run, trainer.folder.path)


def _train(trainer: Trainer, console: Console) -> Run:
    assert trainer.folder is not None
    try:
        with ConsoleProgress(console, trainer.config.epochs) as progress, stop_on_signal(trainer):
            trainer.progress = progress
            return finish(trainer)
    except Interrupted as interruption:
        raise Interrupted(
            f"{interruption}; continue with: trifecta train --resume {trainer.folder.path}"
        ) from None


def _new(out: str | None, options: dict[str, Any], console: Console) -> Trainer:
    config = build_config(options)
    folder = RunFolder(_new_folder(config) if out is None else out)
    folder.require_unused()
    with console.status(f"reading {config.data.source}"):
        return Trainer(config, folder=folder)


def _resumed(path: str, out: str | None, options: dict[str, Any]) -> Trainer:
    given = given_names(options | {"out": out})
    fixed = [name for name in given if name not in MAY_CHANGE_ON_RESUME]
    if fixed:
        raise ValueError(
            f"a resumed run keeps its settings: received {', '.join(fixed)}; drop it, or start "
            "a new run with --config and --out"
        )
    return resumed_trainer(path, epochs=options["epochs"], device=options["device"])


def _new_folder(config: RunConfig) -> Path:
    source = re.sub(r"[^\w.-]+", "-", Path(config.data.source).name)
    name = f"{source}-{config.method.name}-{config.network}"
    paths = (Path("runs") / f"{name}-{number}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
