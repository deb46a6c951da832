"""Statistics of batch normalisations, estimated anew where their running averages lag behind.

PyTorch's running average begins at mean 0 and variance 1, and after t steps still holds (1 − momentum)ᵗ of
that, besides the statistics of weights that have moved on since. After ten steps that is a third, and a
network that has learnt its task predicts at chance. Shapes: B samples (B, …), labels (B,) or (B, …).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta._utils.devices import autocast, in_memory_format
from trifecta.inputs.image_pairs import draw_offsets
from trifecta.learner import training_input
from trifecta.network import LocalNetwork

# Steps × momentum from which on an average is taken as it is: e⁻⁸ of its start is left, and on digits no
# estimate was better. That is 80 steps of PyTorch's default momentum.
LAGGING = 8.0
# Samples that are enough for an estimate, and those that are kept where they cannot be had again.
ENOUGH, REMEMBERED = 2048, 512
_USUAL_MOMENTUM = 0.1

Batch = tuple[Tensor, Tensor]


def lagging_norms(network: nn.Module, steps: int | None = None) -> dict[str, _BatchNorm]:
    """Return the batch normalisations, by name, whose running averages lag after so many steps.

    Those that keep no statistics and those whose parameters are frozen are left out. None takes all others.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and (not list(module.parameters()) or any(p.requires_grad for p in module.parameters()))
        and (steps is None or steps * (module.momentum or _USUAL_MOMENTUM) < LAGGING)
    }


@torch.no_grad()
def estimate_statistics(
    network: LocalNetwork,
    batches: Iterable[Batch],
    *,
    steps: int | None = None,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Set the statistics of batch normalisations to their means over ``batches``, with weights as they are.

    Call it before predicting with a network that was trained for few steps. Samples enter as in training,
    with wrong labels or in pairs where the method makes such; everything else is in evaluation mode. Layers
    that are in evaluation mode while the network trains keep their statistics. No other state moves.

    Args:
        network: trained; on its device.
        batches: of training samples and labels, as for :meth:`trifecta.Learner.step`, best not augmented
            and of mixed classes; some hundred samples in all are enough.
        steps: of training so far, where statistics are to be estimated only as long as running averages
            lag, in the first ``8 / momentum`` steps; None estimates them in any case.
        precision: that of training, ``fp32`` or ``bf16``.

    Returns:
        The statistics before, by their names in the network's state, for :func:`set_statistics`.

    Source: as ``torch.optim.swa_utils.update_bn``, for networks that are trained block by block.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        network.train()
        norms = {name: norm for name, norm in lagging_norms(network, steps).items() if norm.training}
        network.eval()
        before = {
            f"{name}.{kind}": getattr(norm, kind).clone()
            for name, norm in norms.items()
            for kind in ("running_mean", "running_var")
        }
        if norms:
            _average(network, list(norms.values()), batches, precision)
    finally:
        for module, training in modes.items():
            module.training = training
    return before


def set_statistics(network: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Set statistics by name; those of blocks that are not in this process are left out."""
    for name, value in statistics.items():
        buffer = network.get_buffer(name)
        if not buffer.is_meta:
            buffer.copy_(value)


def remembered(batches: Iterable[Batch], seen: list[Batch]) -> Iterator[Batch]:
    """Yield batches, the first of which are kept in ``seen``."""
    for batch in batches:
        if not is_enough(seen):
            seen.append(batch)
        yield batch


def is_enough(seen: list[Batch]) -> bool:
    """Return whether no more batches need be remembered."""
    return sum(len(labels) for _, labels in seen) >= REMEMBERED


def _average(
    network: LocalNetwork, norms: list[_BatchNorm], batches: Iterable[Batch], precision: str
) -> None:
    """Average the statistics of ``norms``; one that nothing passes, or what is no number, keeps its own."""
    generator = torch.Generator(network.device).manual_seed(0)
    kept = [(norm, norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    try:
        for number, (images, labels) in enumerate(_usable(batches, network.device)):
            with autocast(precision, network.device):
                # Predictions of the labels that are wrong and likely need statistics, too.
                images = network.as_samples(images)
                x = in_memory_format(training_input(network, images, labels, generator))
                for norm in norms if number == 0 else ():
                    norm.reset_running_stats()
                with _updating(norms):
                    _pass(network, x, len(labels), generator)
    finally:
        for norm, momentum, buffers in kept:
            norm.momentum = momentum
            passed = norm.num_batches_tracked
            was_passed = passed is None or bool(passed)
            is_bad = not all(bool(buffer.isfinite().all()) for buffer in norm.buffers())
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                if is_bad or buffer is passed or not was_passed:
                    buffer.copy_(value)


def _usable(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on ``device`` without samples that are not finite, unless one sample is left."""
    for images, labels in batches:
        is_finite = images.flatten(1).isfinite().all(1)
        if is_finite.sum() > 1:
            targets = labels[is_finite.to(labels.device)]
            yield in_memory_format(images[is_finite].to(device)), targets.to(device)


def _pass(network: LocalNetwork, x: Tensor, positives: int, generator: torch.Generator) -> None:
    """Pass a batch through every block, and through the heads that normalise."""
    offsets = None
    if network.renews_pairs:
        offsets = draw_offsets(len(network.blocks), positives, generator, x.device)
    for block in range(len(network.blocks)):
        seen, x = network.pass_block(block, x, offsets)
        if block in network.scored_blocks:
            head = network.head(block)
            if any(isinstance(module, _BatchNorm) for module in head.modules()):
                head.scores(seen)


@contextmanager
def _updating(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let ``norms`` alone train, and take the mean of what they see."""
    for norm in norms:
        norm.training, norm.momentum = True, None
    try:
        yield
    finally:
        for norm in norms:
            norm.training = False
