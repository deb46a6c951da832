"""``trifecta train``."""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    if resume is None:
        config = build_config(options)
        folder = RunFolder(_new_folder(config) if out is None else out)
        with folder.begin(config), _stopped_early(folder):
            run = _train(_new(config, folder, console), console)
    else:
        _check_resume(resume, out, options)
        folder = RunFolder(resume)
        folder.read_settings(imports=options["imports"])
        with folder.claim(), _stopped_early(folder):
            run = _train(_resumed(folder, options), console)
    if as_json:
        click.echo(json.dumps(run.result | {"run": str(folder.path)}, indent=2))
    else:
        print_run(run, folder.path)


def _train(trainer: Trainer, console: Console) -> Run:
    assert trainer.folder is not None
    try:
        with ConsoleProgress(console, trainer.config.epochs) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            run = finish(trainer)
    except Interrupted as interruption:
        raise Interrupted(
            f"{interruption}; continue with: trifecta train --resume {trainer.folder.path}"
        ) from None
    write_report(run)
    return run


@contextmanager
def _stopped_early(folder: RunFolder) -> Iterator[None]:
    """Say how to go on where Ctrl-C comes before training can be asked to stop."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; continue with: trifecta train --resume {folder.path}") from None


def _new(config: RunConfig, folder: RunFolder, console: Console) -> Trainer:
    source = "data" if config.data is None else config.data.source
    with waiting(console, f"reading {source}"):
        return Trainer(config, folder=folder)


def _check_resume(path: str, out: str | None, options: dict[str, Any]) -> None:
    """Refuse what a resumed run cannot change."""
    given = given_names(options | {"out": out})
    fixed = [name for name in given if name not in MAY_CHANGE_ON_RESUME]
    if fixed:
        raise ValueError(
            f"a resumed run keeps its settings: received {', '.join(fixed)}; drop it, or start "
            f"a new run with --recipe {path}/config.yaml and --out"
        )


def _resumed(folder: RunFolder, options: dict[str, Any]) -> Trainer:
    return resumed_trainer(
        folder.path, epochs=options["epochs"], device=options["device"], imports=options["imports"]
    )


def _new_folder(config: RunConfig) -> Path:
    """Make the first folder of the run's name and a number that is not there yet."""
    source = "data" if config.data is None else Path(config.data.source).name
    parts = (source, config.method.name, name_of(config.network))
    name = "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
    for number in itertools.count(1):
        path = Path("runs") / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("there is always a next number")
