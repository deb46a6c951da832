"""Ctrl-C and SIGTERM while several processes train: what one process does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ended_processes import TRAIN, children, started, wait_for_epochs
from trifecta.training import RunFolder

TWO = ("-m", "trifecta", "train", *TRAIN, "--processes", "2")


def complaints(error: str) -> list[str]:
    """What was said but the epochs' lines."""
    return [line for line in error.splitlines() if line and not line.startswith("epoch ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "times", "status"),
    [(signal.SIGINT, 1, 130), (signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 143)],
)
def test_a_signal_leaves_a_checkpoint_and_one_line(
    number: signal.Signals, times: int, status: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    launcher = started(*TWO, "--out", str(run))
    wait_for_epochs(run, 2)
    of_run = children(launcher.pid)
    for _ in range(times):
        os.kill(launcher.pid, number)
        time.sleep(0.05)
    _, error = launcher.communicate(timeout=100)
    assert launcher.returncode == status, error
    assert complaints(error) == [f"trifecta: stopped; continue with: trifecta train --resume {run}"]
    assert len(of_run) == 2
    assert not any(Path(f"/proc/{process}").exists() for process in of_run.values())
    done = len(RunFolder(run).read_history())
    command = [sys.executable, "-m", "trifecta", "train", "--resume", str(run), "--epochs", str(done + 1)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_signal_before_there_is_a_run_leaves_nothing_and_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = started(*TWO, "--out", str(run))
    until = time.monotonic() + 60
    while not children(launcher.pid) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(launcher.pid, signal.SIGTERM)
    _, error = launcher.communicate(timeout=100)
    assert (launcher.returncode, complaints(error)) == (143, ["trifecta: terminated"])
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(process: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = started(*TWO, "--parallel", "data", "--out", str(run))
    wait_for_epochs(run, 2)
    os.kill(children(launcher.pid)[process], signal.SIGTERM)
    _, error = launcher.communicate(timeout=100)
    assert launcher.returncode == 143, error
    (line,) = complaints(error)
    assert line.startswith("trifecta: stopped in epoch")
    assert line.endswith(f"continue with: trifecta train --resume {run}")


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = started(*TWO, "--data", str(tmp_path / "nowhere"), "--out", str(run))
    _, error = launcher.communicate(timeout=100)
    assert (launcher.returncode, len(complaints(error))) == (2, 1), error
    assert "nowhere" in error
    assert not run.exists()
