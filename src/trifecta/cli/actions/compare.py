"""``trifecta compare``."""

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from trifecta.bench.memory import training_memory
from trifecta.bench.report import check_figure
from trifecta.bench.setting import Setting, data_name
from trifecta.cli.actions.bench import share
from trifecta.cli.actions.reproduce import failures, make_missing
from trifecta.comparison import Images, comparison_command, comparison_recipes
from trifecta.data import DataConfig, load_data
from trifecta.experiments.comparison_report import comparison_as_plain, draw_comparison, print_comparison
from trifecta.experiments.plan import PlannedRun, plan_recipes
from trifecta.experiments.results import read_results
from trifecta.experiments.runner import Reproduction
from trifecta.experiments.summary import summarise
from trifecta.training import DatasetFacts, Trainer


def compare(
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
        check_figure(figure)
    recipes = comparison_recipes(
        _names(methods),
        _names(networks),
        DataConfig(source=data_name(data)),
        find_images=lambda: _images_in(data),
    )
    runs = plan_recipes(
        recipes,
        budget=budget,
        seeds=seeds,
        command=lambda recipe: comparison_command(recipe, budget),
        locate=lambda config: replace(config, source=data),
        device=device,
        precision=precision,
        pipeline=pipeline,
    )
    failed: dict[str, str] = {}
    if not show:
        reproduction = Reproduction(runs, out=out, work=work, timed=not untimed, measure=memory_of)
        failed = make_missing(reproduction, Console(stderr=True, quiet=as_json))
    rows = summarise(runs, read_results(out))
    if as_json:
        click.echo(json.dumps(comparison_as_plain(rows, wanted), indent=2))
    else:
        print_comparison(rows, wanted)
    if figure is not None:
        draw_comparison(rows, figure)
    if failed:
        raise ValueError(failures(failed))


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
