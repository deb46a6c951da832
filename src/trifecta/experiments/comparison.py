"""Rows on equal work and the backprop that each of them stands beside.

What depends on no machine is counted from the recipe where a result file is from before it held that.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from trifecta.bench.accuracy import seconds_to
from trifecta.comparison import known_images, published_elsewhere
from trifecta.counts import counts
from trifecta.experiments.results import StoredRun
from trifecta.experiments.summary import RowSummary
from trifecta.methods import Method, backprop
from trifecta.network import build_network
from trifecta.nn.networks import NetworkBuilder
from trifecta.optim.config import OptimizerConfig
from trifecta.training import RunConfig

# Of these a ratio to backprop's says something.
COMPARED = ("images_per_second", "training_bytes", "saved_bytes")
FIGURES = (
    *("parameters", "block_parameters", "multiply_adds_per_image", "total_seconds", "evaluation_seconds"),
    *COMPARED,
)


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """A row, and what it stands beside.

    Attributes:
        summary: the row.
        title: what tables call it: with its network where several are compared, and with its width where
            that is not the network's.
        reference: backprop of the same network with the same optimizer; plain backprop where no row that
            was made is that; None where there is no such row either.
    """

    summary: RowSummary
    title: str
    reference: RowSummary | None

    @property
    def published(self) -> float | None:
        """Test accuracy in percent that the method's paper reports for a network of its own."""
        return published_elsewhere(self.summary.recipe)

    @property
    def sort_key(self) -> float:
        """Sorts the most accurate row first and what was not measured last."""
        accuracy = self.summary.accuracy
        return -accuracy.mean if accuracy else math.inf

    def figure(self, name: str) -> float | None:
        """The mean of one of ``FIGURES`` over the runs that have it."""
        return _figure(self.summary, name)

    def ratio(self, name: str) -> float | None:
        """The same over the reference's."""
        own = self.figure(name)
        other = None if self.reference is None else _figure(self.reference, name)
        return own / other if own is not None and other else None

    def seconds_to(self, threshold: float) -> float | None:
        """Mean over the seeds that were timed; None unless each of them gets there."""
        reached = [seconds_to(run.history, threshold) for run in timed(self.summary)]
        known = [seconds for seconds in reached if seconds is not None]
        return statistics.mean(known) if known and len(known) == len(reached) else None


def compare(rows: Sequence[RowSummary]) -> list[ComparedRow]:
    """Every row with what it stands beside, in the order of ``rows``."""
    networks = {row.recipe.base.network for row in rows}
    compared = []
    for row in rows:
        config = row.recipe(row.budget)
        title = row.recipe.title.removesuffix("" if len(networks) > 1 else f", {config.network}")
        if config.width != usual_width(rows, config.network):
            title += f", width {config.width:g}"
        compared.append(ComparedRow(summary=row, title=title, reference=_reference(row, rows)))
    return compared


def usual_width(rows: Sequence[RowSummary], network: str | NetworkBuilder) -> float:
    """The width of all rows of a network but those that are widened."""
    return min(row.recipe(row.budget).width for row in rows if row.recipe.base.network == network)


def timed(row: RowSummary) -> list[StoredRun]:
    """The runs that had the machine to themselves."""
    return [run for run in row.runs if "seconds" in run.result]


def _reference(row: RowSummary, rows: Sequence[RowSummary]) -> RowSummary | None:
    network = row.recipe.base.network
    width = usual_width(rows, network)
    references = {
        _steps(other.recipe.base.method): other
        for other in rows
        if other.runs
        and other.recipe.base.network == network
        and other.recipe(other.budget).width == width
        and _is_backprop(other.recipe.base.method)
    }
    return references.get(_steps(row.recipe.base.method), references.get(_steps(backprop.method())))


def _is_backprop(method: Method) -> bool:
    """Whether nothing but the optimizer tells it from plain backprop."""
    return method == replace(backprop.method(), optimizer=method.optimizer)


def _steps(method: Method) -> OptimizerConfig:
    """Return the settings that decide a weight's step, whatever owns its state."""
    return replace(method.optimizer, ownership="weight", freeze_from=1.0)


def _figure(row: RowSummary, name: str) -> float | None:
    values = [run.result[name] for run in row.runs if run.result.get(name) is not None]
    found: float | None = statistics.mean(values) if values else _counted_for(row).get(name)
    return found


def _counted_for(row: RowSummary) -> Mapping[str, Any]:
    """Count the recipe's network; nothing for a row without runs, or with runs of another network."""
    if not row.runs:
        return {}
    counted = _counted(row.recipe(row.budget))
    others = {run.result["parameters"] for run in row.runs} - {counted.get("parameters")}
    return {} if others else counted


@cache
def _counted(config: RunConfig) -> Mapping[str, Any]:
    images = None if config.data is None else known_images(config.data)
    if images is None:
        return {}
    network = build_network(
        config.method,
        config.network,
        sample_shape=images.image_shape,
        num_classes=images.num_classes,
        width=config.width,
    )
    found = counts(network, batch_size=config.batch_size)
    method = config.method
    if method.optimizer.freeze_from < 1 or (method.finds_superclasses and not method.superclasses):
        # When blocks freeze follows from the number of images, what they learn from the images themselves.
        del found["multiply_adds_per_image"]
    return found
