"""Statistics of batch normalizations to predict with: estimated anew while averages lag, and bounded.

PyTorch's running average begins at mean 0 and variance 1, and after t steps still holds (1 − momentum)ᵗ of
that, and statistics of weights that have since moved on. After ten steps that is a third, and a network
that has learned its task predicts at chance. Shapes: B samples (B, …), labels (B,) or (B, …).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta._utils.devices import autocast, in_memory_format
from trifecta.inputs import draw_offsets
from trifecta.learner import Learner, training_input
from trifecta.network import LocalNetwork

# Steps × momentum from which on an average is taken as it is: e⁻⁸ of its start is left, and on digits no
# estimate was better. That is 80 steps of PyTorch's default momentum.
LAGGING = 8.0
_USUAL_MOMENTUM = 0.1
# Least variance of a pixel in predictions, relative to the mean over all pixels.
LEAST_VARIANCE = 0.1
# Samples that are enough for an estimate, and those that are kept if they cannot be read again.
ENOUGH, REMEMBERED = 2048, 512

Batch = tuple[Tensor, Tensor]


def lagging_norms(network: nn.Module, steps: int | None = None) -> dict[str, _BatchNorm]:
    """Return the batch normalizations, by name, whose running averages lag after so many steps.

    Those without statistics or with frozen parameters are left out. None returns all others.
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
    network: LocalNetwork, batches: Iterable[Batch], *, steps: int | None = None, precision: str = "fp32"
) -> dict[str, Tensor]:
    """Set the statistics of batch normalizations to their means over ``batches``, with weights as they are.

    Call it before predicting with a network that was trained for few steps. Samples enter as in training,
    with wrong labels or in pairs if the method makes such; all other layers are in evaluation mode. Layers
    that are in evaluation mode while the network trains keep their statistics. No other state changes.

    Args:
        network: trained network, on its device.
        batches: training samples and labels, as for :meth:`trifecta.Learner.step`, best not augmented and
            of mixed classes; some hundred samples in all are enough.
        steps: number of training steps so far; statistics are then estimated only while running averages
            lag, in the first ``8 / momentum`` steps.
        precision: precision of training, ``fp32`` or ``bf16``.

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


@torch.no_grad()
def bound_variances(network: LocalNetwork) -> dict[str, Tensor]:
    """Raise small variances of single pixels in a network's first batch normalization, for predictions.

    A pixel that training images hardly ever light has next to no variance, and would outweigh all others,
    up to a thousandfold, in an image that lights it. Channels of images and columns of tables stay as they
    are, and so does a normalization behind other weights. Returns as :func:`estimate_statistics`.
    """
    shape, width = network.sample_shape, math.prod(network.sample_shape)
    modules = network.blocks[0].named_modules(prefix="blocks.0")
    name = next((name for name, module in modules if list(module.parameters(recurse=False))), "")
    norm = lagging_norms(network).get(name)
    labelled = math.prod(network.method.input_shape(shape, network.num_classes))
    has_pixels = len(shape) == 3 and width > shape[0]
    if norm is None or norm.running_var is None or norm.num_features != labelled or not has_pixels:
        return {}
    before, pixels = norm.running_var.clone(), norm.running_var[:width]
    pixels.clamp_(min=LEAST_VARIANCE * pixels.mean())
    return {f"{name}.running_var": before}


def set_statistics(network: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Set statistics by name; those of blocks that are not in this process are left out."""
    for name, value in statistics.items():
        buffer = network.get_buffer(name)
        if not buffer.is_meta:
            buffer.copy_(value)


@dataclass(eq=False)
class RunningStatistics:
    """Statistics that training goes on with, while a network has others to predict with.

    Attributes:
        kept: those of training, by their names in the network's state; empty while the network has them.
        seen: training batches to estimate others from, where none can be read again.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)
    seen: list[Batch] = field(default_factory=list)

    @property
    def has_enough(self) -> bool:
        """Whether no more batches need to be remembered."""
        return sum(len(labels) for _, labels in self.seen) >= REMEMBERED

    def remember(self, batch: Batch) -> Batch:
        """Return ``batch``, which is among those seen if there are not enough of them."""
        self.seen += [] if self.has_enough else [batch]
        return batch

    def replace(
        self, network: LocalNetwork, learner: Learner, batches: Iterable[Batch] | None = None
    ) -> None:
        """Estimate statistics from ``batches``, or those seen, while running averages lag."""
        given, precision = self.seen if batches is None else batches, learner.precision
        self.kept = estimate_statistics(network, given, steps=learner.steps, precision=precision)

    def restore(self, network: nn.Module) -> None:
        """Give the network the statistics of training back."""
        set_statistics(network, self.kept)
        self.kept = {}


def _average(
    network: LocalNetwork, norms: list[_BatchNorm], batches: Iterable[Batch], precision: str
) -> None:
    """Average the statistics of ``norms``; one that no batch passes, or not finite, keeps its own."""
    generator = torch.Generator(network.device).manual_seed(0)
    momenta = {norm: norm.momentum for norm in norms}
    kept = {buffer: buffer.clone() for norm in norms for buffer in norm.buffers()}
    try:
        for number, (images, labels) in enumerate(_usable(batches, network)):
            with autocast(precision, network.device):
                # Hard labels follow from predictions, which need statistics, too.
                x = in_memory_format(training_input(network, network.as_samples(images), labels, generator))
                for norm in norms:
                    if number == 0:
                        norm.reset_running_stats()
                    norm.training, norm.momentum = True, None
                _pass(network, x, len(labels), generator)
            for norm in norms:
                norm.eval()
    finally:
        for norm, norm.momentum in momenta.items():
            count = norm.num_batches_tracked
            is_used = bool(count) and all(bool(buffer.isfinite().all()) for buffer in norm.buffers())
            for buffer in norm.buffers():
                if buffer is count or not is_used:
                    buffer.copy_(kept[buffer])


def _usable(batches: Iterable[Batch], network: LocalNetwork) -> Iterator[Batch]:
    """Yield batches on the network's device without samples that are not finite, unless one is left."""
    for batch in batches:
        images, labels = (part.to(network.device) for part in batch)
        is_finite = images.flatten(1).isfinite().all(1)
        if is_finite.sum() > 1:
            yield in_memory_format(images[is_finite]), labels[is_finite]


def _pass(network: LocalNetwork, x: Tensor, positives: int, generator: torch.Generator) -> None:
    """Pass a batch through every block, and through the heads that normalize."""
    count = len(network.blocks)
    offsets = draw_offsets(count, positives, generator, x.device) if network.renews_pairs else None
    for block in range(count):
        seen, x = network.pass_block(block, x, offsets)
        if block in network.scored_blocks:
            head = network.head(block)
            if any(isinstance(module, _BatchNorm) for module in head.modules()):
                head.scores(seen)
