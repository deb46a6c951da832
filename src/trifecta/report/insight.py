"""What a page tells of a trained network beyond its result: computed, and drawn elsewhere.

Shapes: N images (N, C, H, W), K classes, L blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trifecta.data import ImageData, normalize
from trifecta.network import LocalNetwork
from trifecta.nn.carried import map_tensors
from trifecta.training import Evaluation, Trainer

_MAPPED = 4


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A confident mistake.

    Attributes:
        index: of the image, in the test split.
        true: its class.
        predicted: the class that the network takes it for.
        confidence: probability of that class.
    """

    index: int
    true: int
    predicted: int
    confidence: float


def confident_mistakes(test: Evaluation, labels: Tensor, *, count: int) -> list[Mistake]:
    """Return the wrong predictions that the network is surest of."""
    wrong = (test.predicted != labels).nonzero().flatten()
    order = wrong[test.confidence[wrong].argsort(descending=True)][:count]
    return [
        Mistake(
            index=int(i),
            true=int(labels[i]),
            predicted=int(test.predicted[i]),
            confidence=float(test.confidence[i]),
        )
        for i in order
    ]


def class_accuracy(confusion: Tensor) -> list[float | None]:
    """Accuracy of every class from counts (K, K); None for a class without images."""
    totals = confusion.sum(1)
    return [(confusion[k, k] / total).item() if total else None for k, total in enumerate(totals.tolist())]


def confused_pairs(confusion: Tensor, *, count: int) -> list[tuple[int, int, int]]:
    """Return (true, predicted, images) of the most frequent mistakes."""
    wrong = confusion.clone().fill_diagonal_(0)
    values, places = wrong.flatten().topk(min(count, wrong.numel()))
    size = len(confusion)
    return [(p // size, p % size, v) for v, p in zip(values.tolist(), places.tolist(), strict=True) if v]


@torch.no_grad()
def held_bytes(network: LocalNetwork, samples: Tensor) -> list[int]:
    """Count the bytes that each block's graph holds for a backward pass over ``samples``, by storage.

    Plain graphs of the blocks alone, without heads, which all schedules have in common; no weights.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    x: Any = samples
    if network.label_input is not None:
        x = network.labelled(samples, torch.zeros(len(samples), dtype=torch.int64, device=samples.device))
    elif network.image_pairs is not None:
        x = network.image_pairs.neutral(samples)
    each = []
    for k in range(len(network.blocks)):
        held: dict[int, int] = {}
        with torch.enable_grad(), _noting(held, weights):
            _, output = network.pass_block(k, network.renewed(k, x, len(samples), None))
        each.append(sum(held.values()))
        x = map_tensors(Tensor.detach, output)
    return each


@contextmanager
def _noting(held: dict[int, int], weights: set[int]) -> Iterator[None]:
    """Take note of the storages that a graph keeps."""

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def input_maps(network: LocalNetwork, samples: Tensor, labels: Tensor) -> list[Tensor | None]:
    """Say which pixels each block's score of the true class depends on, L × (N, H, W); None without a head.

    ``|gradient · input|`` of the block's own score with respect to the sample, summed over channels; each
    map is divided by its maximum.
    """
    seen = samples.detach().clone().requires_grad_()
    x: Any = seen
    if network.label_input is not None:
        x = network.labelled(seen, labels)
    elif network.image_pairs is not None:
        x = network.image_pairs.neutral(seen)
    maps: list[Tensor | None] = []
    for k in range(len(network.blocks)):
        features, x = network.pass_block(k, network.renewed(k, x, len(samples), None))
        if k not in network.scored_blocks:
            maps.append(None)
            continue
        scores = network.head(k).scores(features)
        own = scores if scores.ndim == 1 else scores.gather(1, labels.unsqueeze(1))
        (gradient,) = torch.autograd.grad(own.sum(), seen, retain_graph=True)
        shown = (gradient * seen).abs().sum(1).detach()
        maps.append(shown / shown.amax((1, 2), keepdim=True).clamp(min=1e-12))
    return maps


def shown_images(trainer: Trainer) -> tuple[Tensor, Tensor, Tensor]:
    """Return a few test images of different classes as the network receives them, labels, and pictures."""
    test = trainer.data.test
    classes = sorted(set(test.labels.tolist()))[:_MAPPED]
    first = [int((test.labels == k).nonzero()[0]) for k in classes]
    chosen = test.select(torch.tensor(first, device=test.labels.device)).to(trainer.device)
    return normalize(chosen.images, trainer.data.mean, trainer.data.std), chosen.labels, chosen.images


def first_samples(data: ImageData, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first test samples as the network receives them, and their labels."""
    first = data.test.select(torch.arange(min(count, len(data.test)), device=data.test.labels.device))
    return normalize(first.images.to(device), data.mean, data.std), first.labels.to(device)
