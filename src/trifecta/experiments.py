"""Experiments: plan the runs of recipes, make the missing ones, keep a result file each, sum them up.

Several processes may share the runs: each claims the one that it makes. Accuracies are of the test split,
in percent; spreads are standard deviations over seeds.
"""

import json
import math
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trifecta._utils.extras import require
from trifecta._utils.files import write_atomically
from trifecta.data import DataConfig, ImageData, load_data
from trifecta.recipes import Recipe
from trifecta.training import DivergenceError, RunConfig, RunFolder, Trainer, from_plain, to_plain
from trifecta.training.preparation import with_superclasses
from trifecta.training.run import finish, resumed_trainer
from trifecta.training.trainer import Record

# Fields of a result that mean nothing where the machine was shared with other work.
TIMES = {"seconds", "images_per_second", "evaluation_seconds", "calibration_seconds", "total_seconds"}


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """Recipe at one budget with one seed.

    Attributes:
        recipe: the experiment.
        config: its full configuration, on the data of this machine.
    """

    recipe: Recipe
    config: RunConfig

    @property
    def name(self) -> str:
        """Unique name of the run."""
        return f"{self.recipe.name}_{self.config.budget}_seed-{self.config.seed}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings as a result file holds them: the data set's name in place of a folder."""
        plain = to_plain(self.config)
        plain["data"]["source"] = self.recipe.data.source
        # JSON has no tuples; equal settings must stay equal.
        as_read: dict[str, Any] = json.loads(json.dumps(plain))
        return as_read


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
    """Return the runs of recipes: all with the first seed, then all with the next.

    Args:
        recipes: one for each row of a table.
        budget: size of every run.
        seeds: number of seeds, from 0.
        locate: maps the recipe's data to where it is on this machine.
        device: as in :class:`trifecta.RunConfig`.
        precision: as in :class:`trifecta.RunConfig`.
        pipeline: number of blocks that learn at the same time, for methods that allow it.

    Raises:
        ValueError: a recipe has no such budget.
    """
    runs = []
    for seed in range(seeds):
        for recipe in recipes:
            config = recipe(budget, seed=seed)
            assert config.data is not None
            config = replace(
                config,
                data=locate(config.data),
                device=device,
                precision=precision,
                pipeline=pipeline if config.method.pipelines else 1,
            )
            runs.append(PlannedRun(recipe=recipe, config=config))
    return runs


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Contents of a result file.

    Attributes:
        name: name of the run, see :class:`PlannedRun`.
        command: command that makes it.
        config: its settings, with the data set's name in place of a folder.
        result: as ``result.json``, with the same change.
        history: as ``history.jsonl``.
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

    def is_of(self, run: PlannedRun) -> bool:
        """Whether the file holds this very run, whatever machine made it.

        Settings that are newer than the file have their defaults in it. Files from before ``keep`` and
        ``statistics`` existed hold runs that kept their last weights after estimating statistics.
        """
        if self.name != run.name:
            return False
        wanted = run.settings
        older = {name: wanted[name] for name in ("keep", "statistics") if wanted["keep"] == "last"}
        try:
            return _identity(older | self.config) == _identity(wanted)
        except ValueError:  # a setting that no longer exists
            return False


def _identity(config: dict[str, Any]) -> RunConfig:
    """Return the settings without those that change no result."""
    return replace(from_plain(config), device="auto", precision="auto", pipeline=1)


def find(stored: Iterable[StoredRun], run: PlannedRun) -> StoredRun | None:
    """Return the result of a run; None if it was made with other settings or not at all."""
    return next((one for one in stored if one.is_of(run)), None)


def read_results(folder: Path) -> list[StoredRun]:
    """Return the contents of every result file in ``folder``, by name.

    Raises:
        ValueError: a file is no result file; the message names it.
    """
    stored = []
    for path in sorted(folder.glob("*_seed-*.json")):
        try:
            stored.append(StoredRun(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"not a result file: {path} ({type(error).__name__}); remove it to run it again"
            ) from None
    return stored


def write_result(folder: Path, stored: StoredRun) -> Path:
    """Write ``NAME_HARDWARE_DATE.json`` into ``folder``, in place of an older file of the same run."""
    folder.mkdir(parents=True, exist_ok=True)
    hardware = re.sub(r"[^a-z0-9]+", "-", str(stored.result["hardware"]).lower()).strip("-")
    path = folder / f"{stored.name}_{hardware}_{stored.result['date']}.json"
    text = json.dumps(vars(stored), indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
    for older in folder.glob(f"{stored.name}_*.json"):
        if older != path:
            older.unlink()
    return path


Watch = Callable[[PlannedRun, Trainer], AbstractContextManager[object]]
Load = Callable[[DataConfig], ImageData | ValueError]


@dataclass(kw_only=True)
class Outcome:
    """Outcome of making runs.

    Attributes:
        made: runs finished here.
        elsewhere: runs that another process is making.
        failed: error messages by the run's name.
    """

    made: list[PlannedRun] = field(default_factory=list)
    elsewhere: list[PlannedRun] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Runs, their result files, and the folder of unfinished runs.

    Attributes:
        runs: what is to be there in the end.
        out: folder of the result files.
        work: folder of run folders; a run that was interrupted continues from there.
        command: returns the command that makes a run, for its result file.
        timed: whether result files hold times.
        measure: returns further fields of a finished run's result.
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

        Args:
            watch: context around each run's training.

        Raises:
            Interrupted: the training was asked to stop; the next call continues it.
        """
        outcome = Outcome()
        # Images are kept for the next run, and a source that fails is not asked again.
        load = lru_cache(maxsize=1)(_load)
        for run in self.missing():
            with self._claim(run) as claimed:
                if not claimed:
                    outcome.elsewhere.append(run)
                # Another process may have finished it meanwhile.
                elif find(read_results(self.out), run) is None:
                    self._make(run, watch, load, outcome)
        return outcome

    def _make(self, run: PlannedRun, watch: Watch, load: Load, outcome: Outcome) -> None:
        try:
            assert run.config.data is not None
            trainer = self._trainer(run, load(run.config.data))
            with watch(run, trainer):
                finished = finish(trainer)
        except (ValueError, DivergenceError) as error:
            outcome.failed[run.name] = str(error)
            return
        left_out = set() if self.timed else TIMES
        result = finished.result | self.measure(run, trainer) | {"data": run.recipe.data.source}
        stored = StoredRun(
            name=run.name,
            command=self.command(run),
            config=run.settings,
            result=_without(result, left_out),
            history=[_without(record, left_out) for record in trainer.history],
        )
        write_result(self.out, stored)
        outcome.made.append(run)

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

    @contextmanager
    def _claim(self, run: PlannedRun) -> Iterator[bool]:
        """Yield whether this process may make the run; the claim ends with the process, however it ends."""
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{run.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _load(config: DataConfig) -> ImageData | ValueError:
    """Return the images, or the error of a source that fails."""
    try:
        return load_data(config)
    except (ValueError, ImportError) as error:
        return ValueError(str(error))


def _without(record: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def _pandas() -> Any:
    return require("pandas", install="'trifecta[report]'")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean over ``n`` values and their standard deviation, which is None for one value."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate | None":
        """Return the estimate of the values that are not None; None if there are none."""
        known = _pandas().Series(values, dtype=float).dropna()
        if known.empty:
            return None
        deviation = float(known.std()) if len(known) > 1 else None
        return cls(mean=float(known.mean()), deviation=deviation, n=len(known))

    def __format__(self, form: str) -> str:
        """Return ``53.45 ± 0.56``; one value has no spread."""
        return f"{self.mean:{form}}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True, kw_only=True)
class RowSummary:
    """Row of a table.

    Attributes:
        recipe: the experiment.
        budget: budget of the runs.
        runs: finished runs, one a seed.
    """

    recipe: Recipe
    budget: str
    runs: Sequence[StoredRun]

    @property
    def config(self) -> RunConfig:
        """Configuration of the row's first seed."""
        return self.recipe(self.budget)

    @property
    def accuracy(self) -> Estimate | None:
        """Test accuracy of the method's own read-out."""
        return Estimate.of(100 * run.result["test_accuracy"] for run in self.runs)

    @property
    def difference(self) -> float | None:
        """Points by which our accuracy differs from the published one."""
        if self.accuracy is None or self.recipe.published is None:
            return None
        return self.accuracy.mean - self.recipe.published.accuracy

    @property
    def hardware(self) -> str:
        """Hardware and precision of the runs; empty if there are none."""
        made_on = {f"{run.result['hardware']}, {run.result['precision']}" for run in self.runs}
        return "; ".join(sorted(made_on))

    def mean(self, name: str) -> float | None:
        """Return the mean of a field of the results over the runs that have it; None if none has."""
        estimate = Estimate.of(run.result.get(name) for run in self.runs)
        return None if estimate is None else estimate.mean

    def readout(self, name: str) -> Estimate | None:
        """Return the test accuracy of the read-out called ``name``."""
        return Estimate.of(100 * run.result["readout_accuracy"][name] for run in self.runs)

    def blocks(self) -> list[Estimate | None]:
        """Return the test accuracy of every block alone, first to last."""
        columns = zip(*(run.result["block_accuracy"] for run in self.runs), strict=True)
        return [Estimate.of(None if a is None else 100 * a for a in column) for column in columns]


def summarise(runs: Sequence[PlannedRun], stored: Sequence[StoredRun]) -> list[RowSummary]:
    """Return a row for each recipe, in the order of ``runs``."""
    made: dict[str, list[StoredRun]] = {}
    planned = {run.recipe.name: run for run in reversed(runs)}
    for run in runs:
        found = find(stored, run)
        made.setdefault(run.recipe.name, []).extend([] if found is None else [found])
    return [
        RowSummary(recipe=planned[name].recipe, budget=str(planned[name].config.budget), runs=members)
        for name, members in made.items()
    ]


Cell = tuple[str, ...]
Factors = Mapping[str, Sequence[str]]


def grid_effects(grids: Mapping[tuple[int, *Cell], float], factors: Factors) -> dict[str, Estimate]:
    """Return every effect of the factors of a full grid, with its spread over seeds.

    Formulas over cells y of one seed, for factors with levels a0 (the base), a1, …::

        main effect of a1     mean over the other factors of  y[a1, …] − y[a0, …]
        interaction a1 × b1   mean over the others of  (y[a1, b1] − y[a0, b1]) − (y[a1, b0] − y[a0, b0])
        synergy               (y[all last] − y[all first]) − Σ_factors (y[only it last] − y[all first])

    Args:
        grids: accuracy by seed and level of every factor; seeds that lack a cell are left out.
        factors: levels of every factor, the base first.
    """
    names, first = list(factors), {name: levels[0] for name, levels in factors.items()}
    last = {name: levels[-1] for name, levels in factors.items()}
    cells = Counter(seed for seed, *_ in grids)
    whole = {
        key: value for key, value in grids.items() if cells[key[0]] == math.prod(map(len, factors.values()))
    }
    if not whole:
        return {}
    y = _pandas().Series(whole).rename_axis(["seed", *names])

    def gain(y: Any, name: str, level: str) -> Any:
        return y.xs(level, level=name) - y.xs(first[name], level=name)

    def at(levels: Mapping[str, str]) -> Any:
        return y.xs(tuple(levels.values()), level=list(levels))

    steps = [(name, level) for name, levels in factors.items() for level in levels[1:]]
    effects = {f"{level} in place of {first[name]}": gain(y, name, level) for name, level in steps}
    for (a, level_a), (b, level_b) in combinations(steps, 2):
        if a != b:
            effects[f"{level_a} × {level_b}"] = gain(gain(y, a, level_a), b, level_b)
    alone = sum(at(first | {name: last[name]}) - at(first) for name in names)
    effects["synergy"] = at(last) - at(first) - alone
    for name in names:
        less = at(last | {name: first[name]}) - at(last)
        effects[f"all, but {first[name]} in place of {last[name]}"] = less
    means = {name: Estimate.of(effect.groupby("seed").mean()) for name, effect in effects.items()}
    return {name: estimate for name, estimate in means.items() if estimate is not None}


def grids_of(rows: Iterable[RowSummary], cell_of: Mapping[str, Cell]) -> dict[tuple[int, *Cell], float]:
    """Return the test accuracy by seed and cell."""
    return {
        (run.config["seed"], *cell_of[row.recipe.name]): 100 * run.result["test_accuracy"]
        for row in rows
        for run in row.runs
    }
