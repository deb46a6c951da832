"""Structured pruning: remove the channels that each block's own loss needs least.

Shapes: N samples; features (N, C, …) of a block with C channels; L blocks.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from trifecta.data import evaluation_batches
from trifecta.learner import training_input
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

# Number of training samples that importance is averaged over, and the share of the run's learning rate that
# fine-tuning starts with.
_SAMPLES, _RATE = 2048, 0.5


def shrink(
    run: str | Path,
    out: str | Path,
    *,
    keep: float = 0.3,
    epochs: int = 3,
    imports: Iterable[str | ModuleType] = (),
) -> Run:
    """Remove whole units of a trained network, and fine-tune the rest; the result is an ordinary run.

    Hidden units of the blocks' classifiers are removed first. If that is not enough, every block loses the
    same share of its channels, those with the least :func:`channel_importance`.

    Args:
        run: folder of a finished run.
        out: folder of the smaller run, new or empty.
        keep: largest share of all parameters to keep, including those of heads.
        epochs: epochs of fine-tuning by the run's own method, at half its learning rate.
        imports: your own modules whose parts the run's settings may name.

    Raises:
        ValueError: ``keep`` is not a share, the network is not made of plain blocks with a loss each, no
            network is small enough, or a folder is in use.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share of the parameters, above 0 and up to 1: received {keep}")
    source = resumed_trainer(run, imports=imports, writes=False)
    _check(source.config, source.network)
    config = _smaller(source, keep)
    kept = kept_channels(source.network, _mean_importance(source), config.channels)
    optimizer = config.method.optimizer
    optimizer = replace(optimizer, learning_rate=_RATE * optimizer.learning_rate, freeze_from=1.0)
    config = replace(config, epochs=epochs, method=replace(config.method, optimizer=optimizer))
    folder = RunFolder(out)
    with folder.begin(config):
        trainer = Trainer(config, folder=folder, data=source.data)
        copy_kept(source.network.cpu(), trainer.network.cpu(), kept)
        trainer.network.to(trainer.device)
        return finish(trainer, repeat_up_to=0)


def _check(config: RunConfig, network: LocalNetwork) -> None:
    """Raise a ``ValueError`` for a run that cannot be shrunk."""
    plain, name = [name for name in NETWORKS if name not in UNSHRINKABLE], config.method.name
    if config.network not in plain:
        told = f"networks of plain blocks can be shrunk ({', '.join(plain)})"
        raise ValueError(f"{told}: received {config.network}")
    if len(network.scored_blocks) < len(network.blocks):
        raise ValueError(
            f"a block is shrunk by its own loss, and method {name} has none on some: use a method with a "
            "loss on every block"
        )
    if config.method.objective.uses_feedback:
        raise ValueError(f"method {name} has no loss without the network's error: it cannot be shrunk")


def _smaller(source: Trainer, keep: float) -> RunConfig:
    """Return the settings of the largest network with at most a share ``keep`` of the parameters.

    Hidden units of classifiers are reduced first, down to a sixteenth: they have most of the parameters,
    and no other block reads them.
    """
    config, objective = source.config, source.config.method.objective
    whole = [shape[0] for shape in source.network.feature_shapes]
    least = source.network.num_classes if config.method.normalization == "class-groups" else 1
    hidden = objective.hidden if isinstance(objective, CrossEntropy) else 0

    def resized(units: int, channels: list[int]) -> RunConfig:
        method = config.method
        if isinstance(objective, CrossEntropy) and hidden:
            method = replace(method, objective=replace(objective, hidden=max(1, units)))
        return replace(config, channels=tuple(channels), method=method)

    def parameters(smaller: RunConfig) -> int:
        return sum(p.numel() for p in network_for(smaller, source.facts).parameters())

    # Smallest first.
    sizes = [
        resized(hidden // 16, [max(min(least, count), round(count * step / 256)) for count in whole])
        for step in range(1, 257)
    ]
    sizes += [resized(units, whole) for units in sorted({hidden * step // 32 for step in range(3, 33)})]
    limit = keep * sum(p.numel() for p in source.network.parameters())
    fitting = bisect_right(sizes, limit, key=parameters)
    if not fitting:
        raise ValueError(
            f"no network of these blocks is as small as {keep:g} of the whole: give a larger keep"
        )
    return sizes[fitting - 1]


def _mean_importance(source: Trainer) -> list[Tensor]:
    """Return the importance of all channels on the first training samples, L × (C,)."""
    train = source.data.train
    chosen = train.select(torch.arange(min(_SAMPLES, len(train)), device=train.labels.device))
    batches = evaluation_batches(chosen, 256, mean=source.data.mean, std=source.data.std)
    parts = [channel_importance(source.network, samples, labels) for samples, labels in batches]
    return [torch.stack(block).mean(0) for block in zip(*parts, strict=True)]


def channel_importance(network: LocalNetwork, samples: Tensor, labels: Tensor) -> list[Tensor]:
    """Return how much each channel matters to its block's own loss on samples and labels, L × (C,).

    ``mean |features_c · ∂loss/∂features_c|`` over samples and positions, a first-order estimate of the
    change of the loss without the channel. No gradient leaves the block. Source: Molchanov et al. 2017,
    *Pruning convolutional neural networks for resource efficient inference* (arXiv 1611.06440), with the
    block's loss in place of the network's.
    """
    network.eval()
    generator = torch.Generator(samples.device).manual_seed(0)
    x = training_input(network, samples, labels, generator).detach()
    offsets = torch.ones(len(network.blocks), dtype=torch.int64, device=samples.device)
    importance = []
    for k in range(len(network.blocks)):
        with torch.no_grad():
            seen, x = network.pass_block(k, x, offsets)
        features = seen.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network.head(k).loss(features, labels), features)
        change = (features * gradient).detach().abs()
        importance.append(change.flatten(2).mean((0, 2)) if change.ndim > 2 else change.mean(0))
    return importance


def kept_channels(
    network: LocalNetwork, importance: Sequence[Tensor], counts: Sequence[int]
) -> list[Tensor]:
    """Return the sorted indices of the ``counts`` most important channels of each block.

    If channels belong to classes, each class keeps as many as it has in a block of that size.
    """
    kept = []
    for k, (values, count) in enumerate(zip(importance, counts, strict=True)):
        has_groups = any(isinstance(module, GroupHead) for module in network.head(k).modules())
        classes, values = network.num_classes if has_groups else 1, values.cpu()
        before, after = channel_groups(len(values), classes), channel_groups(count, classes)
        best = []
        for c in range(classes):
            own = (before == c).nonzero().flatten()
            best.append(own[values[own].topk(int((after == c).sum())).indices])
        kept.append(torch.cat(best).sort().values)
    return kept


@torch.no_grad()
def copy_kept(source: LocalNetwork, target: LocalNetwork, kept: Sequence[Tensor]) -> None:
    """Copy the ``kept`` channels of each block of ``source``, as many as ``target`` has.

    The label input is copied, too, and heads that classify averages of channels.
    """
    if source.label_input is not None and target.label_input is not None:
        target.label_input.load_state_dict(source.label_input.state_dict())
    inputs = None
    for k, (old, new) in enumerate(zip(source.blocks, target.blocks, strict=True)):
        weights, smaller = old.get_submodule("weights"), new.get_submodule("weights")
        if inputs is not None:
            # A flattened map has a column for each position of a channel.
            inputs = _each(inputs, smaller.get_parameter("weight").shape[1] // len(inputs))
        _copy(weights, smaller, kept[k], inputs)
        names = [name for name, _ in old.named_children()]
        is_behind = names.index("normalize") > names.index("weights")
        norm, smaller = old.get_submodule("normalize"), new.get_submodule("normalize")
        _copy(norm, smaller, kept[k] if is_behind else inputs)
        if k in source.scored_blocks:
            _copy_head(source.head(k), target.head(k), kept[k])
        inputs = kept[k]


def _each(groups: Tensor, size: int) -> Tensor:
    """Return the indices of all members of groups that have ``size`` consecutive ones each."""
    return (groups.unsqueeze(1) * size + torch.arange(size)).flatten()


def _copy(old: nn.Module, new: nn.Module, rows: Tensor | None, columns: Tensor | None = None) -> None:
    """Copy weights and statistics, of which ``new`` may have fewer rows, and fewer columns."""
    target = new.state_dict()
    for name, value in old.state_dict().items():
        for dim, kept in enumerate((rows, columns)):
            if kept is not None and value.ndim > dim and value.shape[dim] != target[name].shape[dim]:
                value = value.index_select(dim, kept)
        target[name].copy_(value)


def _copy_head(old: Head, new: Head, kept: Tensor) -> None:
    """Copy a classifier of channel averages; leave any other head as it is."""
    if type(old) is not ClassifierHead or type(new) is not ClassifierHead or not old.pool:
        return
    layers, smaller = (
        [module for module in head.classifier.modules() if isinstance(module, nn.Linear)]
        for head in (old, new)
    )
    # Averages are flattened patch by patch.
    patches = torch.arange(old.pool**old.dimensions).unsqueeze(1)
    entries = (patches * (layers[0].weight.shape[1] // len(patches)) + kept).flatten()
    _copy(old.normalize, new.normalize, entries)
    if len(layers) > 1:
        norm, smaller_norm = (
            next(module for module in head.classifier.modules() if isinstance(module, nn.BatchNorm1d))
            for head in (old, new)
        )
        # Batch normalization gives all units the same deviation, so that the weights alone tell them apart.
        effect = norm.weight.abs() * layers[1].weight.norm(dim=0)
        units = effect.topk(smaller[0].weight.shape[0]).indices.sort().values
        _copy(layers[0], smaller[0], units, entries)
        _copy(norm, smaller_norm, units)
        entries = units
    _copy(layers[-1], smaller[-1], None, entries)
