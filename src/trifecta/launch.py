"""Training from the command line: in this process or in several that it starts, until a signal stops it."""

import itertools
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import torch
from rich.console import Console
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    ProcessFailure,
    start_processes,
)

from trifecta._utils.devices import resolve_device
from trifecta._utils.references import name_of
from trifecta.options import STARTED_HERE, USAGE, Terminated, ToldByProcess, given_words
from trifecta.parallel.links import ProcessError
from trifecta.parallel.plan import Layout, parse_layout
from trifecta.parallel.processes import TIMEOUT, Processes, joined
from trifecta.progress import stop_on_signal, waiting
from trifecta.report.page import write_report
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.callbacks import ConsoleProgress
from trifecta.training.run import finish, resumed_trainer


def train(config: RunConfig | None, options: dict[str, Any]) -> tuple[Run, Path] | None:
    """Train as the command that runs was asked to, and return the run and its folder.

    Args:
        config: of a new run; None to resume.
        options: of the command, by parameter name.

    Returns:
        None in a process that is not the first, or that started others.
    """
    count, layout = options["processes"], (options["parallel"], options["sync_batch_norm"])
    if count is not None and count < 1:
        raise ValueError(f"processes is 1 or more: received processes={count}")
    # Processes that are started get the same arguments.
    if (count or 1) > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        _layout(count, *layout)  # Here, so that a mistake is reported once.
        folder = RunFolder(options["resume"] or options["out"] or _new_folder(config))
        if config is not None:
            folder.require_unused()
        _start(count, folder, is_new=config is not None)
        return None
    with _joined(options["timeout"], options["device"], *layout) as processes:
        return _train_in(processes, config, options)


def _train_in(
    processes: Processes, config: RunConfig | None, options: dict[str, Any]
) -> tuple[Run, Path] | None:
    """Train as one of ``processes``; the first reports progress and writes the files."""
    out, is_first = options["out"], processes.is_first
    processes.require_equal(lambda: {"resume": config is None})
    # torchrun --max-restarts starts processes again with the same arguments.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if restarted and config is not None and out is not None and RunFolder(out).config.is_file():
        config, options = None, options | dict.fromkeys(("data", "epochs", "device")) | {"resume": out}
    console = Console(stderr=True, quiet=options["as_json"] or not is_first)
    if not is_first:
        warnings.simplefilter("ignore")
    if config is None:
        folder = RunFolder(options["resume"])
        folder.read_settings(imports=options["imports"])
        held = folder.claim()
    else:
        folder = RunFolder(processes.agreed((out or _new_folder(config)) if is_first else None))
        held = folder.begin(config)
    with held if is_first else nullcontext(), _advising(folder, processes):
        if config is None:
            same = {name: options[name] for name in ("data", "epochs", "device", "imports")}
            trainer = resumed_trainer(folder.path, processes=processes, **same)
        else:
            with waiting(console, f"reading {'data' if config.data is None else config.data.source}"):
                trainer = Trainer(config, folder=folder, processes=processes)
        with ConsoleProgress(trainer.config.epochs, console) as progress, stop_on_signal(trainer):
            trainer.callbacks.append(progress)
            run = finish(trainer)
        with trainer.learner.whole():
            if trainer.written is not None:
                write_report(run)
    return (run, folder.path) if is_first else None


@contextmanager
def _advising(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """Say how to continue a run that a signal stops."""
    advice = f"continue with: {_resume_command(folder)}"
    try:
        yield
    except Interrupted as stop:
        # All end with the status of the signal that one of them received. They wait for the first one,
        # which is still writing the checkpoint: the launcher ends all as soon as one has ended.
        terminated = any(processes.gathered(isinstance(stop.__cause__, Terminated)))
        raise Interrupted(f"{stop}; {advice}") from (Terminated() if terminated else None)
    except (KeyboardInterrupt, Terminated) as stop:  # before training can be asked to stop
        raise Interrupted(f"stopped; {advice}") from stop


def _resume_command(folder: RunFolder) -> str:
    """Return the command that continues a run, with the processes and modules that it needs."""
    needed = given_words(only=("processes", "parallel", "sync_batch_norm", "timeout", "imports"))
    return shlex.join(["trifecta", "train", "--resume", str(folder.path), *needed])


def _new_folder(config: RunConfig | None) -> Path:
    """Make the first folder of the run's name and a number that does not exist yet."""
    assert config is not None
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


def _layout(processes: int, parallel: str | None, synchronized: bool) -> Layout:
    """Return the layout of a number of processes.

    Raises:
        ValueError: a layout of another number of processes, or statistics of replicas without any.
    """
    layout = parse_layout(parallel or "layers", processes)
    if synchronized and layout.data == 1:
        raise ValueError(
            "sync_batch_norm is for replicas, which share the images of a batch: received "
            f"parallel={parallel or 'layers'}; use data, or both as in 2x3"
        )
    return layout


@contextmanager
def _joined(
    timeout: float | None, device: str | None, parallel: str | None, synchronized: bool
) -> Iterator[Processes]:
    """Meet the other processes if ``torchrun`` or this command started several.

    Raises:
        ValueError: as :func:`_layout`, or options of several processes in one that is alone.
    """
    if "WORLD_SIZE" not in os.environ and (parallel is not None or timeout is not None or synchronized):
        raise ValueError(
            "--parallel, --sync-batch-norm and --timeout are for several processes: received one; give "
            "--processes 2 or more, or start them by torchrun"
        )
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        _layout(1, parallel, synchronized)
        yield Processes()
        return
    layout, own, seconds = _layout(count, parallel, synchronized), resolve_device(device or "auto"), timeout
    if own.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    seconds = TIMEOUT if timeout is None else timeout
    with joined(own, seconds):
        yield Processes(layout, synchronized=synchronized, timeout=seconds)


def _start(processes: int, folder: RunFolder, *, is_new: bool) -> None:
    """Run the command that was given in several processes.

    The first Ctrl-C or SIGTERM lets them finish their batch, the second ends them.

    Args:
        processes: number of them.
        folder: of the run.
        is_new: whether the run begins, so that its folder is removed if nothing was trained.

    Raises:
        ToldByProcess: one of them failed; with its message and its status.
        ProcessError: one of them was ended from outside.
        Interrupted, KeyboardInterrupt, Terminated: a signal stopped them.
        SystemExit: one of them failed, and showed a traceback.
    """
    logging.disable(logging.CRITICAL)  # PyTorch's errors say the same.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # The others are handled here.
    is_named = given_words(only=("out", "resume"))
    arguments = [*click.get_current_context().obj, *([] if is_named else ["--out", str(folder.path)])]
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": f"{STARTED_HERE}{os.getpid()}",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    received: list[int] = []
    started: PContext | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 2 and started is not None:
            for pid in started.pids().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with tempfile.TemporaryDirectory() as logs:
            started = start_processes(
                "trifecta",
                sys.executable,
                args=dict.fromkeys(range(processes), ("-m", "trifecta", *arguments)),
                envs={
                    rank: shared | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(processes)
                },
                logs_specs=DefaultLogsSpecs(logs),
            )
            result = None
            while result is None and not received:
                result = started.wait(0.1, period=0.1)
            # Only here: a signal that came while processes were being started would miss some of them.
            started.close(signal.SIGTERM)
            if received:
                _end(folder, received[0])
            if result is not None and result.is_failed():
                _fail(result.failures, folder, is_new=is_new)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(failures: Mapping[int, ProcessFailure], folder: RunFolder, *, is_new: bool) -> NoReturn:
    """Raise the error of the process that failed first, as :func:`_start` says."""
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    if failure.exitcode < 0:
        raise ProcessError(
            f"process {rank} was ended by signal {-failure.exitcode}; the last checkpoint is whole"
        )
    has_traceback = not Path(failure.error_file).is_file()
    if is_new and (has_traceback or failure.exitcode == USAGE):
        folder.discard_untrained()
    if has_traceback:
        raise SystemExit(failure.exitcode)
    raise ToldByProcess(failure.message, failure.exitcode)


def _end(folder: RunFolder, number: int) -> NoReturn:
    """End as a run of one process does that a signal stopped."""
    cause = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if not folder.config.is_file():
        folder.discard_untrained()
        raise cause
    raise Interrupted(f"stopped; continue with: {_resume_command(folder)}") from cause
