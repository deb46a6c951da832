"""Processes that do not fit together: each of them says why in a line, and all end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from processes import in_processes
from trifecta import get_method
from trifecta.data import ImageData
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import Processes
from trifecta.training import RunConfig, Trainer

CONFIG = RunConfig(width=0.05, epochs=1, batch_size=60, precision="fp32", data=None)
TRAIN = (
    "-m",
    "trifecta",
    "train",
    "--data",
    "digits",
    "--width",
    "0.05",
    "--epochs",
    "1",
    "--timeout",
    "60",
)


def refusals(rank: int, data: ImageData) -> list[str]:
    """What this process says where the other one has something else."""
    other = replace(data, train=replace(data.train, images=255 - data.train.images))
    fewer = replace(data, test=data.test.select(torch.arange(30)))
    method = get_method("superfecta")
    slower = replace(method, optimizer=replace(method.optimizer, learning_rate=0.001))
    pairs = [
        (replace(CONFIG, seed=1), data),
        (replace(CONFIG, epochs=2), data),
        (replace(CONFIG, precision="bf16"), data),
        (replace(CONFIG, method=slower), data),
        (replace(CONFIG, augmentation=replace(CONFIG.augmentation, crop_padding=1)), data),
        (CONFIG, other),
        (CONFIG, fewer),
    ]
    found = []
    for config, images in pairs:
        try:
            Trainer(
                config if rank else CONFIG,
                data=images if rank else data,
                processes=Processes(Layout(data=2)),
            )
        except ValueError as error:
            found.append(str(error))
    try:
        Trainer(replace(CONFIG, batch_size=15), data=data, processes=Processes(Layout(data=2)))
    except ValueError as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_settings_and_data_that_differ_are_named_in_every_process(
    stripes: ImageData, tmp_path: Path
) -> None:
    first, second = in_processes(2, tmp_path, refusals, stripes)
    assert first == second
    for found, expected in zip(
        first,
        (
            r"seed is 0 in process 0 and 1 in process 1",
            r"epochs is 1 in process 0 and 2 in process 1",
            r"precision is 'auto' in process 0 and 'bf16'|precision is 'fp32' in process 0 and 'bf16'",
            r"method.optimizer.learning_rate is .* and 0.001 in process 1",
            r"augmentation.crop_padding is 0 in process 0 and 1 in process 1",
            r"training images.pixels is",
            r"test images.count is 60 in process 0 and 30 in process 1",
            r"equal shares of a batch: received 15 images for 2",
        ),
        strict=True,
    ):
        assert re.search(expected, found), found


def ended(arguments: Sequence[Sequence[str]], port: int, *, timeout: float = 240) -> list[tuple[int, str]]:
    """Start a process for each of ``arguments``; return their exit statuses, and what they said."""
    started = [
        subprocess.Popen(
            [sys.executable, *TRAIN, *own],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(len(arguments)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank, own in enumerate(arguments)
    ]
    try:
        said = [process.communicate(timeout=timeout)[1] for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (["--parallel", "data"], ["--parallel", "layers"], "parallel is"),
        (["--parallel", "data", "--seed", "1"], ["--parallel", "data", "--seed", "2"], "seed is 1"),
    ],
)
def test_commands_that_differ_end_with_a_line(
    first: list[str], second: list[str], named: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "run")]
    for status, said in ended([[*first, *out], [*second, *out]], free_port()):
        last = [line for line in said.splitlines() if line.startswith("trifecta: ")]
        assert (status, len(last), "Traceback" in said) == (2, 1, False), said
        assert named in last[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_port_that_another_program_has_ends_all(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        out = ["--parallel", "data", "--out", str(tmp_path / "run")]
        for status, said in ended([out, out], other.getsockname()[1], timeout=100):
            last = [line for line in said.splitlines() if line.startswith("trifecta: ")]
            assert (status, len(last), "Traceback" in said) == (1, 1, False), said
            assert "did not meet" in last[0]
