"""What a figure depends on, for a line of a result file."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trifecta._utils.devices import describe_device
from trifecta.training import Trainer, to_plain
from trifecta.training.run import versions


def conditions(trainer: Trainer) -> dict[str, Any]:
    """Settings, hardware, versions and date; of the data set its name and no folder."""
    assert trainer.config.data is not None
    data = replace(trainer.config.data, source=Path(trainer.config.data.source).name)
    return {
        "settings": to_plain(replace(trainer.config, data=data)),
        "hardware": describe_device(trainer.device),
        "precision": trainer.learner.precision,
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
