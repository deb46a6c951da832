"""Sums over result files: a row's mean and spread.

All accuracies are of the test split, in percent; spreads are standard deviations over seeds.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trifecta.experiments.plan import PlannedRun
from trifecta.experiments.results import StoredRun, find
from trifecta.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over ``n`` seeds and its standard deviation (None for one seed)."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate | None":
        """Estimate from ``values``; None where there are none."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.mean(values), deviation=deviation, n=len(values))


@dataclass(frozen=True, kw_only=True)
class RowSummary:
    """A row of a table: the recipe and what its runs came to.

    Attributes:
        recipe: the experiment.
        budget: of the runs.
        runs: one a seed that was made.
    """

    recipe: Recipe
    budget: str
    runs: Sequence[StoredRun]

    @property
    def accuracy(self) -> Estimate | None:
        """Test accuracy of the method's own read-out."""
        return Estimate.of([100 * run.result["test_accuracy"] for run in self.runs])

    @property
    def seconds(self) -> float | None:
        """Mean seconds of training; None where no run was timed."""
        seconds = [run.result["seconds"] for run in self.runs if "seconds" in run.result]
        return statistics.mean(seconds) if seconds else None

    @property
    def hardware(self) -> str:
        """Hardware and precision of the runs; empty where there are none."""
        made_on = {f"{run.result['hardware']}, {run.result['precision']}" for run in self.runs}
        return "; ".join(sorted(made_on))

    @property
    def difference(self) -> float | None:
        """Ours less the published figure, in points."""
        if self.accuracy is None or self.recipe.published is None:
            return None
        return self.accuracy.mean - self.recipe.published.accuracy

    def readout(self, name: str) -> Estimate | None:
        """Test accuracy of the read-out called ``name``."""
        return Estimate.of([100 * run.result["readout_accuracy"][name] for run in self.runs])

    def blocks(self) -> list[Estimate | None]:
        """Test accuracy of every block alone, first to last."""
        columns = zip(*(run.result["block_accuracy"] for run in self.runs), strict=True)
        return [Estimate.of([100 * share for share in column if share is not None]) for column in columns]


def summarise(runs: Sequence[PlannedRun], stored: Sequence[StoredRun]) -> list[RowSummary]:
    """One row a recipe, in the order of ``runs``."""
    rows: dict[str, tuple[Recipe, str, list[StoredRun]]] = {}
    for run in runs:
        assert run.config.budget is not None
        row = rows.setdefault(run.recipe.name, (run.recipe, run.config.budget, []))
        found = find(stored, run)
        if found is not None:
            row[2].append(found)
    return [RowSummary(recipe=recipe, budget=budget, runs=made) for recipe, budget, made in rows.values()]
