"""The statistics of batch normalisations over batches, written out slowly."""

import copy

import torch
from torch import Tensor, nn

from trifecta import LocalNetwork


def slow_statistics(network: LocalNetwork, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Mean over batches of each batch's mean and unbiased variance, by name, in float64.

    Args:
        network: whose blocks normalise by batch statistics alone.
        inputs: of the first block, one a batch.
    """
    network = copy.deepcopy(network).double().eval()
    found: dict[str, list[Tensor]] = {}

    def normalised(name: str, norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
        columns = x.movedim(1, -1).reshape(-1, x.shape[1])
        mean = columns.mean(0)
        square = (columns - mean).square().sum(0)
        found.setdefault(f"{name}.running_mean", []).append(mean)
        found.setdefault(f"{name}.running_var", []).append(square / (len(columns) - 1))
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (x - mean.view(shape)) / (square / len(columns) + norm.eps).sqrt().view(shape)
        return y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y

    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = lambda x, n=name, m=module: normalised(n, m, x)  # type: ignore[method-assign,misc]
    with torch.no_grad():
        for x in inputs:
            y = x.double()
            for k in range(len(network.blocks)):
                seen, y = network.pass_block(k, y)
                if k in network.scored_blocks and network.method.objective.scores_classes:
                    network.head(k).scores(seen)
    return {name: torch.stack(values).mean(0) for name, values in found.items()}
