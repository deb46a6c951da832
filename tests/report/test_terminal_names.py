"""Names in the terminal act on nothing."""

from pathlib import Path

import pytest
import torch

from command import run
from trifecta.report.terminal import print_predictions


def test_control_characters_of_classes_and_files_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions([Path("x\x1b[2J.png")], torch.tensor([[1.0, 0.0]]), ("a\x1b[31m", "b"))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "a\ufffd[31m" in printed


def test_those_of_a_mistake_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, told = run(capsys, "evaluate", "no\x1b[31m")
    assert status == 2
    assert "\x1b" not in told
