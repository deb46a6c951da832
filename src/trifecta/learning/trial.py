"""Batches of made-up samples, for counting work and timing passes.

Shapes: B samples (B, …).
"""

import torch
from torch import Tensor

from trifecta.network import LocalNetwork


def trial_batch(network: LocalNetwork, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return samples and labels that ``network`` can learn from, on its device, the same every time."""
    some = next(p for p in network.parameters() if p.is_floating_point())
    labels = torch.arange(batch_size) % network.num_classes
    labels = labels.view(-1, *[1] * len(network.label_shape)).expand(-1, *network.label_shape)
    if network.integer:
        samples = torch.zeros(batch_size, *network.sample_shape, dtype=torch.int64)
    else:
        draw = torch.Generator().manual_seed(0)
        samples = torch.randn(batch_size, *network.sample_shape, generator=draw).to(some.dtype)
    return samples.to(some.device), labels.to(some.device)
