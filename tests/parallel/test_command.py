"""``trifecta train`` in several processes, as a person starts it."""

import subprocess
import sys
from pathlib import Path

import pytest

from trifecta.training import RunFolder

TRAIN = ("--data", "digits", "--width", "0.1", "--epochs", "1", "--precision", "fp32")
TWO = ("--processes", "2", "--parallel")


def trained(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trifecta", "train", *TRAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def first_losses(folder: Path, *arguments: str) -> list[float]:
    done = trained(*arguments, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    losses: list[float] = RunFolder(folder).read_history()[0]["loss"]
    return losses


@pytest.mark.slow
def test_synchronised_statistics_make_replicas_learn_what_one_process_does(tmp_path: Path) -> None:
    one = first_losses(tmp_path / "one")
    synchronised = first_losses(tmp_path / "two", *TWO, "data", "--sync-batch-norm")
    own = first_losses(tmp_path / "own", *TWO, "data")
    assert synchronised == pytest.approx(one, rel=1e-3)
    assert own != pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_statistics_of_stages_are_refused_in_a_line(tmp_path: Path) -> None:
    done = trained(*TWO, "layers", "--sync-batch-norm", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line for line in lines if "--sync-batch-norm is for replicas" in line] == lines[:1]
    assert not (tmp_path / "run").exists()
