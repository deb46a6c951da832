"""Networks of equal size: the width at which one method's network has another's number of parameters."""

from functools import cache

import torch

from trifecta.experiments.recipes.data_sets import Images
from trifecta.methods import Method
from trifecta.network import build_network

# Widths are whole thousandths: finer ones round to the same channels.
_PARTS = 1000


@cache
def parameters_at(width: float, method: Method, network: str, images: Images) -> int:
    """Parameters of the network with all its heads; nothing is allocated for them."""
    with torch.device("meta"):
        built = build_network(
            method,
            network,
            sample_shape=images.image_shape,
            num_classes=images.num_classes,
            width=width,
        )
    return sum(p.numel() for p in built.parameters())


def width_with(parameters: int, method: Method, network: str, images: Images) -> float:
    """The width, in thousandths, whose number of parameters is nearest; the smaller of equals."""

    def count(part: int) -> int:
        return parameters_at(part / _PARTS, method, network, images)

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    # More width never has fewer parameters.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    part = min((low, high), key=lambda part: abs(count(part) - parameters))
    while part > 1 and count(part - 1) == count(part):
        part -= 1
    return part / _PARTS
