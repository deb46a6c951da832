"""Which runs a table needs: plain data, nothing runs here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from trifecta.data import DataConfig
from trifecta.recipes import Recipe, ResultTable, in_folder
from trifecta.training import RunConfig


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One recipe at one budget with one seed.

    Attributes:
        recipe: the experiment.
        config: its full configuration, on the data of this machine.
        command: what makes this run, on any machine.
    """

    recipe: Recipe
    config: RunConfig
    command: str

    @property
    def name(self) -> str:
        """Tells this run from every other."""
        return f"{self.recipe.name}_{self.config.budget}_seed-{self.config.seed}"


def plan(
    table: ResultTable,
    *,
    budget: str,
    seeds: int,
    data_root: Path | None = None,
    rows: str = "*",
    device: str = "auto",
    precision: str = "auto",
) -> list[PlannedRun]:
    """The runs of a table: all rows with the first seed, then all with the next.

    Args:
        table: the rows.
        budget: size of every run.
        seeds: how many, from 0.
        data_root: folder with data sets by the end of their Hub id; what it lacks comes from the Hub.
        rows: pattern of recipe names, with * and ?.
        device: as for ``trifecta train``.
        precision: likewise.

    Raises:
        ValueError: a recipe has no such budget, or no row fits the pattern.
    """
    recipes: Sequence[Recipe] = [recipe for recipe in table.recipes if fnmatchcase(recipe.name, rows)]
    if not recipes:
        names = ", ".join(recipe.name for recipe in table.recipes)
        raise ValueError(f"--rows '{rows}' fits no row of {table.name}: its rows are {names}")
    return plan_recipes(
        recipes,
        budget=budget,
        seeds=seeds,
        locate=lambda data: in_folder(data, data_root),
        command=lambda recipe: f"trifecta reproduce {table.name} --rows {recipe.name} --budget {budget}",
        device=device,
        precision=precision,
    )


def plan_recipes(
    recipes: Sequence[Recipe],
    *,
    budget: str,
    seeds: int,
    command: Callable[[Recipe], str],
    locate: Callable[[DataConfig], DataConfig] = lambda data: data,
    device: str = "auto",
    precision: str = "auto",
    pipeline: int = 1,
) -> list[PlannedRun]:
    """Plan the runs of recipes, as :func:`plan`.

    Args:
        recipes: the rows.
        budget: size of every run.
        seeds: how many, from 0.
        command: makes a recipe's runs, but for ``--seeds``.
        locate: says where on this machine the data is.
        device: as for ``trifecta train``.
        precision: likewise.
        pipeline: how many blocks learn at the same time, for methods that can gain by it.
    """
    runs = []
    for seed in range(seeds):
        for recipe in recipes:
            config = recipe(budget, seed=seed)
            assert config.data is not None
            config = replace(config, data=locate(config.data), device=device, precision=precision)
            if config.method.pipelines:
                config = replace(config, pipeline=pipeline)
            made_by = f"{command(recipe)} --seeds {seed + 1}"
            runs.append(PlannedRun(recipe=recipe, config=config, command=made_by))
    return runs
