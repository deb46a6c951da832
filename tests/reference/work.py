"""The multiply-adds that no training step can do without, by a rule."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from trifecta.network import LocalNetwork


@torch.no_grad()
def forward_multiply_adds(network: LocalNetwork) -> list[int]:
    """Multiply-adds of each of L blocks for one sample: convolutions and matrix products."""
    shape = network.method.input_shape(network.sample_shape, network.num_classes)
    x = torch.zeros(1, *shape)
    was_training = network.training
    network.eval()
    counts = []
    for block in network.blocks:
        with FlopCounterMode(display=False) as counter:
            x = block(x)
        counts.append(counter.get_total_flops() // 2)
    network.train(was_training)
    return counts


def training_multiply_adds(network: LocalNetwork) -> float:
    """Those of a step for one image, without heads, averaged over the schedule's cycle.

    A pass costs 1 forward and 1 for the weight gradient of every block that learns, and 1 for the input
    gradient of every such block except its window's first; a pair is two passes.
    """
    forward, schedule = forward_multiply_adds(network), network.method.schedule
    total = sum(
        forward[k] * (2 if k == window.first else 3)
        for step in range(schedule.cycle)
        for window in schedule.windows(step, len(forward))
        for k in window.blocks
    )
    return total / schedule.cycle * (2 if network.method.objective.pairs else 1)
