"""Experiments: plan the runs of recipes, make the missing ones, keep a result file each, show them.

Several processes may share the runs: each claims the one that it makes. Accuracies are of the test split,
in percent; spreads are standard deviations over seeds.
"""

import json
import re
import shutil
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from trifecta._utils.files import write_atomically
from trifecta.data import DataConfig, ImageData, load_data
from trifecta.recipes import FACTORS, Recipe, ResultTable
from trifecta.report import figures
from trifecta.report.page import fill, missing_libraries, write_text
from trifecta.report.terminal import DASH, Cells, Columns, Section, cells_of, shown
from trifecta.training import DivergenceError, RunConfig, RunFolder, Trainer, from_plain, to_plain
from trifecta.training.run import finish, resumed_trainer
from trifecta.training.trainer import Record, with_superclasses

# Fields of a result that mean nothing where the machine was shared with other work.
TIMES = {"seconds", "images_per_second", "evaluation_seconds", "calibration_seconds", "total_seconds"}
NOT_MEASURED = "not measured"
Cell = tuple[str, ...]
Watch = Callable[["PlannedRun", Trainer], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """Recipe at one budget with one seed, configured for the data of this machine."""

    recipe: Recipe
    config: RunConfig

    @property
    def name(self) -> str:
        """Unique name of the run."""
        return f"{self.recipe.name}_{self.config.budget}_seed-{self.config.seed}"

    @property
    def named(self) -> RunConfig:
        """Configuration with the data set's name in place of its folder."""
        assert self.config.data is not None
        return replace(self.config, data=replace(self.config.data, source=self.recipe.data.source))


def plan(
    recipes: Sequence[Recipe],
    *,
    budget: str,
    seeds: int,
    locate: Callable[[DataConfig], DataConfig] = lambda data: data,
    device: str = "auto",
    precision: str = "auto",
    pipeline: int = 1,
) -> list[PlannedRun]:
    """Return the runs of recipes at a budget: all with the first seed, then all with the next.

    ``locate`` maps a recipe's data to where it is on this machine; a method that cannot be pipelined
    ignores ``pipeline``.
    """
    runs = []
    for seed, recipe in product(range(seeds), recipes):
        config = recipe(budget, seed=seed)
        assert config.data is not None
        blocks, data = pipeline if config.method.pipelines else 1, locate(config.data)
        config = replace(config, data=data, device=device, precision=precision, pipeline=blocks)
        runs.append(PlannedRun(recipe=recipe, config=config))
    return runs


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Contents of a result file: the command that makes the run, its settings, result and history.

    In place of the data's folder it has the data set's name.
    """

    name: str
    command: str
    config: dict[str, Any]
    result: dict[str, Any]
    history: list[Record]

    @property
    def timed(self) -> bool:
        """Whether the run had the machine to itself."""
        return "seconds" in self.result


def find(stored: Iterable[StoredRun], run: PlannedRun) -> StoredRun | None:
    """Return the result of a run, whatever machine made it; None if its settings were others."""
    wanted = _without_machine(run.named)
    # Files from before these were settings.
    older = {"keep": "last", "statistics": wanted.statistics}
    for one in stored:
        if one.name == run.name:
            try:
                if _without_machine(from_plain(older | one.config)) == wanted:
                    return one
            except ValueError:  # A setting that no longer exists.
                continue
    return None


def _without_machine(config: RunConfig) -> RunConfig:
    """Return settings without those that change no result."""
    return replace(config, device="auto", precision="auto", pipeline=1)


def read_results(folder: Path) -> list[StoredRun]:
    """Return the contents of every result file in ``folder``, by name; name one that is damaged."""
    stored = []
    for path in sorted(folder.glob("*_seed-*.json")):
        try:
            stored.append(StoredRun(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            told = f"not a result file: {path} ({type(error).__name__}); remove it to run it again"
            raise ValueError(told) from None
    return stored


def write_result(folder: Path, stored: StoredRun) -> None:
    """Write ``NAME_HARDWARE_DATE.json`` into ``folder``, in place of an older file of the same run."""
    folder.mkdir(parents=True, exist_ok=True)
    hardware = re.sub(r"[^a-z0-9]+", "-", str(stored.result["hardware"]).lower()).strip("-")
    path = folder / f"{stored.name}_{hardware}_{stored.result['date']}.json"
    text = json.dumps(vars(stored), indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
    for older in set(folder.glob(f"{stored.name}_*.json")) - {path}:
        older.unlink()


@dataclass(kw_only=True)
class Outcome:
    """Runs finished here, runs that another process is making, and error messages by the run's name."""

    made: list[PlannedRun] = field(default_factory=list)
    elsewhere: list[PlannedRun] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Runs, the folders of their result files (``out``) and of unfinished runs (``work``).

    ``command`` returns the command that makes a run, and ``measure`` further fields of its result; result
    files hold times if they are ``timed``.
    """

    runs: Sequence[PlannedRun]
    out: Path
    work: Path
    command: Callable[[PlannedRun], str]
    timed: bool = True
    measure: Callable[[PlannedRun, Trainer], dict[str, Any]] = lambda run, trainer: {}

    def missing(self) -> list[PlannedRun]:
        """Return the runs without a result file, or with one of other settings."""
        stored = read_results(self.out)
        return [run for run in self.runs if find(stored, run) is None]

    def make(self, watch: Watch) -> Outcome:
        """Make the missing runs in order, with a result file each; one that fails does not stop the others.

        ``watch`` is the context of each run's training.

        Raises:
            Interrupted: the training was asked to stop; the next call continues it.
        """
        outcome = Outcome()
        # Images are kept for the next run, and a source that fails is not asked again.
        load = lru_cache(maxsize=1)(_load)
        for run in self.missing():
            self.work.mkdir(parents=True, exist_ok=True)
            try:
                # Ends with the process, however it ends.
                claim = FileLock(self.work / f"{run.name}.lock").acquire(timeout=0)
            except Timeout:
                outcome.elsewhere.append(run)
                continue
            with claim:
                if find(read_results(self.out), run) is not None:
                    continue  # Another process has finished it meanwhile.
                try:
                    assert run.config.data is not None
                    trainer = self._trainer(run, load(run.config.data))
                    with watch(run, trainer):
                        result = finish(trainer).result
                except (ValueError, DivergenceError) as error:
                    outcome.failed[run.name] = str(error)
                    continue
                self._write(run, trainer, result)
                outcome.made.append(run)
        return outcome

    def _trainer(self, run: PlannedRun, data: ImageData | ValueError) -> Trainer:
        """Build the run's trainer, at its checkpoint if it has one."""
        if isinstance(data, ValueError):
            raise data
        folder = RunFolder(self.work / run.name)
        if folder.checkpoint.is_file():
            try:
                if folder.read_config()[0] == with_superclasses(run.config, data):
                    return resumed_trainer(folder.path, data=data)
            except ValueError as error:
                warnings.warn(f"{error}: the run starts again", stacklevel=2)
            shutil.rmtree(folder.path)
        return Trainer(run.config, folder=folder, data=data)

    def _write(self, run: PlannedRun, trainer: Trainer, result: dict[str, Any]) -> None:
        def kept(record: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in record.items() if self.timed or name not in TIMES}

        stored = StoredRun(
            name=run.name,
            command=self.command(run),
            config=to_plain(run.named),
            result=kept(result | self.measure(run, trainer) | {"data": run.recipe.data.source}),
            history=[kept(record) for record in trainer.history],
        )
        write_result(self.out, stored)


def _load(config: DataConfig) -> ImageData | ValueError:
    """Return the images, or the error of a source that fails."""
    try:
        return load_data(config)
    except (ValueError, ImportError) as error:
        return ValueError(str(error))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over ``n`` values and their standard deviation, which is None for one value."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate | None":
        """Return the estimate of the values that are not None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(mean=statistics.fmean(known), deviation=deviation, n=len(known))

    def __format__(self, form: str) -> str:
        """Return ``53.45 ± 0.56``; one value has no spread."""
        return f"{self.mean:{form}}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True, kw_only=True)
class RowSummary:
    """Row of a table: a recipe at one budget, and its finished runs, one a seed."""

    recipe: Recipe
    budget: str
    runs: list[StoredRun]

    @cached_property
    def config(self) -> RunConfig:
        """Configuration of the row's first seed."""
        return self.recipe(self.budget)

    @cached_property
    def accuracy(self) -> Estimate | None:
        """Test accuracy of the method's own read-out."""
        return Estimate.of(100 * run.result["test_accuracy"] for run in self.runs)

    @property
    def hardware(self) -> str:
        """Hardware and precision of the runs; empty if there are none."""
        return "; ".join(sorted({"{hardware}, {precision}".format(**run.result) for run in self.runs}))

    def mean(self, name: str) -> float | None:
        """Return the mean of a field of the results over the runs that have it; None if none has."""
        estimate = Estimate.of(run.result.get(name) for run in self.runs)
        return None if estimate is None else estimate.mean

    def blocks(self) -> list[Estimate | None]:
        """Return the test accuracy of every block alone, first to last."""
        columns = zip(*(run.result["block_accuracy"] for run in self.runs), strict=True)
        return [Estimate.of(None if a is None else 100 * a for a in column) for column in columns]

    def record(self) -> dict[str, Any]:
        """Return the row for machines: accuracies in percent, None where nothing was measured.

        ``difference`` are the points by which our accuracy differs from the published one.
        """
        published = None if self.recipe.published is None else self.recipe.published.accuracy
        ours = None if self.accuracy is None else self.accuracy.mean
        return {
            "recipe": self.recipe.name,
            "published": published,
            "accuracy": ours,
            "deviation": None if self.accuracy is None else self.accuracy.deviation,
            "n": len(self.runs),
            "difference": None if ours is None or published is None else ours - published,
            "budget": self.budget,
            "seconds": self.mean("seconds"),
            "hardware": self.hardware,
        }


def summarise(runs: Sequence[PlannedRun], stored: Sequence[StoredRun]) -> list[RowSummary]:
    """Return a row for each recipe, in the order of ``runs``."""
    rows: dict[str, RowSummary] = {}
    for run in runs:
        empty = RowSummary(recipe=run.recipe, budget=str(run.config.budget), runs=[])
        row = rows.setdefault(run.recipe.name, empty)
        if (found := find(stored, run)) is not None:
            row.runs.append(found)
    return list(rows.values())


def grid_effects(
    grids: Mapping[tuple[int, *Cell], float], factors: Mapping[str, Cell]
) -> dict[str, Estimate]:
    """Return every effect of the factors of a full grid, with its spread over seeds.

    Formulas over cells y of one seed, for factors with levels a0 (the base), a1, …::

        main effect of a1     mean over the other factors of  y[a1, …] − y[a0, …]
        interaction a1 × b1   mean over the others of  (y[a1, b1] − y[a0, b1]) − (y[a1, b0] − y[a0, b0])
        synergy               (y[all last] − y[all first]) − Σ_factors (y[only it last] − y[all first])

    Args:
        grids: accuracy by seed and level of every factor; seeds that lack a cell are left out.
        factors: levels of every factor, the base first.
    """
    cells, levels = list(product(*factors.values())), list(factors.values())
    seeds = [seed for seed in {seed for seed, *_ in grids} if all((seed, *cell) in grids for cell in cells)]
    if not seeds:
        return {}
    # Axis 0 is the seed, each other one a factor.
    y = np.array([[grids[seed, *cell] for cell in cells] for seed in seeds])
    y = y.reshape(len(seeds), *map(len, levels))
    units = [np.eye(len(names)) for names in levels]
    first, last = ({axis: unit[end] for axis, unit in enumerate(units)} for end in (0, -1))
    steps = {(axis, k): unit[k] - unit[0] for axis, unit in enumerate(units) for k in range(1, len(unit))}

    def total(weights: Mapping[int, Any]) -> Any:
        """Return each seed's sum weighted along the axes of some factors, its mean over the others."""
        left = y
        for axis in sorted(weights, reverse=True):
            left = np.tensordot(left, weights[axis], (axis + 1, 0))
        return left.reshape(len(seeds), -1).mean(1)

    effects = {
        f"{levels[a][k]} in place of {levels[a][0]}": total({a: step}) for (a, k), step in steps.items()
    }
    for ((a, k), one), ((b, m), other) in combinations(steps.items(), 2):
        if a != b:
            effects[f"{levels[a][k]} × {levels[b][m]}"] = total({a: one, b: other})
    gains = [total(first | {axis: last[axis]}) - total(first) for axis in first]
    effects["synergy"] = total(last) - total(first) - sum(gains)
    for axis, names in enumerate(levels):
        lost = total(last | {axis: first[axis]}) - total(last)
        effects[f"all, but {names[0]} in place of {names[-1]}"] = lost
    return {name: found for name, by_seed in effects.items() if (found := Estimate.of(by_seed.tolist()))}


def effects_of(table: ResultTable, rows: Iterable[RowSummary]) -> dict[str, Estimate]:
    """Return the effects of the factors of a grid; none for another table."""
    grids = {
        (run.config["seed"], *table.cells[row.recipe.name]): 100 * run.result["test_accuracy"]
        for row in rows
        for run in (row.runs if table.cells else [])
    }
    return grid_effects(grids, FACTORS)


def accuracy_text(estimate: Estimate | None) -> str:
    """Return ``53.45 ± 0.56% (n = 3)``."""
    return NOT_MEASURED if estimate is None else f"{estimate:.2f}% (n = {estimate.n})"


def row_table(rows: Sequence[RowSummary]) -> Cells:
    """Return heading and cells, without the columns for published figures if there are none."""
    published = any(row.recipe.published for row in rows)
    columns: Columns[RowSummary] = [
        ("experiment", lambda row: row.recipe.title),
        *([("published", lambda row: shown(row.record()["published"], "{:.2f}%"))] if published else []),
        ("ours", lambda row: accuracy_text(row.accuracy)),
        *([("difference", _difference)] if published else []),
        ("budget", lambda row: row.budget),
        ("epochs", lambda row: str(row.config.epochs)),
        ("seconds", lambda row: shown(row.mean("seconds"), "{:.0f}")),
        ("hardware", lambda row: row.hardware or DASH),
    ]
    return cells_of(rows, columns)


def _difference(row: RowSummary) -> str:
    """Return the difference in points; at budget ``full`` with the recipe's verdict on it."""
    difference, published = row.record()["difference"], row.recipe.published
    if difference is None or published is None or row.budget != "full":
        return shown(difference, "{:+.2f}")
    verdict = "within" if abs(difference) <= published.tolerance else "not within"
    return f"{difference:+.2f} ({verdict} ±{published.tolerance:.2f})"


def effect_table(table: ResultTable, rows: Sequence[RowSummary]) -> Cells:
    """Return the effects of the factors of a grid; no rows for another table."""
    effects = effects_of(table, rows)
    body = [[name, f"{effect:+.2f}", str(effect.n)] for name, effect in effects.items()]
    return ["effect", "points", "n"], body


def sources(rows: Sequence[RowSummary]) -> list[str]:
    """Return the sources of the published figures, each once."""
    found = dict.fromkeys(row.recipe.published.source for row in rows if row.recipe.published)
    return [f"Published: {source}." for source in found]


def depth_chart(rows: Sequence[RowSummary]) -> figures.Chart:
    """Return a chart of the test accuracy of every block alone, one line for each row that has runs."""
    lines = {
        row.recipe.title: [(k, None if e is None else e.mean) for k, e in enumerate(row.blocks())]
        for row in rows
        if row.runs
    }
    return figures.curves(lines, "block", "test accuracy of the block alone, %")


def section(table: ResultTable, rows: Sequence[RowSummary]) -> Section:
    """Return the rows of a table and, of a grid, its effects."""
    effects = effect_table(table, rows)
    return Section(
        title=f"{table.title} ({table.name})",
        tables=[row_table(rows), *([effects] if effects[1] else [])],
        notes=sources(rows),
        charts=[depth_chart(rows)] if any(row.runs for row in rows) else [],
    )


def write_pages(
    folder: Path, tables: Sequence[ResultTable], rows: Mapping[str, Sequence[RowSummary]]
) -> Path:
    """Write ``NAME.md`` and, if the extra is installed, ``NAME.html``; return the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section(table, rows[table.name]) for table in tables]
    path = folder / f"{tables[0].name if len(tables) == 1 else 'all-tables'}.md"
    write_text(path, "\n".join(one.markdown() for one in sections))
    if missing_libraries():
        return path
    path, title = path.with_suffix(".html"), "Beside the published figures"
    write_text(path, fill("reproduction.html", title=title, sections=sections))
    return path
