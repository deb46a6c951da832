"""``trifecta train``."""

import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trifecta._utils.references import name_of
from trifecta.cli.actions.options import build_config, given_names
from trifecta.cli.actions.processes import (
    chosen_layout,
    joined_processes,
    start,
    starts_processes,
    was_restarted,
)
from trifecta.cli.actions.progress import waiting
from trifecta.cli.signals import Terminated, stop_on_signal
from trifecta.parallel.processes import Alone
from trifecta.report.page import write_report
from trifecta.report.terminal import print_run
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.callbacks import ConsoleProgress
from trifecta.training.run import finish, resumed_trainer

MAY_CHANGE_ON_RESUME = {"--data", "--epochs", "--device", "--import"}


def train(
    as_json: bool,
    processes: int | None,
    parallel: str | None,
    sync_batch_norm: bool,
    timeout: float | None,
    **options: Any,
) -> None:
    """Train a network on images; leave a run folder."""
    if starts_processes(processes):
        assert processes is not None
        # Here, so that it is said once.
        chosen_layout(parallel, processes, sync_batch_norm=sync_batch_norm)
        start(processes, _folder_for(options), is_new=options["resume"] is None)
        return
    with joined_processes(parallel, timeout, options["device"], sync_batch_norm=sync_batch_norm) as those:
        _train_in(those, as_json, options)


def _train_in(processes: Alone, as_json: bool, options: dict[str, Any]) -> None:
    """Train as one of ``processes``, of which the first says what happens and writes the files."""
    out, resume = options.pop("out"), options.pop("resume")
    processes.require_equal(lambda: {"resume": resume is not None})
    if resume is None and out is not None and was_restarted() and RunFolder(out).config.is_file():
        resume, out, options = out, None, dict.fromkeys(options) | {"imports": options["imports"]}
    console = Console(stderr=True, quiet=as_json or not processes.is_first)
    if not processes.is_first:
        warnings.simplefilter("ignore")
    if resume is None:
        config = build_config(options)
        name = None if not processes.is_first else _new_folder(config) if out is None else Path(out)
        folder = RunFolder(processes.agreed(name))
        with _held(processes, lambda: folder.begin(config)), _stopped_early(folder):
            with waiting(console, f"reading {'data' if config.data is None else config.data.source}"):
                trainer = Trainer(config, folder=folder, processes=processes)
            run = _train(trainer, console)
    else:
        _check_resume(resume, out, options)
        folder = RunFolder(resume)
        folder.read_settings(imports=options["imports"])
        with _held(processes, folder.claim), _stopped_early(folder):
            trainer = resumed_trainer(
                folder.path,
                epochs=options["epochs"],
                device=options["device"],
                data=options["data"],
                imports=options["imports"],
                processes=processes,
            )
            run = _train(trainer, console)
    if not processes.is_first:
        return
    if as_json:
        click.echo(json.dumps(run.result | {"run": str(folder.path)}, indent=2))
    else:
        print_run(run, folder.path)


def _folder_for(options: dict[str, Any]) -> RunFolder:
    """Return the folder of a run that other processes make, once its options are known to be usable."""
    out, resume = options["out"], options["resume"]
    if resume is not None:
        _check_resume(
            resume, out, {name: v for name, v in options.items() if name not in ("out", "resume")}
        )
        return RunFolder(resume)
    config = build_config(options)
    folder = RunFolder(_new_folder(config) if out is None else out)
    folder.require_unused()
    return folder


def _held(
    processes: Alone, hold: Callable[[], AbstractContextManager[None]]
) -> AbstractContextManager[None]:
    """Hold the folder, in the process that writes to it."""
    return hold() if processes.is_first else nullcontext()


def _train(trainer: Trainer, console: Console) -> Run:
    assert trainer.folder is not None
    try:
        with ConsoleProgress(trainer.config.epochs, console) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            run = finish(trainer)
    except Interrupted as interruption:
        # All end with the status of the signal that one of them received. They wait for the first one,
        # which is still writing the checkpoint: the launcher ends all as soon as one has ended.
        terminated = trainer.processes.is_true_of_any(isinstance(interruption.__cause__, Terminated))
        raise Interrupted(
            f"{interruption}; continue with: trifecta train --resume {trainer.folder.path}"
        ) from (Terminated() if terminated else None)
    with trainer.processes.whole(trainer.network):
        if trainer.written is not None:
            write_report(run)
    return run


@contextmanager
def _stopped_early(folder: RunFolder) -> Iterator[None]:
    """Say how to go on where Ctrl-C comes before training can be asked to stop."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        raise Interrupted(f"stopped; continue with: trifecta train --resume {folder.path}") from stop


def _check_resume(path: str, out: str | None, options: dict[str, Any]) -> None:
    """Refuse what a resumed run cannot change."""
    given = given_names(options | {"out": out})
    fixed = [name for name in given if name not in MAY_CHANGE_ON_RESUME]
    if fixed:
        raise ValueError(
            f"a resumed run keeps its settings: received {', '.join(fixed)}; drop it, or start "
            f"a new run with --recipe {path}/config.yaml and --out"
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
