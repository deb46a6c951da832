"""``trifecta compare``."""

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from trifecta.bench.memory import training_memory
from trifecta.bench.setting import Setting, data_name
from trifecta.cli.actions.bench import share
from trifecta.cli.actions.reproduce import failures, make_missing
from trifecta.comparison import (
    Images,
    compare,
    comparison_chart,
    comparison_recipes,
    comparison_table,
    equal_work,
)
from trifecta.data import DataConfig, load_data
from trifecta.experiments import PlannedRun, Reproduction, plan, read_results, summarise
from trifecta.report.figures import check_format
from trifecta.report.terminal import print_table
from trifecta.training import DatasetFacts, Trainer


def compare_methods(
    data: str,
    methods: str,
    networks: str,
    budget: str,
    seeds: int,
    thresholds: str,
    device: str,
    precision: str,
    pipeline: int,
    out: Path,
    work: Path,
    figure: Path | None,
    untimed: bool,
    show: bool,
    as_json: bool,
) -> None:
    """Train methods on equal work; show accuracy, size, work, speed, memory and locality side by side."""
    wanted = [share(word, "--thresholds") for word in thresholds.split(",")]
    if figure is not None:
        check_format(figure)
    recipes = comparison_recipes(
        _names(methods),
        _names(networks),
        DataConfig(source=data_name(data)),
        find_images=lambda: _images_in(data),
    )
    runs = plan(
        recipes,
        budget=budget,
        seeds=seeds,
        locate=lambda config: replace(config, source=data),
        device=device,
        precision=precision,
        pipeline=pipeline,
    )
    failed: dict[str, str] = {}
    if not show:
        reproduction = Reproduction(
            runs=runs, out=out, work=work, command=_command, timed=not untimed, measure=memory_of
        )
        failed = make_missing(reproduction, Console(stderr=True, quiet=as_json))
    rows = summarise(runs, read_results(out))
    if as_json:
        click.echo(json.dumps(compare(rows, wanted), indent=2))
    else:
        print_table(*comparison_table(rows, wanted), note=equal_work(rows))
    if figure is not None:
        comparison_chart(rows).save(figure)
    if failed:
        raise ValueError(failures(failed))


def _command(run: PlannedRun) -> str:
    row, _, network = run.recipe.title.partition(", ")
    return (
        f"trifecta compare --data {run.recipe.data.source} --methods {row} --networks {network} "
        f"--budget {run.config.budget} --seeds {run.config.seed + 1}"
    )


def memory_of(run: PlannedRun, trainer: Trainer) -> dict[str, int]:
    """Training memory of the run, from processes that do nothing else; of the first seed."""
    if run.config.seed:
        return {}
    setting = Setting.of(run.config, trainer.facts.image_shape, trainer.data.num_classes)
    setting = replace(setting, precision=trainer.learner.precision)
    return training_memory(setting, run.config)


def _images_in(source: str) -> Images:
    """Load data that is not known by its name, to find the shape of its images."""
    data = load_data(DataConfig(source=source))
    return Images(DatasetFacts.of(data).image_shape, data.num_classes)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
