"""Functions that run in several processes at once, and what each of them returns."""

import os
import traceback
from collections.abc import Callable
from io import BytesIO
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import multiprocessing

Ranked = Callable[..., Any]


def asked_once(
    factory: pytest.TempPathFactory, count: int, run: Ranked, *arguments: Any
) -> tuple[Path, list[Any]]:
    """Call ``run(rank, folder, *arguments)`` in processes; return the folder, and what each returned.

    Workers of pytest that share the tests of a module share the processes, too.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / run.__module__
    folder.mkdir(exist_ok=True)
    answers = folder / "answers.pt"
    with FileLock(folder / "lock"):
        if not answers.is_file():
            torch.save(in_processes(count, folder, run, folder, *arguments), answers)
    return folder, torch.load(answers, weights_only=False)


def in_processes(count: int, folder: Path, run: Ranked, *arguments: Any) -> list[Any]:
    """Call ``run(rank, *arguments)`` in ``count`` processes; return what each returned, by rank.

    Raises:
        AssertionError: one of them failed; says how.
    """
    # Each begins as a copy of a process that has imported what takes seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trifecta.training"])
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{uuid4().hex}"
    answers: Queue[tuple[int, bytes, str | None]] = context.Queue()
    processes = [
        context.Process(target=_run, args=(rank, count, str(meeting), answers, run, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, packed, error = answers.get(timeout=120)
            assert error is None, f"rank {rank}: {error}"
            found[rank] = torch.load(BytesIO(packed), weights_only=False)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [found[rank] for rank in range(count)]


def _run(
    rank: int,
    count: int,
    meeting: str,
    answers: "Queue[tuple[int, bytes, str | None]]",
    run: Ranked,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        # Tensors as bytes: a queue would share their memory, which ends with this process.
        packed = BytesIO()
        torch.save(run(rank, *arguments), packed)
        answers.put((rank, packed.getvalue(), None))
    except BaseException:
        answers.put((rank, b"", traceback.format_exc()))
    dist.destroy_process_group()
