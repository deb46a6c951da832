"""Calling the command line as a person does."""

from pathlib import Path

import pytest

from trifecta.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    status = stop.value.code
    assert isinstance(status, int)
    return status, captured.out, captured.err
