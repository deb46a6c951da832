"""Shapes that parts of a network agree on, without the batch dimension.

Shapes: C channels, K classes.
"""

import torch
from torch import Tensor

# (C, H, W).
ImageShape = tuple[int, int, int]
# Of one sample without its label: (C, H, W) an image, (C, L) a signal, (C, D, H, W) a volume, (F,) a row of
# a table, (T, W) tokens of width W, (T,) integer tokens.
SampleShape = tuple[int, ...]
# What a head reads, channels first: (C, …) with any positions, or (F,).
FeatureShape = tuple[int, ...]


def channel_groups(channels: int, num_classes: int) -> Tensor:
    """Assign channels to classes, (C,) int64: contiguous groups, as equal as K allows.

    Raises:
        ValueError: fewer channels than classes.
    """
    if channels < num_classes:
        raise ValueError(
            f"class groups need a channel per class: {num_classes} classes do not fit into a block of "
            f"{channels} channels; use a larger width, or a method without class groups, such as "
            "superfecta or trifecta"
        )
    return torch.arange(channels) * num_classes // channels
