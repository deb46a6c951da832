"""Result files: what a figure depends on, and a line for each record."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trifecta.bench import conditions
from trifecta.training import Trainer, to_plain

HERE = conditions(torch.device("cpu"))


def conditions_of(trainer: Trainer) -> dict[str, Any]:
    """Settings, precision, hardware, versions and date; of the data set its name and no folder."""
    assert trainer.config.data is not None
    data = replace(trainer.config.data, source=Path(trainer.config.data.source).name)
    settings = to_plain(replace(trainer.config, data=data))
    return {"settings": settings, "precision": trainer.learner.precision, **conditions(trainer.device)}


def append(results: Path, record: dict[str, Any]) -> None:
    """Add a line to a result file."""
    with results.open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def command_line(doc: str | None, *names: str, **numbers: float) -> argparse.ArgumentParser:
    """A parser that is described by the first line of ``doc``: paths in order, and numbers as options."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    for name in names:
        parser.add_argument(name, type=Path)
    for name, number in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(number), default=number)
    return parser
