"""Which process holds which blocks, and what crosses between them: pure data, no tensors.

A *stage* is a run of blocks that one process holds; a *replica* is a set of stages that holds all blocks
and learns from its share of every batch. Ranks count stages first: ``replica · layers + stage``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trifecta.counts import block_costs, trial_batch
from trifecta.learner import training_input
from trifecta.network import LocalNetwork
from trifecta.schedules import Schedule, Window


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many processes share the images, and how many share the blocks.

    Attributes:
        data: replicas, each with a share of every batch.
        layers: stages of a replica, each with a run of blocks.
    """

    data: int = 1
    layers: int = 1

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return self.data * self.layers

    def replica(self, rank: int) -> int:
        """The replica that a process belongs to."""
        return rank // self.layers

    def stage(self, rank: int) -> int:
        """The stage that a process holds."""
        return rank % self.layers

    def rank(self, replica: int, stage: int) -> int:
        """The process that holds a stage of a replica."""
        return replica * self.layers + stage

    def __str__(self) -> str:
        """The spelling that :func:`parse_layout` reads for any number of processes."""
        return f"{self.data}x{self.layers}"


def parse_layout(text: str, ranks: int) -> Layout:
    """Read ``data``, ``layers`` or ``DxL`` (D replicas of L stages) for so many processes.

    Raises:
        ValueError: another word, or another number of processes than there are.
    """
    if text == "data":
        return Layout(data=ranks)
    if text == "layers":
        return Layout(layers=ranks)
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
    """A window whose blocks stand on two stages or more: its own gradient goes back, and no other's.

    Attributes:
        step: within the schedule's cycle, from 0.
        window: the blocks that learn together.
        stages: that hold them.
    """

    step: int
    window: Window
    stages: range


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The blocks of every stage.

    Attributes:
        layout: of the processes.
        stages: blocks of each, first to last.
        costs: of every block, in any unit.
        schedule: which blocks learn together.
    """

    layout: Layout
    stages: tuple[range, ...]
    costs: tuple[float, ...]
    schedule: Schedule

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.costs)

    def stage_of(self, block: int) -> int:
        """The stage that holds ``block``."""
        return next(k for k, blocks in enumerate(self.stages) if block in blocks)

    def share(self, stage: int) -> float:
        """The share of all work that a stage does."""
        total = sum(self.costs)
        return sum(self.costs[k] for k in self.stages[stage]) / total if total else 0.0

    @property
    def balance(self) -> float:
        """The mean stage's work over the largest one's: the share of the time that processes work."""
        return 1 / (len(self.stages) * max(self.share(k) for k in range(len(self.stages))))

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """Windows that cross from one stage to another, over a cycle of the schedule."""
        cycle = self.schedule.cycle
        return tuple(
            Crossing(step, window, range(self.stage_of(window.first), self.stage_of(window.last) + 1))
            for step in range(cycle)
            for window in self.schedule.windows(step, self.num_blocks)
            if self.stage_of(window.first) != self.stage_of(window.last)
        )


def make_plan(layout: Layout, costs: Sequence[float], schedule: Schedule) -> Plan:
    """Place blocks on stages so that the largest stage's cost is as small as it can be.

    Args:
        layout: of the processes.
        costs: of every block, 0 or more.
        schedule: of the method.

    Raises:
        ValueError: more stages than blocks, or a schedule that trains all blocks together.
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
    return Plan(
        layout=layout,
        stages=_balanced(tuple(costs), layout.layers),
        costs=tuple(costs),
        schedule=schedule,
    )


def _balanced(costs: tuple[float, ...], stages: int) -> tuple[range, ...]:
    """Cut ``costs`` into so many runs whose largest sum is least; the earliest cuts of equal ones."""
    count = len(costs)
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    # best[s][n]: the least largest sum of the first n blocks on s stages, and where the last one begins.
    best: list[list[tuple[float, int]]] = [[(0.0 if n == 0 else float("inf"), 0) for n in range(count + 1)]]
    for stage in range(1, stages + 1):
        row = [(float("inf"), 0)] * (count + 1)
        begin = stage - 1
        for n in range(stage, count + 1):
            # The later the last stage begins, the smaller it is, and the larger are those before.
            while begin < n - 1 and best[-1][begin][0] < sums[n] - sums[begin]:
                begin += 1
            # The least is here or a block earlier; blocks that cost nothing make equal ones.
            earliest = max(begin - 1, stage - 1)
            while earliest > stage - 1 and sums[earliest - 1] == sums[earliest]:
                earliest -= 1
            row[n] = min(
                (max(best[-1][cut][0], sums[n] - sums[cut]), cut) for cut in range(earliest, begin + 1)
            )
        best.append(row)
    cuts, end = [], count
    for stage in range(stages, 0, -1):
        begin = best[stage][end][1]
        cuts.append(range(begin, end))
        end = begin
    return tuple(reversed(cuts))


_IMAGES = 2


def describe(network: LocalNetwork, layout: Layout) -> dict[str, Any]:
    """Return what ``trifecta plan --json`` prints.

    ``stages``: of each its ``ranks``, ``blocks``, ``share`` of the work, ``parameters`` with those of
    heads, and the numbers that it ``sends`` for an image; ``balance``, see
    :class:`trifecta.parallel.plan.Plan`; ``crossings``: the windows on two stages or more, each with its
    ``step`` in the schedule's ``cycle``.

    Raises:
        ValueError: as :func:`trifecta.parallel.plan.make_plan`.
    """
    plan = make_plan(layout, block_costs(network), network.method.schedule)
    passed = _passed_on(network)
    schedule = plan.schedule
    return {
        "processes": layout.ranks,
        "layout": str(layout),
        "stages": [_stage(network, plan, stage, passed) for stage in range(layout.layers)],
        "balance": plan.balance,
        "cycle": schedule.cycle,
        "crossings": [
            {
                "step": crossing.step,
                "blocks": list(range(crossing.window.first, crossing.window.last + 1)),
                "stages": list(crossing.stages),
            }
            for crossing in plan.crossings
        ],
    }


def _stage(network: LocalNetwork, plan: Plan, stage: int, passed: list[int]) -> dict[str, Any]:
    layout, blocks = plan.layout, plan.stages[stage]
    return {
        "ranks": [layout.rank(replica, stage) for replica in range(layout.data)],
        "blocks": list(blocks),
        "share": plan.share(stage),
        "parameters": sum(p.numel() for k in blocks for p in network.own_parameters(k)),
        "sends": 0 if stage == layout.layers - 1 else passed[blocks[-1]],
    }


@torch.no_grad()
def _passed_on(network: LocalNetwork) -> list[int]:
    """How many numbers each block passes on for an image, with its negative where pairs are learnt from."""
    samples, labels = trial_batch(network, _IMAGES)
    was_training = network.training
    network.eval()
    x = training_input(network, samples, labels, torch.Generator(samples.device).manual_seed(0))
    passed = []
    for k in range(len(network.blocks)):
        _, x = network.pass_block(k, x)
        passed.append(x.numel() // len(labels))
    network.train(was_training)
    return passed
