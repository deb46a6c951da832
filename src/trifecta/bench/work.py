"""The work that a method must do: multiply-adds, counted and not measured.

Shapes: L blocks. Only convolutions and matrix products count; the rest is what an implementation should
make vanish.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from trifecta.network import LocalNetwork


@torch.no_grad()
def forward_multiply_adds(network: LocalNetwork) -> list[int]:
    """Count the multiply-adds of each block for one sample, L values."""
    shape = network.method.input_shape(network.sample_shape, network.num_classes)
    x = torch.zeros(1, *shape, device=next(network.parameters()).device)
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
    """Count the multiply-adds for one image and step, averaged over the schedule's cycle.

    A pass costs 1 forward and 1 for the weight gradient of every block that learns, and 1 for the input
    gradient of every such block but its window's first; a pair is two passes. What a label's own picture
    needs, and heads, are left out.
    """
    forward = forward_multiply_adds(network)
    schedule = network.method.schedule
    total = 0
    for step in range(schedule.cycle):
        for window in schedule.windows(step, len(forward)):
            for k in range(window.first, window.last + 1):
                total += forward[k] * (2 if k == window.first else 3)
    return total / schedule.cycle * _passes(network)


def prediction_multiply_adds(network: LocalNetwork) -> int:
    """Count the multiply-adds of a prediction for one image: with every label, or those on a shortlist."""
    forward = forward_multiply_adds(network)
    if not network.method.tries_labels:
        return sum(forward)
    if network.shortlist is None:
        return sum(forward) * network.num_classes
    early = network.shortlist.after + 1
    return sum(forward[:early]) * network.num_classes + sum(forward[early:]) * network.shortlist.labels


def _passes(network: LocalNetwork) -> int:
    return 2 if network.method.objective.pairs else 1
