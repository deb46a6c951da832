"""A plan in words and numbers, before anything runs."""

from typing import Any

import torch

from trifecta.distributed.plan import Layout, Plan, make_plan
from trifecta.learning.counts import block_costs
from trifecta.learning.first_input import first_input
from trifecta.learning.trial import trial_batch
from trifecta.network import LocalNetwork

_IMAGES = 2


def describe(network: LocalNetwork, layout: Layout) -> dict[str, Any]:
    """Return what ``trifecta plan --json`` prints.

    ``stages``: of each its ``ranks``, ``blocks``, ``share`` of the work, ``parameters`` with those of
    heads, and the numbers that it ``sends`` for an image; ``balance``, see
    :class:`trifecta.distributed.plan.Plan`; ``crossings``: the windows on two stages or more, each with its
    ``step`` in the schedule's ``cycle``.

    Raises:
        ValueError: as :func:`trifecta.distributed.plan.make_plan`.
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
    x = first_input(network, samples, labels, torch.Generator(samples.device).manual_seed(0))
    passed = []
    for k in range(len(network.blocks)):
        _, x = network.pass_block(k, network.renewed(k, x, len(labels), None))
        passed.append(x.numel() // len(labels))
    network.train(was_training)
    return passed
