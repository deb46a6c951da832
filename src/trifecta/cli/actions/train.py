"""``trifecta train``."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trifecta._utils.references import name_of
from trifecta.cli.actions.options import build_config, given_names
from trifecta.cli.actions.progress import ConsoleProgress, waiting
from trifecta.cli.actions.signals import stop_on_signal
from trifecta.report.page import write_report
from trifecta.report.terminal import print_run
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.run import finish, resumed_trainer

MAY_CHANGE_ON_RESUME = {"--epochs", "--device", "--import"}


def train(as_json: bool, **options: Any) -> None:
    """Train a network on images; leave a run folder."""
    out, resume = options.pop("out"), options.pop("resume")
    console = Console(stderr=True, quiet=as_json)
    trainer = _new(out, options, console) if resume is None else _resumed(resume, out, options)
    run = _train(trainer, console)
    assert trainer.folder is not None
    write_report(run)
    if as_json:
        click.echo(json.dumps(run.result | {"run": str(trainer.folder.path)}, indent=2))
    else:
        print_run(run, trainer.folder.path)


def _train(trainer: Trainer, console: Console) -> Run:
    assert trainer.folder is not None
    try:
        with ConsoleProgress(console, trainer.config.epochs) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            return finish(trainer)
    except Interrupted as interruption:
        raise Interrupted(
            f"{interruption}; continue with: trifecta train --resume {trainer.folder.path}"
        ) from None


def _new(out: str | None, options: dict[str, Any], console: Console) -> Trainer:
    config = build_config(options)
    folder = RunFolder(_new_folder(config) if out is None else out)
    folder.require_unused()
    source = "data" if config.data is None else config.data.source
    with waiting(console, f"reading {source}"):
        return Trainer(config, folder=folder)


def _resumed(path: str, out: str | None, options: dict[str, Any]) -> Trainer:
    given = given_names(options | {"out": out})
    fixed = [name for name in given if name not in MAY_CHANGE_ON_RESUME]
    if fixed:
        raise ValueError(
            f"a resumed run keeps its settings: received {', '.join(fixed)}; drop it, or start "
            f"a new run with --recipe {path}/config.yaml and --out"
        )
    return resumed_trainer(
        path, epochs=options["epochs"], device=options["device"], imports=options["imports"]
    )


def _new_folder(config: RunConfig) -> Path:
    source = "data" if config.data is None else Path(config.data.source).name
    parts = (source, config.method.name, name_of(config.network))
    name = "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
    paths = (Path("runs") / f"{name}-{number}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
