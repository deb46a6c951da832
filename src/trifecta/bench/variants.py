"""Rows of a benchmark: ways to train the same network on the same batch."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trifecta._utils.devices import autocast
from trifecta._utils.references import lookup
from trifecta.bench.setting import Setting
from trifecta.cuda_graphs import fastest_learner
from trifecta.inputs.label_inputs import wrong_labels
from trifecta.kernels import fused_blocks, run_window
from trifecta.learner import Learner
from trifecta.losses import ChannelSums
from trifecta.methods import METHODS, Method, get_method
from trifecta.network import LocalNetwork
from trifecta.pipeline import Pipeline
from trifecta.schedules import Window
from trifecta.training import RunConfig

BACKPROP, PUBLISHED = "backprop", "published"


class CheckpointedLearner(Learner):
    """Backprop that keeps only the ends of √L segments and runs each again for its gradient.

    Each segment is a fused window if its blocks allow it, so that backprop has every economy of local
    windows.
    """

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`trifecta.learner.Learner`."""
        network, head = self.network, self.network.head(window.last)
        blocks = list(network.blocks[window.first : window.last + 1])
        size = math.ceil(math.sqrt(len(blocks)))
        sums: ChannelSums | None = None
        for start in range(0, len(blocks), size):
            members = blocks[start : start + size]
            segment, sums = fused_blocks(members), None
            if segment is None:
                # Statistics of the batch are counted twice here, as whenever a graph is run again.
                x = checkpoint(nn.Sequential(*members), x, use_reentrant=False)
            else:
                x, sums = checkpoint(run_window, segment, x, use_reentrant=False)
        return head.loss(sums if sums is not None and head.reads_channel_sums else x, labels), x


class AccumulatedLearner(Learner):
    """Backprop that adds up the gradients of ``pieces`` of every batch; norms see the pieces."""

    pieces = 4

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """See :class:`trifecta.learner.Learner`."""
        self.network.train()
        window = Window(0, len(self.network.blocks) - 1)
        for x, y in zip(images.chunk(self.pieces), labels.chunk(self.pieces), strict=True):
            with autocast(self.precision, self.device):
                loss, _ = self.window_loss(window, x, y)
            torch.autograd.backward(loss * len(x) / len(images))
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return [*[None] * window.last, loss]


class PublishedRule:
    """The Trifecta's published update rule in plain PyTorch, as people run it today.

    Eager float32 in the default layout, one Adam per block which also owns the block before (but not the
    label's pictures, which are block 0's alone), prediction by a full pass per label. Source: Dooms et al.
    2023 and their published code, without its augmentation and float16, which CPUs lack.
    """

    def __init__(self, network: LocalNetwork) -> None:
        self.network = network
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
        blocks = network.blocks
        self.optimizers = {
            k: torch.optim.Adam([p for block in blocks[max(0, k - 1) : k + 1] for p in block.parameters()])
            for k in range(len(blocks))
        }
        assert network.label_input is not None
        self.optimizers[0].add_param_group({"params": list(network.label_input.parameters())})
        self.steps = 0

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Learn from images (B, C, H, W) and labels (B,)."""
        self.network.train()
        wrong = wrong_labels(labels, self.network.num_classes)
        x = self.network.labelled(torch.cat([images, images]), torch.cat([labels, wrong]))
        for k, block in enumerate(self.network.blocks):
            x = block(x)
            if (k % 2 == 0) == (self.steps % 2 == 0):
                continue
            positive, negative = x.square().flatten(1).mean(1).chunk(2)
            loss = F.softplus(-4 * (positive - negative)).mean()
            self.optimizers[k].zero_grad()
            torch.autograd.backward(loss)
            self.optimizers[k].step()
            x = x.detach()
        self.steps += 1

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the last block's goodness for every label, (B, C, H, W) → (B, K)."""
        self.network.eval()
        scores = []
        for label in range(self.network.num_classes):
            x = self.network.labelled(images, torch.full((len(images),), label, device=images.device))
            for block in self.network.blocks:
                x = block(x)
            scores.append(x.square().flatten(1).mean(1))
        return torch.stack(scores, dim=1)


# What learns from batches.
Trains = Learner | PublishedRule


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Row of a benchmark.

    Attributes:
        name: name on the command line.
        title: name in tables.
        method: method that it computes, whose work is counted.
        learner: returns an object that trains a network at a precision.
        shortlist: whether to predict from the better half of the labels.
        pipeline: number of blocks that learn at the same time, see :class:`trifecta.pipeline.Pipeline`.
        run: configuration that it trains by; None for those in ``VARIANTS``.
    """

    name: str
    title: str
    method: Method
    learner: Callable[[LocalNetwork, str], Trains]
    shortlist: bool = False
    pipeline: int = 1
    run: RunConfig | None = None

    def build(self, setting: Setting) -> Trains:
        """Return a trainer, ready to step."""
        return self.learner(setting.build(self.method), setting.resolved_precision)

    def train(self, trainer: Trains, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Let a trainer from :meth:`build` learn from batches of images (B, C, H, W) and labels (B,)."""
        if self.pipeline > 1:
            assert isinstance(trainer, Learner)
            deque(Pipeline(trainer, self.pipeline).steps(batches), maxlen=0)
            return
        for images, labels in batches:
            trainer.step(images, labels)

    def predictor(self, trainer: Trains, setting: Setting) -> Callable[[Tensor], Tensor]:
        """Return a function from images (B, C, H, W) to class scores (B, K)."""
        if isinstance(trainer, PublishedRule):
            return trainer.predict
        network, device = trainer.network.eval(), setting.torch_device
        if self.shortlist:
            network.keep_labels(-(-setting.num_classes // 2))

        def predict(images: Tensor) -> Tensor:
            with torch.inference_mode(), autocast(setting.resolved_precision, device):
                scores: Tensor = network(images)
                return scores

        return predict


def _learner(
    kind: Callable[..., Learner] = fastest_learner, **options: Any
) -> Callable[[LocalNetwork, str], Trains]:
    def build(network: LocalNetwork, precision: str) -> Trains:
        generator = torch.Generator(next(network.parameters()).device).manual_seed(0)
        return kind(network, generator=generator, precision=precision, **options)

    return build


_TITLES = {
    "trifecta": "Trifecta, exact pairs",
    "class-groups": "class groups, one pass",
    "superfecta": "superfecta, one pass",
    "ff": "FF, pairs",
    "symba": "SymBa, pairs",
    BACKPROP: "backprop, same optimisations",
}


def _variant(
    name: str, title: str, method: Method, learner: Callable[[LocalNetwork, str], Trains] | None = None
) -> Variant:
    return Variant(name=name, title=title, method=method, learner=learner or _learner())


def _variants() -> list[Variant]:
    trifecta, superfecta, backprop = (get_method(name) for name in ("trifecta", "superfecta", BACKPROP))
    with_muon = replace(backprop, optimizer=superfecta.optimizer)
    # The published rule's last block idles.
    published = replace(trifecta, schedule=replace(trifecta.schedule, trains_remainder=False))
    plain = _learner(kernels=False)
    return [
        *(_variant(name, title, get_method(name)) for name, title in _TITLES.items()),
        _variant("backprop-muon", "backprop, same optimisations, Muon", with_muon),
        _variant("backprop-plain-graph", "backprop, plain autograd graph", backprop, plain),
        _variant(
            "backprop-checkpointed", "backprop, checkpointed", backprop, _learner(CheckpointedLearner)
        ),
        _variant(
            "backprop-accumulated", "backprop, 4 accumulated pieces", backprop, _learner(AccumulatedLearner)
        ),
        _variant("trifecta-plain-graph", "Trifecta, plain autograd graph", trifecta, plain),
        replace(_variant("superfecta-pipeline", "superfecta, pipeline of 2", superfecta), pipeline=2),
        _variant(
            PUBLISHED, "published rule, plain PyTorch", published, lambda network, _: PublishedRule(network)
        ),
        replace(
            _variant("trifecta-shortlist", "Trifecta, better half of the labels", trifecta), shortlist=True
        ),
    ]


def variant_of(config: RunConfig) -> Variant:
    """Return the variant that trains as a run of ``config`` does."""
    return Variant(
        name=config.method.name,
        title=config.recipe or config.method.name,
        method=config.method,
        learner=_learner(),
        pipeline=config.pipeline,
        run=config,
    )


_USUAL = {variant.name: variant for variant in _variants()}
# Any other method, by its own name.
_OTHERS = {name: _variant(name, name, build()) for name, build in METHODS.items() if name not in _USUAL}
VARIANTS: dict[str, Variant] = _USUAL | _OTHERS


def select(names: str | None) -> list[Variant]:
    """Return the variants of a comma-separated list, or the usual ones for None.

    Raises:
        ValueError: one of them does not exist; the message names the nearest.
    """
    if names is None:
        return [variant for variant in _USUAL.values() if not variant.shortlist]
    return [lookup(VARIANTS, name.strip(), "variant") for name in names.split(",")]
