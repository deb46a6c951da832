"""Folders that nobody may write to."""

import multiprocessing.synchronize  # noqa: F401  (while Python's own files can be read)
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trifecta._utils.files import StorageError
from trifecta.cli import main
from trifecta.data import DataConfig, ImageData
from trifecta.training import Callback, RunConfig, Trainer, load, resume, train

SMALL = RunConfig(method="pred", width=0.05, epochs=3, batch_size=60, precision="fp32")
NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user whom permissions bind: root may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, as those that pytest makes cannot be."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o777)
    yield made
    for path in (made, *made.rglob("*")):
        path.chmod(0o777)
    shutil.rmtree(made)


def lock(path: Path) -> None:
    """Leave everybody the rights to read, nobody those to write."""
    for below in (*path.rglob("*"), path):
        below.chmod(0o555 if below.is_dir() else 0o444)


def exit_status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_a_run_in_a_read_only_folder_is_refused_before_it_trains(
    stripes: ImageData, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(folder)
    with without_rights():
        with pytest.raises(ValueError, match=r"cannot write .*run.*Permission denied"):
            train(SMALL, data=stripes, out=folder / "run")
        status = exit_status("train", "--data", "digits", "--width", "0.05", "--out", str(folder / "run"))
    error = capsys.readouterr().err
    assert status == 2
    assert str(folder / "run") in error
    assert "Traceback" not in error
    assert list(folder.iterdir()) == []


def test_a_run_that_becomes_read_only_keeps_its_last_checkpoint(stripes: ImageData, folder: Path) -> None:
    run = folder / "run"

    class Lock(Callback):
        def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
            if epoch == 2:
                lock(run)

    uninterrupted = train(SMALL, data=stripes, out=folder / "whole")
    with without_rights(), pytest.raises(StorageError, match=r"cannot write .*run.*last checkpoint"):
        train(SMALL, data=stripes, out=run, callbacks=[Lock()])
    for path in (run, *run.rglob("*")):
        path.chmod(0o777)
    resumed = resume(run, data=stripes)
    weights = resumed.network.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in uninterrupted.network.state_dict().items())


@pytest.mark.slow
def test_a_read_only_run_is_read_and_not_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, elsewhere = folder / "run", folder / "page.html"
    finished = train(replace(SMALL, epochs=1, data=DataConfig(source="digits")), out=run)
    lock(run)
    # Here, so that everything is imported: others may not be able to read where Python is.
    assert exit_status("report", str(run), "--out", str(elsewhere)) == 0
    with without_rights():
        labels = load(run).predict(finished.trainer.data.test.images[:4])
        assert exit_status("evaluate", str(run)) == 0
        capsys.readouterr()
        assert exit_status("report", str(run)) == 3
        assert exit_status("train", "--resume", str(run)) == 2
    assert len(labels) == 4
    assert "<html" in elsewhere.read_text()
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert error.count(str(run)) == 2
    assert "Traceback" not in error
