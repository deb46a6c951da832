"""A run that trains a smaller network from a trained one."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from trifecta.data import evaluation_batches
from trifecta.losses import CrossEntropy
from trifecta.network import LocalNetwork
from trifecta.nn.networks import NETWORKS, UNSHRINKABLE
from trifecta.shrinking.criterion import channel_importance, kept_channels
from trifecta.shrinking.surgery import copy_kept
from trifecta.training import Run, RunConfig, RunFolder, Trainer
from trifecta.training.run import finish, resumed_trainer
from trifecta.training.saved_network import network_for

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
    (:func:`trifecta.shrinking.criterion.channel_importance`). The smaller run is an ordinary one.

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
