"""How far a run is, on standard error."""

import sys
from io import StringIO
from pathlib import Path

import pytest

from trifecta import RunConfig, resume, train
from trifecta.data import ImageData

CONFIG = RunConfig(network="mlp", width=0.01, epochs=2, batch_size=120, precision="fp32")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_written_where_they_are_asked_for(
    stripes: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(CONFIG, data=stripes, out=tmp_path, progress=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/2: last block's loss ")
    assert ", validation " in second
    assert second.endswith("images/s")
    resume(tmp_path, data=stripes, epochs=3, progress=True)
    assert capsys.readouterr().err.startswith("epoch 3/3: ")


def test_nothing_is_written_elsewhere(
    stripes: ImageData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(CONFIG, data=stripes)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    train(CONFIG, data=stripes)


@pytest.mark.parametrize("progress", [None, False])
def test_a_terminal_shows_a_bar_unless_it_is_not_wanted(
    progress: bool | None, stripes: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    train(CONFIG, data=stripes, progress=progress)
    assert ("epoch 1/2" in terminal.getvalue()) is (progress is None)
