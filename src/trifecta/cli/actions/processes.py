"""Training in several processes: joining them, and starting them on this machine."""

import atexit
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import torch
from click.core import ParameterSource

from trifecta._utils.devices import resolve_device
from trifecta.cli.launched import STARTED_HERE, USAGE, ToldByProcess
from trifecta.cli.signals import OF_STOPPING, Terminated
from trifecta.parallel.faults import ProcessError
from trifecta.parallel.plan import Layout, parse_layout
from trifecta.parallel.processes import TIMEOUT, Alone, Together, joined
from trifecta.training import Interrupted, RunFolder

DEFAULT_LAYOUT = "layers"


def starts_processes(processes: int | None) -> bool:
    """Whether this process is to start others, which then do the work.

    Raises:
        ValueError: a number below 1.
    """
    if processes is None:
        return False
    if processes < 1:
        raise ValueError(f"--processes is 1 or more: received {processes}")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # One of those that were started with the same arguments.
        return False
    return processes > 1


def start(processes: int, folder: RunFolder, *, is_new: bool) -> None:
    """Run the command that was given in so many processes, by PyTorch's own launcher.

    The first Ctrl-C or SIGTERM lets them finish their batch, the second ends them.

    Args:
        processes: how many.
        folder: of the run.
        is_new: whether the run begins, so that its folder is removed where nothing was trained.

    Raises:
        ToldByProcess: one of them failed; with its message and its status.
        ProcessError: one of them was ended from outside.
        Interrupted, KeyboardInterrupt: a signal stopped them.
        SystemExit: one of them failed, and showed a traceback.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"{STARTED_HERE}{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGHUP,SIGQUIT",  # The others are handled here.
    )
    # What it has to say stands in its error, too.
    logging.disable(logging.CRITICAL)
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) <= 2:
            # The launcher hands this on to the processes and waits for them, the second time too.
            raise SignalException("stopped", sigval=signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in OF_STOPPING}
    try:
        elastic_launch(config, sys.executable)("-m", "trifecta", "train", *_arguments(folder))
    except SignalException as error:
        _stopped(folder, received[0] if received else error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise ProcessError(
                f"process {rank} was ended by signal {-failure.exitcode}; the last checkpoint is whole"
            ) from None
        showed_why = not Path(failure.error_file).is_file()  # a traceback
        if is_new and (showed_why or failure.exitcode == USAGE):
            folder.discard_untrained()
        if showed_why:
            raise SystemExit(failure.exitcode) from None
        raise ToldByProcess(failure.message, failure.exitcode) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopped(folder: RunFolder, number: int) -> NoReturn:
    """End as a run of one process does that a signal stopped."""
    cause = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    # A second signal leaves the launcher's threads as they are, which Python would abort on as it ends.
    atexit.register(_leave, 128 + number)
    if not folder.config.is_file():
        folder.discard_untrained()
        raise cause
    raise Interrupted(f"stopped; continue with: trifecta train --resume {folder.path}") from cause


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _arguments(folder: RunFolder) -> list[str]:
    """Return the arguments of the command that runs, with the folder that it was given or not."""
    arguments = given_arguments()
    is_named = {"--out", "--resume"} & set(arguments)
    return arguments if is_named else [*arguments, "--out", str(folder.path)]


def chosen_layout(parallel: str | None, processes: int, *, sync_batch_norm: bool) -> Layout:
    """Read the layout of so many processes.

    Raises:
        ValueError: a layout of another number of processes, or statistics of replicas without any.
    """
    layout = parse_layout(parallel or DEFAULT_LAYOUT, processes)
    if sync_batch_norm and layout.data == 1:
        raise ValueError(
            "--sync-batch-norm is for replicas, which share the images of a batch: received "
            f"--parallel {parallel or DEFAULT_LAYOUT}; use data, or both as in 2x3"
        )
    return layout


def was_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started this process again, with the same arguments."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def given_arguments() -> list[str]:
    """Return the arguments of the command that runs, as they were given."""
    context = click.get_current_context()
    arguments = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        arguments += _spelt(parameter.opts[0], context.params[name])
    return arguments


def _spelt(option: str, value: Any) -> list[str]:
    if value is True:
        return [option]
    if option == "--image-size":
        return [option, "x".join(map(str, value))]
    values = value if isinstance(value, tuple) else (value,)
    return [word for each in values for word in (option, str(each))]


@contextmanager
def joined_processes(
    parallel: str | None, timeout: float | None, device: str | None, *, sync_batch_norm: bool = False
) -> Iterator[Alone]:
    """Meet the other processes where ``torchrun`` started several.

    Raises:
        ValueError: as :func:`chosen_layout`, or what is for several processes where nobody started them.
    """
    given = parallel is not None or timeout is not None or sync_batch_norm
    if "WORLD_SIZE" not in os.environ and given:
        raise ValueError(
            "--parallel, --sync-batch-norm and --timeout are for several processes: received one; give "
            "--processes 2 or more, or start them by torchrun"
        )
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        if parallel is not None:
            parse_layout(parallel, 1)
        yield Alone()
        return
    layout = chosen_layout(parallel, count, sync_batch_norm=sync_batch_norm)
    own = resolve_device(device or "auto")
    if own.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    seconds = TIMEOUT if timeout is None else timeout
    with joined(own, seconds):
        yield Together(layout, synchronized=sync_batch_norm, timeout=seconds)
