"""Which optimizer of a network owns which weights; see :mod:`trifecta.optim.config` for the two rules."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from trifecta.network import LocalNetwork
from trifecta.schedules import Window

# What of them is named a weight is one: ``weight``, ``in_proj_weight``, ``weight_ih_l0``.
_MAPS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)


def build_optimizers(network: LocalNetwork, held: range) -> dict[int, torch.optim.Optimizer]:
    """Optimizers of the blocks ``held``, by owner: a block, or the block whose objective it is."""
    config, num_blocks = network.method.optimizer, len(network.blocks)
    if config.ownership == "objective":
        schedule = network.method.schedule
        owned = {k: schedule.trained_by(k, num_blocks) for k in network.scored_blocks}
    else:
        owned = {k: range(k, k + 1) for k in range(num_blocks)}
    # A label has one state, that of the first objective which reaches it.
    label = set(network.label_parameters())
    optimizers = {}
    for owner, all_blocks in owned.items():
        blocks = [k for k in all_blocks if k in held]
        if not blocks:
            continue
        own = [p for k in blocks for p in network.own_parameters(k)]
        if owner != min(owned):
            own = [p for p in own if p not in label]
        # A block may be frozen, or have no weights.
        if own:
            hidden = [p for k in blocks for p in _matrices(network.blocks[k])]
            optimizers[owner] = config.build(own, hidden=hidden)
    return optimizers


def _matrices(block: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a block that map features to features, by the classes of its layers.

    Neither gains, biases, positions and embeddings, nor what a weight is computed from, such as by
    ``weight_norm``.
    """
    embeddings = [m.weight for m in block.modules() if isinstance(m, nn.Embedding)]
    return [
        p
        for module in block.modules()
        if isinstance(module, _MAPS)
        for name, p in module.named_parameters(recurse=False)
        if "weight" in name.split("_")
        and p.ndim > 1
        and p.shape[0] > 1
        and not any(p is weight for weight in embeddings)
    ]


def owners(network: LocalNetwork, window: Window) -> range:
    """Return the owners whose optimizers step when ``window`` has learnt."""
    if network.method.optimizer.ownership == "objective":
        return range(window.last, window.last + 1)
    return range(window.first, window.last + 1)
