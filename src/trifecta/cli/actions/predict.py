"""``trifecta predict``."""

import json
import math
from pathlib import Path

import click
import torch
from rich.console import Console

from trifecta.calibration import probabilities
from trifecta.cli.actions.progress import scoring
from trifecta.data import find_images
from trifecta.report.terminal import print_predictions
from trifecta.training import load
from trifecta.training.evaluation import warn_of_many_labels


def predict(
    run: Path,
    images: tuple[Path, ...],
    device: str,
    shortlist: int | None,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Label image files, or all images in a folder, with the probability of each class."""
    model = load(run, device=device, imports=imports)
    if shortlist is not None:
        model.network.keep_labels(shortlist)
    kind = "goodness" if model.network.method.tries_labels else "scores"
    files = [file for path in images for file in find_images(path)]
    warn_of_many_labels(model.network)
    with scoring(Console(stderr=True), len(files)) as on_scored:
        scores = model.scores(files, on_scored=on_scored)
    if as_json:
        click.echo(json.dumps(_as_plain(files, scores, model.classes, kind), indent=2))
    else:
        print_predictions(files, probabilities(scores), model.classes)


def _as_plain(
    files: list[Path], scores: torch.Tensor, classes: tuple[str, ...], kind: str
) -> list[dict[str, object]]:
    return [
        {
            "file": str(file),
            "label": classes[max(range(len(row)), key=row.__getitem__)],
            kind: {name: _finite(value) for name, value in zip(classes, row, strict=True)},
            "probabilities": dict(zip(classes, shares, strict=True)),
        }
        for file, row, shares in zip(files, scores.tolist(), probabilities(scores).tolist(), strict=True)
    ]


def _finite(goodness: float) -> float | None:
    """A label left off a shortlist has no goodness, and JSON no infinity."""
    return goodness if math.isfinite(goodness) else None
