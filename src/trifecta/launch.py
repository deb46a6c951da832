"""Training from the command line: in this process or in several that it starts, until a signal stops it."""

import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    ProcessFailure,
    start_processes,
)

from trifecta._utils.devices import resolve_device
from trifecta._utils.references import name_of
from trifecta.options import PROCESSES, STARTED_HERE, USAGE, Terminated, tell
from trifecta.parallel.links import ProcessError
from trifecta.parallel.plan import Layout, parse_layout
from trifecta.parallel.processes import TIMEOUT, Processes, joined
from trifecta.progress import on_signal, waiting, watched
from trifecta.report.page import write_report
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer
from trifecta.training.run import finish, resumed_trainer

Options = Mapping[str, Any]
# Seconds at most that processes which are asked to end have for it.
PATIENCE = 30


def train(config: RunConfig | None, options: Options, words: Sequence[str]) -> tuple[Run, Path] | None:
    """Train as a command asks, and return the run and its folder.

    Args:
        config: configuration of a new run; None to resume one.
        options: options of ``trifecta train``, by parameter name.
        words: words of the command, for processes that are started.

    Returns:
        None in a process that is not the first, or that started others.
    """
    if (options["processes"] or 1) > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        _layout(options, options["processes"])  # Here, so that a mistake is reported once.
        named = options["resume"] or options["out"]
        folder = RunFolder(named or _new_folder(config))
        if config is not None:
            folder.require_unused()
        words = [*words, *([] if named else ["--out", str(folder.path)])]
        patience = int(min(PATIENCE, options["timeout"] or TIMEOUT))
        _start(words, options["processes"], folder, is_new=config is not None, patience=patience)
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
    try:
        yield
    except Interrupted as stop:
        # All end with the status of the signal that one of them received. They wait for the first one,
        # which is still writing the checkpoint: the launcher ends all as soon as one has ended.
        terminated = any(processes.gathered(isinstance(stop.__cause__, Terminated)))
        raise _interrupted(stop, folder) from (Terminated() if terminated else None)
    except (KeyboardInterrupt, Terminated) as stop:  # before training can be asked to stop
        raise _interrupted("stopped", folder) from stop


def _interrupted(what: object, folder: RunFolder) -> Interrupted:
    return Interrupted(f"{what}; continue with: trifecta.resume({str(folder.path)!r})")


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
    """Return the layout of a number of processes, 0 if nothing started this one as one of several.

    Raises:
        ValueError: options that are for more processes, or for replicas, than there are.
    """
    parallel, synchronized = options["parallel"] or "layers", options["sync_batch_norm"]
    for name in PROCESSES[1:]:
        if options[name] and not processes:
            given = name if options[name] is True else f"{name}={options[name]}"
            raise ValueError(
                f"{given} is for several processes: received one; give processes=2 or more, or start them "
                "by torchrun"
            )
    layout = parse_layout(parallel, max(1, processes))
    if synchronized and layout.data == 1:
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


def _start(words: Sequence[str], count: int, folder: RunFolder, *, is_new: bool, patience: int) -> None:
    """Run a command in several processes, which train in ``folder``.

    The first Ctrl-C or SIGTERM lets them finish their batch, the second ends them. One that does not end is
    killed after ``patience`` seconds. The folder of a new run is removed if nothing was trained.

    Raises:
        ProcessError: one of them was ended from outside.
        Interrupted, KeyboardInterrupt, Terminated: a signal stopped them.
        SystemExit: one of them failed; its message, or its traceback, has been printed.
    """
    logging.disable(logging.CRITICAL)  # PyTorch's errors say the same.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # The others are handled here.
    received: list[int] = []
    started: PContext | None = None

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 2 and started is not None:
            for pid in started.pids().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with on_signal(stop), tempfile.TemporaryDirectory() as logs:
        started = start_processes(
            "trifecta",
            sys.executable,
            args=dict.fromkeys(range(count), ("-m", "trifecta", *words)),
            envs={rank: _environment(rank, count, store.port) for rank in range(count)},
            logs_specs=DefaultLogsSpecs(logs),
        )
        result = None
        while result is None and not received:
            result = started.wait(0.1, period=0.1)
        # Only here: a signal that came while processes were being started would miss some of them.
        started.close(signal.SIGTERM, timeout=patience)
        if received:
            _end(folder, received[0])
        if result is not None and result.is_failed():
            _fail(result.failures, folder, is_new=is_new)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": f"{STARTED_HERE}{os.getpid()}",
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count)),
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
    }


def _fail(failures: Mapping[int, ProcessFailure], folder: RunFolder, *, is_new: bool) -> NoReturn:
    """Raise the error of the process that failed first, as :func:`_start` says."""
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    if failure.exitcode < 0:
        raise ProcessError(
            f"process {rank} was ended by signal {-failure.exitcode}; the last checkpoint is intact"
        )
    has_message = Path(failure.error_file).is_file()
    if is_new and (failure.exitcode == USAGE or not has_message):
        folder.discard_untrained()
    if has_message:
        tell(failure.message)
    raise SystemExit(failure.exitcode)


def _end(folder: RunFolder, number: int) -> NoReturn:
    """End as a run of one process does that a signal stopped."""
    cause = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if not folder.config.is_file():
        folder.discard_untrained()
        raise cause
    raise _interrupted("stopped", folder) from cause
