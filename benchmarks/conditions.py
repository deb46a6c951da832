"""What a figure depends on, for a line of a result file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from trifecta.bench import conditions as machine_conditions
from trifecta.training import Trainer, to_plain


def conditions(trainer: Trainer) -> dict[str, Any]:
    """Settings, hardware, versions and date; of the data set its name and no folder."""
    assert trainer.config.data is not None
    data = replace(trainer.config.data, source=Path(trainer.config.data.source).name)
    return {
        "settings": to_plain(replace(trainer.config, data=data)),
        "precision": trainer.learner.precision,
        **machine_conditions(trainer.device),
    }
