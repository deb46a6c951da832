"""``trifecta predict``."""

import json
import math
from pathlib import Path

import click
import torch

from trifecta.data import find_images, normalize, read_images
from trifecta.devices import resolve_device
from trifecta.local_network import LocalNetwork
from trifecta.precision import autocast
from trifecta.report.terminal import print_predictions
from trifecta.training import DatasetFacts, RunFolder, load_network
from trifecta.training.evaluation import BATCH_SIZE
from trifecta.training.precision_choice import run_precision


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, …")
@click.option("--shortlist", type=int, metavar="N", help="Faster: only the N likeliest labels to the end.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def predict_command(
    run: Path, images: tuple[Path, ...], device: str, shortlist: int | None, as_json: bool
) -> None:
    """Label image files, or all images in a folder, with each class's goodness.

    Methods without goodness show their class scores in its place.
    """
    where = resolve_device(device)
    folder = RunFolder(run)
    network, facts = load_network(folder, where)
    precision = run_precision(folder, where)
    if shortlist is not None:
        network.keep_labels(shortlist)
    files = [file for path in images for file in find_images(path)]
    scores = torch.cat(
        [
            _scores(network, facts, files[start : start + BATCH_SIZE], where, precision)
            for start in range(0, len(files), BATCH_SIZE)
        ]
    )
    if as_json:
        click.echo(json.dumps(_as_plain(files, scores, facts), indent=2))
    else:
        print_predictions(files, scores, facts.classes)


@torch.inference_mode()
def _scores(
    network: LocalNetwork, facts: DatasetFacts, files: list[Path], device: torch.device, precision: str
) -> torch.Tensor:
    pixels = read_images(files, image_shape=facts.image_shape).to(device)
    with autocast(precision, device):
        scores: torch.Tensor = network(normalize(pixels, facts.mean, facts.std))
    return scores.cpu()


def _as_plain(files: list[Path], scores: torch.Tensor, facts: DatasetFacts) -> list[dict[str, object]]:
    return [
        {
            "file": str(file),
            "label": facts.classes[max(range(len(row)), key=row.__getitem__)],
            # A label left off a shortlist has no goodness; JSON has no infinity.
            "goodness": {
                c: v if math.isfinite(v) else None for c, v in zip(facts.classes, row, strict=True)
            },
        }
        for file, row in zip(files, scores.tolist(), strict=True)
    ]


def _finite(goodness: float) -> float | None:
    """A label left off a shortlist has no goodness, and JSON no infinity."""
    return goodness if math.isfinite(goodness) else None
