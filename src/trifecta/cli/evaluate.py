"""``trifecta evaluate``."""

import json
from pathlib import Path

import click

from trifecta.data import DataConfig, ImageSet, load_split
from trifecta.devices import resolve_device
from trifecta.report.terminal import percent, print_blocks
from trifecta.training import DatasetFacts, Evaluation, RunFolder, evaluate, load_network
from trifecta.training.precision_choice import run_precision


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Other images.  [default: the run's own]")
@click.option("--split", metavar="NAME", help="Another split.  [default: the run's test split]")
@click.option("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, …")
@click.option("--precision", default=None, metavar="NAME", help="[default: the run's]")
@click.option("--shortlist", type=int, metavar="N", help="Faster: only the N likeliest labels to the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate_command(
    run: Path,
    data: str | None,
    split: str | None,
    device: str,
    precision: str | None,
    shortlist: int | None,
    as_json: bool,
) -> None:
    """Measure a trained run on its test split, block by block."""
    where = resolve_device(device)
    folder = RunFolder(run)
    network, facts = load_network(folder, where)
    if shortlist is not None:
        network.keep_labels(shortlist)
    config, _ = folder.read_config()
    wanted = config.data if data is None else DataConfig(source=data, image_size=facts.image_shape[1:])
    images = _load(wanted, split, facts, run)
    measured = evaluate(
        network,
        images.to(where),
        mean=facts.mean,
        std=facts.std,
        precision=run_precision(folder, where, precision),
    )
    if as_json:
        click.echo(json.dumps(_as_plain(measured, wanted, facts, len(images)), indent=2))
    else:
        print_blocks(measured.block_accuracy)
        click.echo(f"accuracy {percent(measured.accuracy)} on {len(images):,} images ({wanted.source})")


def _load(config: DataConfig, split: str | None, facts: DatasetFacts, run: Path) -> ImageSet:
    images = load_split(config, split, facts.classes, channels=facts.image_shape[0])
    shape = tuple(images.images.shape[1:])
    if shape != facts.image_shape:
        raise ValueError(
            f"{run} was trained on images (channels, height, width) {facts.image_shape}: received {shape}; "
            "evaluate on grey images, as it was trained"
        )
    return images


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
    }
