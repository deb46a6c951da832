"""Copying the weights of kept channels into a smaller network of the same kind.

Shapes: a convolution's weight (O, I, 3, 3), a linear one's (O, I).
"""

import torch
from torch import Tensor, nn

from trifecta.losses.classifiers import ClassifierHead
from trifecta.losses.head import Head
from trifecta.network import LocalNetwork


@torch.no_grad()
def copy_kept(source: LocalNetwork, target: LocalNetwork, kept: list[Tensor]) -> None:
    """Copy what is left of ``source`` into ``target``: blocks, label input, and heads where that is plain.

    Heads other than classifiers of averages, and heads without weights, start anew.

    Args:
        source: the trained network.
        target: as many blocks, with so many channels as are kept.
        kept: of each block, the channels of ``source`` that stay.
    """
    if source.label_input is not None and target.label_input is not None:
        target.label_input.load_state_dict(source.label_input.state_dict())
    before: Tensor | None = None
    for k, (old, new) in enumerate(zip(source.blocks, target.blocks, strict=True)):
        _copy_block(old, new, before, kept[k])
        before = kept[k]
        if k in source.scored_blocks:
            _copy_head(source.head(k), target.head(k), kept[k])


def _copy_block(old: nn.Module, new: nn.Module, received: Tensor | None, kept: Tensor) -> None:
    weights, target = old.get_submodule("weights"), new.get_submodule("weights")
    assert isinstance(weights, nn.Conv2d | nn.Linear)
    assert isinstance(target, nn.Conv2d | nn.Linear)
    inputs = torch.arange(weights.weight.shape[1])
    if received is not None:
        # Behind a flattening, each channel has as many columns as it had positions.
        inputs = _columns(received, target.weight.shape[1] // len(received))
    target.weight.copy_(weights.weight[kept][:, inputs])
    if weights.bias is not None and target.bias is not None:
        target.bias.copy_(weights.bias[kept])
    order = [name for name, _ in old.named_children()]
    at_output = order.index("normalize") > order.index("weights")
    _copy_norm(
        old.get_submodule("normalize"), new.get_submodule("normalize"), kept if at_output else inputs
    )


def _columns(channels: Tensor, positions: int) -> Tensor:
    """Columns of flattened maps (C, positions) that belong to ``channels``."""
    return (channels.unsqueeze(1) * positions + torch.arange(positions)).flatten()


def _copy_norm(old: nn.Module, new: nn.Module, entries: Tensor) -> None:
    """Copy gains, biases and running statistics of the entries that stay."""
    own = new.state_dict()
    for name, value in old.state_dict().items():
        own[name].copy_(value if value.shape == own[name].shape else value[entries])


def _copy_head(old: Head, new: Head, kept: Tensor) -> None:
    """Copy a classifier of averages; any other head starts anew."""
    if type(old) is not ClassifierHead or type(new) is not ClassifierHead or not old.pool:
        return
    patches = max(1, old.pool) ** old.dimensions
    first = _linears(old)[0]
    # Averages are flattened patch by patch.
    channels = first.weight.shape[1] // patches
    entries = (torch.arange(patches).unsqueeze(1) * channels + kept).flatten()
    _copy_norm(old.normalize, new.normalize, entries)
    if len(_linears(old)) == 1:
        _copy_linear(first, _linears(new)[0], entries, None)
        return
    units = _best_units(old, _linears(new)[0].weight.shape[0])
    _copy_linear(first, _linears(new)[0], entries, units)
    _copy_norm(_hidden_norm(old), _hidden_norm(new), units)
    _copy_linear(_linears(old)[1], _linears(new)[1], units, None)


def _best_units(head: ClassifierHead, count: int) -> Tensor:
    """Return the hidden units whose normalised activation weighs most in the scores, in order.

    ``|gain| · |outgoing weights|``: behind a batch normalisation every unit has the same deviation.
    """
    gain = _hidden_norm(head).get_parameter("weight").abs()
    worth = gain * _linears(head)[1].weight.norm(dim=0)
    best: Tensor = worth.topk(count).indices.sort().values
    return best


def _copy_linear(old: nn.Linear, new: nn.Linear, inputs: Tensor, outputs: Tensor | None) -> None:
    rows = old.weight if outputs is None else old.weight[outputs]
    new.weight.copy_(rows[:, inputs])
    if old.bias is not None:
        new.bias.copy_(old.bias if outputs is None else old.bias[outputs])


def _linears(head: ClassifierHead) -> list[nn.Linear]:
    return [module for module in head.classifier.modules() if isinstance(module, nn.Linear)]


def _hidden_norm(head: ClassifierHead) -> nn.Module:
    return next(module for module in head.classifier.modules() if isinstance(module, nn.BatchNorm1d))
