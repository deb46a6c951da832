"""Which channels a block can do without, by its own loss.

Shapes: N samples; a block's features (N, C, …).
"""

import torch
from torch import Tensor

from trifecta.inputs.labels import wrong_labels
from trifecta.losses.class_goodness import GroupHead
from trifecta.network import LocalNetwork
from trifecta.nn.shapes import channel_groups


def channel_importance(network: LocalNetwork, samples: Tensor, labels: Tensor) -> list[Tensor]:
    """Return what each channel is worth to its block's own loss, L × (C,).

    ``mean |features_c · ∂loss/∂features_c|`` over samples and positions, the first order of what the loss
    would change by without the channel; no gradient leaves the block. Source: Molchanov et al. 2017,
    *Pruning convolutional neural networks for resource efficient inference* (arXiv 1611.06440), with the
    block's loss in place of the network's.

    Args:
        network: with a head on every block.
        samples: (N, …), as the network receives them.
        labels: (N,).
    """
    network.eval()
    x = _first_input(network, samples, labels)
    offsets = torch.ones(len(network.blocks), dtype=torch.int64, device=samples.device)
    worth = []
    for k in range(len(network.blocks)):
        with torch.no_grad():
            seen, x = network.pass_block(k, network.renewed(k, x, len(labels), offsets))
        features = seen.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network.head(k).loss(features, labels), features)
        worth.append(
            (features * gradient).abs().flatten(2).mean((0, 2)).detach()
            if features.ndim > 2
            else (features * gradient).abs().mean(0).detach()
        )
    return worth


def _first_input(network: LocalNetwork, samples: Tensor, labels: Tensor) -> Tensor:
    generator = torch.Generator(samples.device).manual_seed(0)
    if network.label_input is not None:
        wrong = wrong_labels(labels, network.num_classes, generator)
        return network.labelled(torch.cat([samples, samples]), torch.cat([labels, wrong])).detach()
    if network.image_pairs is not None:
        return network.image_pairs.pairs(samples, generator)
    return samples


def kept_channels(network: LocalNetwork, worth: list[Tensor], counts: list[int]) -> list[Tensor]:
    """Return the indices of the best channels of each block, in order, L × (counts,).

    Where channels belong to classes, each class keeps as many as it has in a block of that size.
    """
    return [
        _best_of_groups(values, count, network.num_classes)
        if _is_grouped(network, k)
        else values.topk(count).indices.sort().values
        for k, (values, count) in enumerate(zip(worth, counts, strict=True))
    ]


def _is_grouped(network: LocalNetwork, block: int) -> bool:
    return any(isinstance(module, GroupHead) for module in network.head(block).modules())


def _best_of_groups(values: Tensor, count: int, num_classes: int) -> Tensor:
    groups = channel_groups(len(values), num_classes)
    sizes = channel_groups(count, num_classes).bincount(minlength=num_classes)
    kept = []
    for k in range(num_classes):
        members = (groups == k).nonzero().flatten()
        kept.append(members[values[members.to(values.device)].topk(int(sizes[k])).indices.cpu()])
    return torch.cat(kept).sort().values
