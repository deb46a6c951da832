"""``trifecta evaluate``."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from trifecta.cli.actions.progress import scoring
from trifecta.cli.actions.settings import with_settings
from trifecta.cli.fields import check_given_once
from trifecta.data import DataConfig, ImageSet, MissingSourceError, is_same_training, load_split
from trifecta.report.terminal import percent, print_blocks
from trifecta.training import DatasetFacts, Evaluation, RunConfig, RunFolder, evaluate, load
from trifecta.training.evaluation import warn_of_many_labels


def evaluate_run(
    run: Path,
    data: str | None,
    assignments: tuple[str, ...],
    split: str | None,
    device: str,
    precision: str | None,
    shortlist: int | None,
    views: str,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure a trained run on its test split, block by block."""
    model = load(run, device=device, precision=precision, imports=imports)
    facts = model.facts
    if shortlist is not None:
        model.network.keep_labels(shortlist)
    config, _ = RunFolder(run).read_config(imports=imports)
    warn_of_unfinished(RunFolder(run), config.epochs)
    wanted = _wanted(config, data, assignments, facts, run)
    images = _load(wanted, split, facts, run, has_moved=data is not None)
    warn_of_many_labels(model.network)
    with scoring(Console(stderr=True), len(images)) as on_scored:
        measured = evaluate(
            model.network,
            images.to(next(model.network.parameters()).device),
            mean=facts.mean,
            std=facts.std,
            precision=model.precision,
            views=views,
            on_scored=on_scored,
        )
    if as_json:
        click.echo(json.dumps(_as_plain(measured, wanted, facts, len(images)) | {"views": views}, indent=2))
    else:
        print_blocks(measured.block_accuracy)
        click.echo(
            f"log loss {measured.log_loss:.3f}, calibration error {percent(measured.calibration_error)}"
        )
        click.echo(f"accuracy {percent(measured.accuracy)} on {len(images):,} images ({wanted.source})")


def _wanted(
    config: RunConfig, source: str | None, assignments: tuple[str, ...], facts: DatasetFacts, run: Path
) -> DataConfig:
    """Return where the images are that a run is to be measured on."""
    others = [assignment for assignment in assignments if not assignment.startswith("data.")]
    if others:
        raise ValueError(
            f"a trained run keeps its settings, but those of the images: received --set {others[0]}; give "
            "one that begins with data."
        )
    check_given_once({} if source is None else {"data.source": source}, assignments)
    data = config.data if source is None else _elsewhere(source, config.data, facts)
    if data is None:
        raise ValueError(f"{run} was trained on data given in Python: give --data to measure it on")
    changed = with_settings(RunConfig(data=data), assignments).data
    assert changed is not None
    return changed


def warn_of_unfinished(folder: RunFolder, epochs: int) -> None:
    """Say so where a run has not reached its last epoch: its weights are those of its last checkpoint."""
    done = len(folder.read_history())
    if done < epochs and not folder.result.is_file():
        warnings.warn(
            f"{folder.path} has trained {done} of {epochs} epochs: these are its weights so far; go on "
            f"with trifecta train --resume {folder.path}",
            stacklevel=2,
        )


def _elsewhere(source: str, trained_on: DataConfig | None, facts: DatasetFacts) -> DataConfig:
    """Return settings for another source: those of the run, where it is the run's own that has moved."""
    moved = None if trained_on is None else replace(trained_on, source=source)
    if moved is not None and is_same_training(moved, facts.rows):
        return moved
    return DataConfig(source=source, image_size=facts.image_shape[1:])


def _load(
    config: DataConfig, split: str | None, facts: DatasetFacts, run: Path, *, has_moved: bool
) -> ImageSet:
    try:
        images = load_split(
            config,
            split,
            facts.classes,
            channels=facts.image_shape[0],
            grey_range=facts.grey_range or None,
            trained_on=facts.rows,
        )
    except MissingSourceError as error:
        if has_moved:
            raise
        raise ValueError(
            f"{run} was trained on {config.source}, {error}; --data takes its new place"
        ) from None
    shape = tuple(images.images.shape[1:])
    if shape != facts.sample_shape:
        raise ValueError(
            f"{run} was trained on images (channels, height, width) {facts.sample_shape}: received "
            f"{shape}; evaluate on grey images, as it was trained"
        )
    return images


def _as_plain(
    measured: Evaluation, config: DataConfig, facts: DatasetFacts, count: int
) -> dict[str, object]:
    return {
        "accuracy": measured.accuracy,
        "log_loss": measured.log_loss,
        "calibration_error": measured.calibration_error,
        "block_accuracy": measured.block_accuracy,
        "confusion": measured.confusion.tolist(),
        "classes": list(facts.classes),
        "images": count,
        "data": config.source,
    }
