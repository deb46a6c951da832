"""Changes to the files of a run folder."""

import re
from pathlib import Path


def edit_config(run: Path, pattern: str, replacement: str) -> None:
    """Replace what matches ``pattern`` in a run's settings."""
    config = run / "config.yaml"
    changed, count = re.subn(pattern, replacement, config.read_text())
    assert count, pattern
    config.write_text(changed)
