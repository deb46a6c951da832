"""Many steps and many trainings in one process: memory, threads and open files must not grow."""

import gc
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trifecta.data import ImageData
from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.network import build_network
from trifecta.training import RunConfig, train

# What is warmed up before the first look, as a share of all.
WARM = 0.25
Used = dict[str, int]


def many_steps(steps: int) -> tuple[Used, Used]:
    """Use of the process after a quarter of so many steps, and after all."""
    network = build_network(
        get_method("trifecta"), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=0
    )
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 3
    return _watched(lambda number: learner.step(images, labels), steps)


def many_trainings(data: ImageData, trainings: int) -> tuple[Used, Used]:
    """Use after a quarter of so many whole trainings, each with a run folder, and after all."""
    config = RunConfig(width=0.05, epochs=1, batch_size=60, precision="fp32")

    def one(number: int) -> None:
        with TemporaryDirectory() as folder:
            train(replace(config, seed=number), data=data, out=Path(folder) / "run")

    return _watched(one, trainings)


def growth(before: Used, after: Used) -> dict[str, float]:
    """By how much each grew, as a share."""
    return {name: after[name] / before[name] - 1 for name in before}


def _watched(work: Callable[[int], object], times: int) -> tuple[Used, Used]:
    for number in range(round(WARM * times)):
        work(number)
    before = _used()
    for number in range(round(WARM * times), times):
        work(number)
    return before, _used()


def _used() -> Used:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "resident_bytes": resident,
        "threads": threading.active_count(),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
    }
