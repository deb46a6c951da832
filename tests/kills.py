"""Killing a training at random moments until it is done: it must be what it would have been."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trifecta.data import ImageData
from trifecta.training import Callback, RunConfig, RunFolder, Trainer, resume, train

STEP, WRITE, WRITTEN, EPOCH = b"s", b"w", b"x", b"e"
MOMENTS = {STEP: "in a step", WRITE: "in a checkpoint's write", WRITTEN: "at an epoch's end"}
MOMENTS[EPOCH] = MOMENTS[WRITTEN]
# Seconds within which a step or a write is likely to be hit.
DELAY = 0.004


class Tell(Callback):
    """Says what the training does, on a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_step_end(self, trainer: Trainer) -> None:
        os.write(self.pipe, STEP)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        os.write(self.pipe, EPOCH)


@dataclass(kw_only=True)
class Killed:
    """What a kill loop did.

    Attributes:
        moments: how many kills came when.
        runs: trainings that came to their end in spite of them.
        differences: what differed from the uninterrupted run; nothing, if all is well.
    """

    moments: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    differences: list[str] = field(default_factory=list)


def kill_loop(config: RunConfig, data: ImageData, work: Path, *, kills: int, seed: int = 0) -> Killed:
    """Train ``config`` again and again, with ``kills`` kills in all, and compare with one whole run."""
    torch.set_num_threads(1)  # a fork has one thread
    draw, killed = random.Random(seed), Killed()
    whole = work / "whole"
    _finish(_start(config, data, whole)[0])
    while sum(killed.moments.values()) < kills:
        folder = work / f"run-{killed.runs}"
        while not (folder / "result.json").is_file():
            moment = _kill(config, data, folder, draw)
            if moment is not None:
                killed.moments[moment] += 1
            if sum(killed.moments.values()) >= kills:
                _finish(_start(config, data, folder)[0])
        killed.differences += differences(whole, folder)
        killed.runs += 1
    return killed


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs, but for times."""
    first, second = RunFolder(one), RunFolder(other)
    states = [folder.read_checkpoint(torch.device("cpu")) for folder in (first, second)]
    pairs: dict[str, tuple[Any, Any]] = {
        "checkpoint": (states[0], states[1]),
        "weights": (first.read_model(), second.read_model()),
        "history": (first.read_history(), second.read_history()),
        "result": (first.read_result(), second.read_result()),
    }
    return [f"{name}{place}" for name, pair in pairs.items() for place in _different(*pair)]


def _different(one: Any, other: Any, place: str = "") -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [place]
    if isinstance(one, Mapping):
        names = {*one, *other}
        timed = {n for n in names if isinstance(n, str) and ("second" in n or "memory" in n)}
        return [p for n in names - timed for p in _different(one.get(n), other.get(n), f"{place}.{n}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [place]
        return [
            p
            for i, pair in enumerate(zip(one, other, strict=True))
            for p in _different(*pair, f"{place}.{i}")
        ]
    return [] if one == other else [place]


def _start(config: RunConfig, data: ImageData, folder: Path) -> tuple[int, int]:
    """Fork a process that trains, or goes on; its number and the pipe on which it tells."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(reader)
        _train(config, data, folder, writer)
    finally:
        os._exit(1)


def _train(config: RunConfig, data: ImageData, folder: Path, pipe: int) -> None:
    write = RunFolder.write_checkpoint

    def telling(self: RunFolder, state: Mapping[str, Any]) -> None:
        os.write(pipe, WRITE)
        write(self, state)
        os.write(pipe, WRITTEN)

    RunFolder.write_checkpoint = telling  # type: ignore[method-assign]
    if (folder / "config.yaml").is_file():
        resume(folder, data=data, callbacks=[Tell(pipe)])
    else:
        train(config, data=data, out=folder, callbacks=[Tell(pipe)])
    os._exit(0)


def _kill(config: RunConfig, data: ImageData, folder: Path, draw: random.Random) -> str | None:
    """Let a process train until a moment that is drawn, and kill it; None if it was done before."""
    pid, pipe = _start(config, data, folder)
    wanted = draw.choice([STEP, STEP, WRITE, EPOCH])
    count = draw.randint(1, 20) if wanted == STEP else draw.randint(1, 2)
    with os.fdopen(pipe, "rb", buffering=0) as events:
        last = b""
        while count and (event := events.read(1)):
            last = event
            count -= event == wanted
        time.sleep(draw.uniform(0, DELAY))
        os.kill(pid, signal.SIGKILL)
        while event := events.read(1):
            last = event
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the training failed by itself"
        return None
    # Before its first step it reads what the last one left.
    return MOMENTS.get(last, "before a step")


def _finish(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), status
    assert os.WEXITSTATUS(status) == 0, "the training failed"
