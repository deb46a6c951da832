"""Training in several processes: joining them, and starting them on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch
from click.core import ParameterSource

from trifecta._utils.devices import resolve_device
from trifecta.distributed.plan import parse_layout
from trifecta.distributed.processes import Alone, Together, joined

TIMEOUT = 60.0
DEFAULT_LAYOUT = "layers"


def starts_processes(processes: int | None) -> bool:
    """Whether this process is to start others, which then do the work.

    Raises:
        ValueError: a number that starts none, or inside of a process that was started so.
    """
    if processes is None:
        return False
    if processes < 1:
        raise ValueError(f"--processes is 1 or more: received {processes}")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # One of those that were started with the same arguments.
        return False
    return processes > 1


def start(processes: int) -> None:
    """Run the command that was given in so many processes, by PyTorch's own launcher.

    Raises:
        SystemExit: one of them failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, "python")("-m", "trifecta", "train", *given_arguments())
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 1) from None


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
def joined_processes(parallel: str | None, timeout: float | None, device: str | None) -> Iterator[Alone]:
    """Meet the other processes where ``torchrun`` started several.

    Raises:
        ValueError: a layout for another number of processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        if parallel is not None:
            parse_layout(parallel, 1)
        yield Alone()
        return
    layout = parse_layout(parallel or DEFAULT_LAYOUT, count)
    own = resolve_device(device or "auto")
    if own.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with joined(own, TIMEOUT if timeout is None else timeout):
        yield Together(layout)
