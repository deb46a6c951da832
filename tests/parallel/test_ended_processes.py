"""Processes that are killed or stopped: the others end, say which it was, and leave the checkpoint."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ended_processes import TRAIN, children, started, wait_for_epochs
from trifecta.training import RunFolder


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
