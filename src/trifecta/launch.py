"""Training from the command line: in this process or in several that it starts, until a signal stops it."""

import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.progress import Progress
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trifecta._utils.devices import resolve_device
from trifecta._utils.references import name_of
from trifecta.options import MESSAGE_FILE, PROCESSES, USAGE, Terminated, tell
from trifecta.parallel.links import ProcessError
from trifecta.parallel.plan import Layout, parse_layout
from trifecta.parallel.processes import TIMEOUT, Processes, joined
from trifecta.report.page import write_report
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.callbacks import ConsoleProgress
from trifecta.training.run import finish, resumed_trainer

Options = Mapping[str, Any]
# Seconds at most that processes which are asked to end have for it.
PATIENCE = 30


def train(config: RunConfig | None, options: Options, words: Sequence[str]) -> tuple[Run, Path] | None:
    """Train as ``trifecta train`` asks by its ``options`` and ``words``; without ``config`` resume a run.

    Return the run and its folder; None in a process that is not the first, or that started others.
    """
    if (options["processes"] or 1) > 1 and not {MESSAGE_FILE, "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        _layout(options, options["processes"])  # Here, so that a mistake is reported once.
        named = options["resume"] or options["out"]
        folder = RunFolder(named or _new_folder(config))
        if config is not None:
            folder.require_unused()
        words = [*words, *([] if named else ["--out", str(folder.path)])]
        with _advising(folder, Processes()):
            _train_in_several(words, options, folder)
        return None
    # torchrun --max-restarts starts processes again with the same arguments.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    out = options["out"]
    if restarted and config is not None and out is not None and RunFolder(out).config.is_file():
        config, options = None, {**options, "data": None, "epochs": None, "device": None, "resume": out}
    with _joined(options) as processes:
        return _train_in(processes, config, options)


def _train_in(processes: Processes, config: RunConfig | None, options: Options) -> tuple[Run, Path] | None:
    """Train as one of ``processes``; the first reports progress and writes the files."""
    is_first = processes.is_first
    processes.require_equal(lambda: {"resume": config is None})
    console = Console(stderr=True, quiet=options["as_json"] or not is_first)
    if not is_first:
        warnings.simplefilter("ignore")
    if config is None:
        folder = RunFolder(options["resume"])
        folder.read_settings(imports=options["imports"])
        held = folder.claim()
    else:
        own = (options["out"] or _new_folder(config)) if is_first else None
        folder = RunFolder(processes.agreed(own))
        held = folder.begin(config)
    with held if is_first else nullcontext(), _advising(folder, processes):
        if config is None:
            same = {name: options[name] for name in ("data", "epochs", "device", "imports")}
            trainer = resumed_trainer(folder.path, processes=processes, **same)
        else:
            with waiting(console, f"reading {'data' if config.data is None else config.data.source}"):
                trainer = Trainer(config, folder=folder, processes=processes)
        with watched(trainer, console):
            run = finish(trainer)
        with trainer.learner.whole():
            if trainer.written is not None:
                write_report(run)
    return (run, folder.path) if is_first else None


@contextmanager
def _advising(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """Say how to continue a run that a signal stops."""
    told, cause = "stopped", None
    try:
        yield
    except Interrupted as stop:
        # All end with the status of the signal that one of them received. They wait for the first one,
        # which is still writing the checkpoint: the launcher ends all as soon as one has ended.
        terminated = any(processes.gathered(isinstance(stop.__cause__, Terminated)))
        told, cause = str(stop), Terminated() if terminated else KeyboardInterrupt()
    except (KeyboardInterrupt, Terminated) as stop:  # before training can be asked to stop
        if not folder.config.is_file():
            folder.discard_untrained()
            raise
        cause = stop
    if cause is not None:
        raise Interrupted(f"{told}; continue with: trifecta.resume({str(folder.path)!r})") from cause


def _new_folder(config: RunConfig | None) -> Path:
    """Make the first folder of the run's name and a number that does not exist yet."""
    assert config is not None
    source = "data" if config.data is None else Path(config.data.source).name
    parts, number = (source, config.method.name, name_of(config.network)), 1
    name = "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
    while True:
        path = Path("runs") / f"{name}-{number}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        number += 1


def _layout(options: Options, processes: int) -> Layout:
    """Return the layout of a number of processes, 0 if nothing started this one as one of several."""
    for name in PROCESSES[1:]:
        if options[name] and not processes:
            given = name if options[name] is True else f"{name}={options[name]}"
            raise ValueError(
                f"{given} is for several processes: received one; give processes=2 or more, or start them "
                "by torchrun"
            )
    parallel = options["parallel"] or "layers"
    layout = parse_layout(parallel, max(1, processes))
    if options["sync_batch_norm"] and layout.data == 1:
        raise ValueError(
            "sync_batch_norm is for replicas, which share the images of a batch: received "
            f"parallel={parallel}; use data, or both as in 2x3"
        )
    return layout


@contextmanager
def _joined(options: Options) -> Iterator[Processes]:
    """Meet the other processes if ``torchrun`` or this command started several."""
    layout = _layout(options, int(os.environ.get("WORLD_SIZE", "0")))
    if layout.ranks == 1:
        yield Processes()
        return
    own, timeout = resolve_device(options["device"] or "auto"), options["timeout"] or TIMEOUT
    if own.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with joined(own, timeout):
        yield Processes(layout, synchronized=options["sync_batch_norm"], timeout=timeout)


def _train_in_several(words: Sequence[str], options: Options, folder: RunFolder) -> None:
    """Run a command in several processes, which train in ``folder``.

    The first Ctrl-C or SIGTERM lets them finish their batch, the second ends them.
    """
    count, patience = options["processes"], min(PATIENCE, options["timeout"] or TIMEOUT)
    received: list[int] = []
    started: list[Popen[bytes]] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 2:
            for process in started:
                process.terminate()

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    meeting |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    meeting |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    with on_signal(stop), tempfile.TemporaryDirectory() as messages:
        files = [Path(messages, str(rank)) for rank in range(count)]
        try:
            for rank, file in enumerate(files):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), MESSAGE_FILE: str(file)}
                # In sessions of their own: a terminal's Ctrl-C is for this process alone.
                command = [sys.executable, "-m", "trifecta", *words]
                started.append(Popen(command, env=os.environ | meeting | own, start_new_session=True))
            statuses: list[int | None] = [None]
            while not received and None in statuses and not any(statuses):
                time.sleep(0.1)
                statuses = [process.poll() for process in started]
        finally:
            _end(started, patience)
        if received:
            raise Terminated if received[0] == signal.SIGTERM else KeyboardInterrupt
        failed = [rank for rank, status in enumerate(statuses) if status]
        if failed:
            # A process that was killed leaves no message, and others fail because of it.
            first = min(failed, key=lambda rank: files[rank].stat().st_mtime if files[rank].exists() else 0)
            _fail(first, statuses[first] or 0, files[first], None if options["resume"] else folder)


def _fail(rank: int, status: int, message: Path, new: RunFolder | None) -> NoReturn:
    """Raise the error of the process that failed first, as :func:`_train_in_several` says."""
    if status < 0:
        raise ProcessError(f"process {rank} was ended by signal {-status}; the last checkpoint is intact")
    if new is not None and (status == USAGE or not message.exists()):
        new.discard_untrained()
    if message.exists():
        tell(message.read_text("utf-8"))
    raise SystemExit(status)


def _end(processes: Sequence[Popen[bytes]], patience: float) -> None:
    """Ask processes to end; kill those that have not after ``patience`` seconds."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def waiting(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show the reason of a wait, on a terminal only; yield a function that changes it."""
    status = console.status(text)
    with status if console.is_terminal else nullcontext():  # Older releases of rich leave an empty line.
        yield status.update


@contextmanager
def scoring(images: int) -> Iterator[Callable[[int], None]]:
    """Show the number of scored images, on a terminal only; yield a function to call after each batch."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    with bar if console.is_terminal else nullcontext():
        yield partial(bar.advance, bar.add_task("scoring", total=images))


@contextmanager
def on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Call ``act`` with the number of each SIGINT and SIGTERM, which end nothing by themselves."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: act(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def watched(trainer: Trainer, console: Console) -> Iterator[None]:
    """Show the progress of a training, and let a signal stop it after its batch; a second acts at once.

    An exception of the trainer has a :class:`Terminated` as its cause if the signal was SIGTERM.
    """
    received: list[int] = []

    def ask(number: int) -> None:
        received.append(number)
        if len(received) > 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        trainer.stop_requested = True

    try:
        with ConsoleProgress(trainer.config.epochs, console) as progress, on_signal(ask):
            trainer.callbacks.append(progress)
            yield
    except Exception as stop:
        if received == [signal.SIGTERM]:
            stop.__cause__ = Terminated()
        raise
