"""Processes that are killed or stopped: the others end, say which it was, and leave the checkpoint."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trifecta.training import RunFolder

TRAIN = ("--data", "digits", "--width", "0.1", "--epochs", "200", "--precision", "fp32")


def started(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def rank_of(process: int) -> int | None:
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes().decode()
    except OSError:
        return None
    found = re.search(r"(?:^|\0)RANK=(\d+)\0", environment)
    return None if found is None else int(found.group(1))


def children(parent: int) -> dict[int, int]:
    """Processes that ``parent`` started, by their rank."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    ).stdout.split()
    ranks = {pid: rank_of(int(pid)) for pid in listed}
    return {rank: int(pid) for pid, rank in ranks.items() if rank is not None}


def wait_for_epochs(folder: Path, count: int) -> None:
    history, until = RunFolder(folder).history, time.monotonic() + 120
    while time.monotonic() < until:
        if history.is_file() and len(history.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no progress")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "parallel"), [(signal.SIGKILL, "layers"), (signal.SIGSTOP, "data")])
def test_a_process_that_ends_or_hangs_ends_the_run(
    how: signal.Signals, parallel: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    launcher = started(
        *("-m", "trifecta", "train", *TRAIN, "--processes", "2", "--parallel", parallel),
        *("--timeout", "5", "--out", str(run)),
    )
    wait_for_epochs(run, 2)
    os.kill(children(launcher.pid)[1], how)
    # The launcher waits half a minute before it kills what does not end.
    _, error = launcher.communicate(timeout=100)
    assert launcher.returncode not in (0, 2)
    last = [line for line in error.splitlines() if line.startswith("trifecta: ")]
    assert any("process 1" in line for line in last), error
    assert "Traceback" not in error
    # What is left goes on, in one process.
    done = len(RunFolder(run).read_history())
    resumed = subprocess.run(
        [sys.executable, "-m", "trifecta", "train", "--resume", str(run), "--epochs", str(done + 1)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_torchrun_resumes_by_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = started(
        *("-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"),
        *("-m", "trifecta", "train", *TRAIN, "--epochs", "40", "--out", str(run)),
    )
    wait_for_epochs(run, 2)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    _, error = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, error
    assert [record["epoch"] for record in RunFolder(run).read_history()] == list(range(1, 41))
    assert RunFolder(run).read_result()["epochs"] == 40
