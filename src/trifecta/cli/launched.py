"""A process of several that ``trifecta train --processes`` started, and what it tells the one that did."""

import json
import os
import time
from pathlib import Path

import click

USAGE = 2
STARTED_HERE = "trifecta-"


class ToldByProcess(click.ClickException):
    """What a process that was started here said before it failed, and its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def was_started_here() -> bool:
    """Whether this process is one of several that ``--processes`` started."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(STARTED_HERE)


def tell_launcher(line: str) -> bool:
    """Leave an error to the process that started this one, which says one for all; whether there is such.

    The file and its form are those of PyTorch's launcher.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None or not was_started_here():
        return False
    Path(file).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")
    return True
