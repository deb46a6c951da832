"""The variants of a benchmark: ways to train the same network on the same batch."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trifecta._utils.devices import autocast
from trifecta._utils.references import lookup
from trifecta.bench.backprop_variants import AccumulatedLearner, CheckpointedLearner
from trifecta.bench.published import PublishedRule
from trifecta.bench.setting import Setting
from trifecta.cuda_graphs import fastest_learner
from trifecta.learner import Learner
from trifecta.methods import METHODS, Method, get_method
from trifecta.network import LocalNetwork
from trifecta.pipeline import Pipeline
from trifecta.training import RunConfig

BACKPROP, PUBLISHED = "backprop", "published"
_PAIRS = {"ff": "FF", "symba": "SymBa"}


class Trains(Protocol):
    """Something that learns from a batch."""

    @property
    def network(self) -> LocalNetwork:
        """The network that it trains."""
        ...

    def step(self, images: Tensor, labels: Tensor) -> object:
        """Learn from images (B, C, H, W) and labels (B,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row.

    Attributes:
        name: on the command line.
        title: in tables.
        method: what it computes, for counting work and naming locality.
        learner: builds what trains a network for it.
        shortlist: predict from the better half of the labels.
        pipeline: how many blocks learn at the same time, see :class:`trifecta.pipeline.Pipeline`.
        run: the configuration that it trains by; None for those in ``VARIANTS``.
    """

    name: str
    title: str
    method: Method
    learner: Callable[[LocalNetwork, str], Trains]
    shortlist: bool = False
    pipeline: int = 1
    run: RunConfig | None = None

    def build(self, setting: Setting) -> Trains:
        """Build a trainer, ready to step."""
        return self.learner(setting.build(self.method), setting.resolved_precision)

    def train(self, trainer: Trains, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Let what :meth:`build` made learn from images (B, C, H, W) and labels (B,), batch by batch."""
        if self.pipeline > 1:
            assert isinstance(trainer, Learner)
            deque(Pipeline(trainer, self.pipeline).steps(batches), maxlen=0)
            return
        for images, labels in batches:
            trainer.step(images, labels)

    def predictor(self, trainer: Trains, setting: Setting) -> Callable[[Tensor], Tensor]:
        """Images (B, C, H, W) → class scores (B, K) by the trained network."""
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


def _variants() -> list[Variant]:
    names = ("trifecta", "class-groups", "superfecta", "backprop")
    trifecta, groups, superfecta, backprop = (get_method(name) for name in names)
    with_muon = replace(backprop, optimizer=superfecta.optimizer)
    rows = [("trifecta", "Trifecta, exact pairs", trifecta, _learner())]
    rows += [("class-groups", "class groups, one pass", groups, _learner())]
    rows += [("superfecta", "superfecta, one pass", superfecta, _learner())]
    rows += [(name, f"{title}, pairs", get_method(name), _learner()) for name, title in _PAIRS.items()]
    rows += [
        (BACKPROP, "backprop, same optimisations", backprop, _learner()),
        ("backprop-muon", "backprop, same optimisations, Muon", with_muon, _learner()),
        ("backprop-plain-graph", "backprop, plain autograd graph", backprop, _learner(kernels=False)),
        ("backprop-checkpointed", "backprop, checkpointed", backprop, _learner(CheckpointedLearner)),
        ("backprop-accumulated", "backprop, 4 accumulated pieces", backprop, _learner(AccumulatedLearner)),
        ("trifecta-plain-graph", "Trifecta, plain autograd graph", trifecta, _learner(kernels=False)),
    ]
    published = replace(trifecta, schedule=replace(trifecta.schedule, trains_remainder=False))
    listed = [
        Variant(name=name, title=title, method=method, learner=learner)
        for name, title, method, learner in rows
    ]
    shortlist = Variant(
        name="trifecta-shortlist",
        title="Trifecta, better half of the labels",
        method=trifecta,
        learner=_learner(),
        shortlist=True,
    )
    at_once = Variant(
        name="superfecta-pipeline",
        title="superfecta, pipeline of 2",
        method=superfecta,
        learner=_learner(),
        pipeline=2,
    )
    plain = Variant(
        name=PUBLISHED,
        title="published rule, plain PyTorch",
        method=published,
        learner=lambda network, _: PublishedRule(network),
    )
    return [*listed, at_once, plain, shortlist]


def variant_of(config: RunConfig) -> Variant:
    """Return the variant that trains as a run of ``config`` does, as many blocks at a time."""
    return Variant(
        name=config.method.name,
        title=config.recipe or config.method.name,
        method=config.method,
        learner=_learner(),
        pipeline=config.pipeline,
        run=config,
    )


_USUAL = {c.name: c for c in _variants()}
# Any other method, by its own name.
_OTHERS = {
    name: Variant(name=name, title=name, method=build(), learner=_learner())
    for name, build in METHODS.items()
    if name not in _USUAL
}
VARIANTS: dict[str, Variant] = _USUAL | _OTHERS


def select(names: str | None) -> list[Variant]:
    """The variants of a comma-separated list; where None the usual ones.

    Raises:
        ValueError: one of them does not exist; names the nearest.
    """
    if names is None:
        return [c for c in _USUAL.values() if not c.shortlist]
    return [lookup(VARIANTS, name.strip(), "variant") for name in names.split(",")]
