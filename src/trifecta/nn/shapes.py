"""Shapes without the batch dimension: C channels, F features, T tokens, K classes."""

import torch
from torch import Tensor

# (C, H, W).
ImageShape = tuple[int, int, int]
# A sample without its label: (C, H, W) an image, (C, L) a signal, (C, D, H, W) a volume, (F,) a row of a
# table, (T, F) tokens, (T,) integer tokens.
SampleShape = tuple[int, ...]
# A block's features: (C, …) with any positions, or (F,).
FeatureShape = tuple[int, ...]
# Most units of a layer, pool or projection.
MOST_UNITS = 2**20


def channel_groups(channels: int, num_classes: int) -> Tensor:
    """Return each channel's class, (C,) int64: contiguous groups, as equal as K allows.

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
