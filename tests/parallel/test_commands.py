"""``trifecta train`` in several processes, as a person starts, stops and loses them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import run as run_command
from trifecta.training import RunFolder, resume

pytestmark = pytest.mark.slow
TINY = ("--method", "pred", "--network", "mlp", "--width", "0.02", "--precision", "fp32")
TRAIN = ("-m", "trifecta", "train", *TINY)
LONG = (*TRAIN, "--epochs", "5000")


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Wait for a process; its status, all that it said, and the lines of it that are not epochs'."""
    try:
        _, error = process.communicate(timeout=300)
    finally:
        process.kill()
    lines = [line for line in error.splitlines() if line and not line.startswith("epoch ")]
    return process.returncode, error, lines


def children(parent: int) -> dict[int, int]:
    """Processes that ``parent`` started, by their rank."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    found = {}
    for pid in listed.stdout.split():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        except OSError:
            continue
        if rank := re.search(r"(?:^|\0)RANK=(\d+)\0", environment):
            found[int(rank.group(1))] = int(pid)
    return found


def wait_for_epochs(folder: Path, count: int) -> None:
    history, until = RunFolder(folder).history, time.monotonic() + 240
    while not history.is_file() or len(history.read_text().splitlines()) < count:
        assert time.monotonic() < until, "no progress"
        time.sleep(0.05)


def missing_after_resuming(run: Path) -> list[int]:
    """Train one more epoch in this process; the epochs that the history then lacks."""
    resume(run, epochs=len(RunFolder(run).read_history()) + 1)
    return [k for k, record in enumerate(RunFolder(run).read_history(), 1) if record["epoch"] != k]


def test_a_second_interrupt_leaves_a_checkpoint_one_line_and_no_process(
    tmp_path: Path, stripes_folder: Path
) -> None:
    run = tmp_path / "run"
    launcher = started(
        *LONG, "--data", str(stripes_folder), "--processes", "2", "--timeout", "8", "--out", str(run)
    )
    wait_for_epochs(run, 2)
    of_run = children(launcher.pid)
    for _ in range(2):
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.05)
    status, error, lines = ended(launcher)
    assert status == 130, error
    needed = "--processes 2 --timeout 8"
    assert lines == [f"trifecta: stopped; continue with: trifecta train --resume {run} {needed}"]
    assert len(of_run) == 2
    assert not any(Path(f"/proc/{process}").exists() for process in of_run.values())
    assert missing_after_resuming(run) == []


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path, stripes_folder: Path) -> None:
    run = tmp_path / "run"
    launcher = started(
        *LONG,
        *("--data", str(stripes_folder), "--processes", "2", "--parallel", "data", "--out", str(run)),
    )
    wait_for_epochs(run, 2)
    os.kill(children(launcher.pid)[1], signal.SIGTERM)
    status, error, lines = ended(launcher)
    assert status == 143, error
    assert len(lines) == 1
    assert lines[0].startswith("trifecta: stopped in epoch")
    resumed = f"trifecta train --resume {run} --processes 2 --parallel data"
    assert lines[0].endswith(f"continue with: {resumed}")


def test_a_signal_before_there_is_a_run_leaves_nothing_and_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = started(*LONG, "--data", "digits", "--processes", "2", "--out", str(run))
    until = time.monotonic() + 120
    while not children(launcher.pid) and time.monotonic() < until:
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    status, _, lines = ended(launcher)
    assert (status, lines) == (143, ["trifecta: terminated"])
    assert not run.exists()


@pytest.mark.parametrize(("how", "parallel"), [(signal.SIGKILL, "layers"), (signal.SIGSTOP, "data")])
def test_a_process_that_ends_or_hangs_ends_the_run(
    how: signal.Signals, parallel: str, tmp_path: Path, stripes_folder: Path
) -> None:
    run = tmp_path / "run"
    options = ("--processes", "2", "--parallel", parallel, "--timeout", "8", "--out", str(run))
    launcher = started(*LONG, "--data", str(stripes_folder), *options)
    wait_for_epochs(run, 2)
    os.kill(children(launcher.pid)[1], how)
    status, error, _ = ended(launcher)
    assert status not in (0, 2)
    assert any(line.startswith("trifecta: ") and "process 1" in line for line in error.splitlines()), error
    assert "Traceback" not in error
    assert how != signal.SIGKILL or missing_after_resuming(run) == []


def test_torchrun_resumes_by_itself(tmp_path: Path, stripes_folder: Path) -> None:
    run = tmp_path / "run"
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1")
    options = ("--epochs", "40", "--parallel", "data", "--sync-batch-norm", "--out", str(run))
    launcher = started(*torchrun, *TRAIN, "--data", str(stripes_folder), *options)
    wait_for_epochs(run, 1)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    status, error, _ = ended(launcher)
    assert status == 0, error
    assert [record["epoch"] for record in RunFolder(run).read_history()] == list(range(1, 41))
    assert RunFolder(run).read_result()["epochs"] == 40
    assert RunFolder(run).read_resolved()["sync_batch_norm"] is True


def test_what_all_processes_refuse_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    status, error, lines = ended(
        started(*LONG, "--processes", "2", "--data", str(tmp_path / "nowhere"), "--out", str(out))
    )
    assert (status, len(lines)) == (2, 1), error
    assert "nowhere" in error
    status, _, error = run_command(
        capsys, *TRAIN[2:], "--data", "digits", "--processes", "2", "--sync-batch-norm", "--out", out
    )
    assert (status, error.count("\n")) == (2, 1)
    assert " is for replicas, which share the images" in error
    assert not list(tmp_path.iterdir())


def test_a_port_that_another_program_has_ends_all(tmp_path: Path) -> None:
    """Processes that a person starts by hand, as on several hosts."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        meeting = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(other.getsockname()[1]),
            "WORLD_SIZE": "2",
        }
        out = ("--parallel", "data", "--timeout", "2", "--out", str(tmp_path / "run"))
        for process in [
            started(*TRAIN, "--data", "digits", *out, RANK=rank, **meeting) for rank in ("0", "1")
        ]:
            status, error, _ = ended(process)
            last = [line for line in error.splitlines() if line.startswith("trifecta: ")]
            assert (status, len(last), "Traceback" in error) == (1, 1, False), error
            assert "did not meet" in last[0]
