"""Which channels a block can do without, by its own loss.

Shapes: N samples; a block's features (N, C, …).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from trifecta.data import evaluation_batches
from trifecta.inputs.label_inputs import wrong_labels
from trifecta.losses import CrossEntropy
from trifecta.losses.class_goodness import GroupHead
from trifecta.losses.classifiers import ClassifierHead
from trifecta.losses.head import Head
from trifecta.network import LocalNetwork
from trifecta.nn.networks import NETWORKS, UNSHRINKABLE
from trifecta.nn.shapes import channel_groups
from trifecta.training import Run, RunConfig, RunFolder, Trainer
from trifecta.training.model import network_for
from trifecta.training.run import finish, resumed_trainer


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
            seen, x = network.pass_block(k, x, offsets)
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


# Enough for a mean; the share of the run's own rate that fine-tuning begins with.
_SAMPLES, _RATE = 2048, 0.5


def shrink(
    run: str | Path,
    out: str | Path,
    *,
    keep: float = 0.3,
    epochs: int = 3,
    imports: Iterable[str | ModuleType] = (),
) -> Run:
    """Remove whole units of a trained network, then train what is left for a little.

    Hidden units of the blocks' classifiers leave first, then each block loses the same share of its
    channels, those that its own loss needs least
    (:func:`trifecta.shrinking.channel_importance`). The smaller run is an ordinary one.

    Args:
        run: a finished run folder.
        out: of the smaller run, new or empty.
        keep: the share of all parameters, heads included, that stays at most.
        epochs: of fine-tuning by the run's own method, at half its rate.
        imports: modules of your own whose parts the run's settings may name.

    Raises:
        ValueError: a share that is none, a run whose network has no such blocks or no loss at every block,
            or a folder that is in use.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share of the parameters, above 0 and up to 1: received {keep}")
    source = resumed_trainer(run, imports=imports, writes=False)
    _check(source.config, source.network)
    config = _smaller(source, keep)
    counts = list(config.channels)
    kept = kept_channels(source.network, _worth(source), counts)
    optimizer = config.method.optimizer
    optimizer = replace(optimizer, learning_rate=_RATE * optimizer.learning_rate, freeze_from=1.0)
    config = replace(config, epochs=epochs, method=replace(config.method, optimizer=optimizer))
    folder = RunFolder(out)
    with folder.begin(config):
        trainer = Trainer(config, folder=folder, data=source.data)
        copy_kept(source.network.cpu(), trainer.network.cpu(), [indices.cpu() for indices in kept])
        trainer.network.to(trainer.device)
        return finish(trainer, repeat_up_to=0)


def _check(config: RunConfig, network: LocalNetwork) -> None:
    """Refuse what cannot be shrunk, in one line."""
    if config.network not in NETWORKS or config.network in UNSHRINKABLE:
        plain = ", ".join(name for name in NETWORKS if name not in UNSHRINKABLE)
        raise ValueError(f"networks of plain blocks can be shrunk ({plain}): received {config.network}")
    if len(network.scored_blocks) < len(network.blocks):
        raise ValueError(
            f"a block is shrunk by its own loss, and method {config.method.name} has none on some: use a "
            "method with a loss on every block"
        )
    if config.method.objective.uses_feedback:
        raise ValueError(
            f"method {config.method.name} has no loss without the network's error: it cannot be shrunk"
        )


def _smaller(source: Trainer, keep: float) -> RunConfig:
    """Return the settings of the largest network that fits into ``keep``.

    Hidden units of classifiers leave first, down to a sixteenth: they cost most of the parameters where
    there are any, and no block after theirs reads them. Then every block loses the same share of its
    channels.
    """
    whole = [shape[0] for shape in source.network.feature_shapes]
    least = source.network.num_classes if source.config.method.normalization == "class-groups" else 1
    limit = keep * sum(p.numel() for p in source.network.parameters())
    hidden = getattr(source.config.method.objective, "hidden", 0)
    for units in sorted({hidden * step // 32 for step in range(2, 33)}, reverse=True) if hidden else [0]:
        config = _with(source.config, units, whole)
        if _parameters(source, config) <= limit:
            return config
    for step in range(256, 0, -1):
        counts = [max(min(least, count), round(count * step / 256)) for count in whole]
        config = _with(source.config, hidden // 16 if hidden else 0, counts)
        if _parameters(source, config) <= limit:
            return config
    raise ValueError(f"no network of these blocks is as small as {keep:g} of the whole: give a larger keep")


def _with(config: RunConfig, hidden: int, channels: list[int]) -> RunConfig:
    objective = config.method.objective
    if isinstance(objective, CrossEntropy) and objective.hidden:
        objective = replace(objective, hidden=max(1, hidden))
    return replace(config, channels=tuple(channels), method=replace(config.method, objective=objective))


def _parameters(source: Trainer, config: RunConfig) -> int:
    return sum(p.numel() for p in network_for(config, source.facts).parameters())


def _worth(source: Trainer) -> list[torch.Tensor]:
    """Return the worth of all channels on the first training images."""
    train = source.data.train
    chosen = train.select(torch.arange(min(_SAMPLES, len(train)), device=train.labels.device))
    batches = evaluation_batches(chosen, 256, mean=source.data.mean, std=source.data.std)
    parts = [channel_importance(source.network, samples, labels) for samples, labels in batches]
    return [torch.stack(block).mean(0) for block in zip(*parts, strict=True)]
