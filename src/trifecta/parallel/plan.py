"""Which process trains which blocks, and what crosses between processes: pure data.

A *stage* is a run of blocks that one process trains. A *replica* is a set of stages that together hold all
blocks and learn from an equal share of every batch. The rank of a process is ``replica · stages + stage``.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch

from trifecta.counts import block_costs, trial_batch
from trifecta.learner import training_input
from trifecta.network import LocalNetwork
from trifecta.schedules import Schedule, Window


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``data`` replicas share the images of a batch; the ``layers`` stages of each share the blocks."""

    data: int = 1
    layers: int = 1

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return self.data * self.layers

    def place(self, rank: int) -> tuple[int, int]:
        """Return the replica and the stage of a process."""
        return divmod(rank, self.layers)

    def peers(self, stage: int) -> list[int]:
        """Return the processes that train a stage, one of each replica."""
        return list(range(stage, self.ranks, self.layers))

    def rows(self, replica: int, images: int) -> slice:
        """Return a replica's share of a batch of ``images``; unequal shares are a ``ValueError``."""
        share = images // self.data
        if images % self.data:
            raise ValueError(
                f"replicas have equal shares of a batch: received {images} images for {self.data}; use "
                f"batch_size={max(1, share) * self.data}"
            )
        return slice(replica * share, (replica + 1) * share)

    def __str__(self) -> str:
        """Return the spelling that :func:`parse_layout` reads for any number of processes."""
        return f"{self.data}x{self.layers}"


def parse_layout(text: str, ranks: int) -> Layout:
    """Read ``data``, ``layers`` or ``DxL`` (D replicas of L stages) for ``ranks`` processes."""
    if text in ("data", "layers"):
        return Layout(**{text: ranks})
    words = text.replace("×", "x").split("x")
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"parallel is data, layers, or both as in 2x3 (2 replicas of 3 stages): received '{text}'"
        )
    layout = Layout(data=int(words[0]), layers=int(words[1]))
    if layout.ranks != ranks:
        raise ValueError(
            f"parallel={text} needs {layout.ranks} processes: received {ranks}; start as many as it needs"
        )
    return layout


class Crossing(NamedTuple):
    """A window whose blocks are on two or more stages, between which its gradient crosses."""

    step: int  # in the schedule's cycle
    window: Window
    stages: range


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The blocks of every stage, by the cost of every block in any unit."""

    layout: Layout
    stages: tuple[range, ...]
    costs: tuple[float, ...]
    schedule: Schedule

    def share(self, stage: int) -> float:
        """Return the share of the total cost that a stage has."""
        total = sum(self.costs)
        return sum(self.costs[k] for k in self.stages[stage]) / total if total else 0.0

    @property
    def balance(self) -> float:
        """Mean cost of a stage over the largest: the share of the time in which processes work."""
        return 1 / (len(self.stages) * max(map(self.share, range(len(self.stages)))))

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """Windows on two or more stages, over one cycle of the schedule."""
        stage_of = {block: stage for stage, blocks in enumerate(self.stages) for block in blocks}
        windows = (
            Crossing(step, window, range(stage_of[window.first], stage_of[window.last] + 1))
            for step in range(self.schedule.cycle)
            for window in self.schedule.windows(step, len(self.costs))
        )
        return tuple(each for each in windows if len(each.stages) > 1)

    def parts(self, stage: int, windows: Sequence[Window]) -> list[tuple[Window, Window | None]]:
        """Split a stage's blocks into runs, each with its window, None for blocks that none trains."""
        window_of = {k: window for window in windows for k in window.blocks}
        runs = [(list(run), window) for window, run in groupby(self.stages[stage], window_of.get)]
        return [(Window(run[0], run[-1]), window) for run, window in runs]


def make_plan(layout: Layout, costs: Sequence[float], schedule: Schedule) -> Plan:
    """Assign blocks, each of some cost, to stages so that the largest stage costs as little as possible.

    Raises:
        ValueError: more stages than blocks, or several stages for a schedule with one loss for all blocks.
    """
    if layout.layers > len(costs):
        raise ValueError(
            f"a stage holds one block or more: received {layout.layers} stages for {len(costs)} blocks; "
            "use fewer, or share the images too, as in 2x3"
        )
    if layout.layers > 1 and not schedule.size:
        raise ValueError(
            "blocks that learn from one loss at the network's end wait for each other: received "
            f"{layout.layers} stages with schedule {schedule}; use parallel=data"
        )
    stages = _balanced(costs, layout.layers)
    return Plan(layout=layout, stages=stages, costs=tuple(costs), schedule=schedule)


def _balanced(costs: Sequence[float], stages: int) -> tuple[range, ...]:
    """Cut blocks into runs whose largest cost is least; of equal cuts, take the earliest."""
    sums = [0.0, *accumulate(costs)]

    @cache
    def best(blocks: int, stages: int) -> tuple[float, tuple[range, ...]]:
        """Return the least largest cost of the first ``blocks`` on so many stages, and their runs."""
        if stages == 1:
            return sums[blocks], (range(blocks),)
        cost, cut = min(
            (max(best(cut, stages - 1)[0], sums[blocks] - sums[cut]), cut)
            for cut in range(stages - 1, blocks)
        )
        return cost, (*best(cut, stages - 1)[1], range(cut, blocks))

    return best(len(costs), stages)[1]


def describe(network: LocalNetwork, layout: Layout) -> dict[str, Any]:
    """Return the plan of a network as plain values; raise as :func:`make_plan`.

    A stage has a ``share`` of the cost, ``parameters`` with those of heads, and ``sends`` so many numbers
    for an image. ``crossings`` are at a ``step`` of the schedule's ``cycle``.
    """
    plan = make_plan(layout, block_costs(network), network.method.schedule)
    sizes = _output_sizes(network)
    stages = [
        {
            "ranks": layout.peers(stage),
            "blocks": list(blocks),
            "share": plan.share(stage),
            "parameters": sum(p.numel() for k in blocks for p in network.own_parameters(k)),
            "sends": 0 if stage == layout.layers - 1 else sizes[blocks[-1]],
        }
        for stage, blocks in enumerate(plan.stages)
    ]
    crossings = [
        {"step": step, "blocks": list(window.blocks), "stages": list(on)}
        for step, window, on in plan.crossings
    ]
    return {
        "processes": layout.ranks,
        "layout": str(layout),
        "stages": stages,
        "balance": plan.balance,
        "cycle": plan.schedule.cycle,
        "crossings": crossings,
    }


@torch.no_grad()
def _output_sizes(network: LocalNetwork) -> list[int]:
    """Count the numbers in each block's output for an image, including its negative."""
    network = copy.deepcopy(network).eval()
    samples, labels = trial_batch(network, 2)
    x, sizes = training_input(network, samples, labels, torch.Generator(samples.device)), []
    for k in range(len(network.blocks)):
        _, x = network.pass_block(k, x)
        sizes.append(x.numel() // len(labels))
    return sizes
