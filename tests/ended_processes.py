"""A training in several processes that is started, watched and stopped from outside."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

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
