"""``trifecta evaluate``."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from trifecta.cli.parameters import IMAGE_SIZE
from trifecta.data import DataConfig, ImageData, ImageSet, load_data
from trifecta.devices import resolve_device
from trifecta.precision import resolve_precision
from trifecta.report.terminal import percent, print_blocks
from trifecta.training import DatasetFacts, Evaluation, RunFolder, evaluate, load_network


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Other images.  [default: the run's own]")
@click.option("--test-split", metavar="NAME", help="Another split to evaluate on.")
@click.option("--image-size", type=IMAGE_SIZE, help="Resize other images to the run's size.")
@click.option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, …")
@click.option("--precision", default=None, metavar="NAME", help="[default: the run's]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate_command(
    run: Path,
    data: str | None,
    test_split: str | None,
    image_size: tuple[int, int] | None,
    device: str,
    precision: str | None,
    as_json: bool,
) -> None:
    """Measure a trained run on its test split, block by block."""
    where = resolve_device(device)
    folder = RunFolder(run)
    network, facts = load_network(folder, where)
    config, _ = folder.read_config()
    changes: dict[str, Any] = {"source": data, "test_split": test_split, "image_size": image_size}
    given = {name: value for name, value in changes.items() if value is not None}
    wanted = dataclasses.replace(config.data, **given)
    images = _test_images(wanted, facts, run)
    measured = evaluate(
        network,
        images.to(where),
        mean=facts.mean,
        std=facts.std,
        precision=resolve_precision(precision or config.precision, where),
    )
    if as_json:
        click.echo(json.dumps(_as_plain(measured, wanted, facts, len(images)), indent=2))
    else:
        print_blocks(measured.block_accuracy)
        click.echo(
            f"accuracy {percent(measured.accuracy)} on {len(images):,} images "
            f"({wanted.source}, split {wanted.test_split})"
        )


def _test_images(config: DataConfig, facts: DatasetFacts, run: Path) -> ImageSet:
    data = load_data(config)
    _check_matches(data, facts, run)
    return data.test


def _check_matches(data: ImageData, facts: DatasetFacts, run: Path) -> None:
    if data.image_shape != facts.image_shape:
        _, height, width = facts.image_shape
        raise ValueError(
            f"{run} was trained on images (channels, height, width) {facts.image_shape}: received "
            f"{data.image_shape}; try --image-size {height}x{width}"
        )
    if data.classes != facts.classes:
        raise ValueError(
            f"{run} was trained on the {len(facts.classes)} classes {_shortened(facts.classes)}: "
            f"received {len(data.classes)}, {_shortened(data.classes)}; evaluate on data with the "
            "same classes"
        )


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _as_plain(
    measured: Evaluation, config: DataConfig, facts: DatasetFacts, count: int
) -> dict[str, object]:
    return {
        "accuracy": measured.accuracy,
        "block_accuracy": measured.block_accuracy,
        "confusion": measured.confusion.tolist(),
        "classes": list(facts.classes),
        "images": count,
        "data": config.source,
        "split": config.test_split,
    }
