"""Measuring a network on a set of images.

Shapes: N images, K classes, L blocks.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.devices import autocast, in_memory_format
from trifecta._utils.references import lookup
from trifecta.calibration import calibration_error, log_loss, probabilities
from trifecta.data import ImageSet, evaluation_batches
from trifecta.inputs.label_inputs import wrong_labels
from trifecta.network import LocalNetwork
from trifecta.readout import fuse, named_readouts

# A view of a batch (N, C, H, W), and its weight.
View = tuple[Tensor, float]


def _plain(images: Tensor) -> list[View]:
    return [(images, 1.0)]


def _flip(images: Tensor) -> list[View]:
    return [(images, 0.5), (images.flip(-1), 0.5)]


def _flip_shift(images: Tensor) -> list[View]:
    """Both sides, half of the weight as they are, half of it one pixel towards two opposite corners."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[..., :height, :width], padded[..., 2:, 2:]]
    return [
        *((view, weight / 2) for view, weight in _flip(images)),
        *((view, weight / 4) for moved in shifted for view, weight in _flip(moved)),
    ]


VIEWS: dict[str, Callable[[Tensor], list[View]]] = {
    "none": _plain,
    "flip": _flip,
    "flip-shift": _flip_shift,
}


BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy and scores of a network on a set of images.

    Attributes:
        accuracy: of the method's read-out, 0 … 1.
        block_accuracy: of each block's own scores; None where a block has none.
        readout_accuracy: of every read-out that has a name, whichever the method uses.
        confusion: (K, K) counts, row true class, column predicted.
        positive: per block, score (N,) of every label, the true one; None likewise.
        negative: per block, score (N,) of one wrong label per image, drawn as in training.
        predicted: (N,), by the method's read-out.
        confidence: (N,), probability of the predicted class, by the read-out's temperature.
        log_loss: mean of −log of the true class's probability, in nats.
        calibration_error: see :func:`trifecta.calibration.calibration_error`, 0 … 1.
        cumulative_accuracy: of the sum of all scores up to each block; None where it has none.
    """

    accuracy: float
    block_accuracy: list[float | None]
    readout_accuracy: dict[str, float]
    confusion: Tensor
    positive: list[Tensor | None]
    negative: list[Tensor | None]
    predicted: Tensor
    confidence: Tensor
    log_loss: float
    calibration_error: float
    cumulative_accuracy: list[float | None]


def evaluate(
    network: LocalNetwork,
    images: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    precision: str = "fp32",
    batch_size: int = BATCH_SIZE,
    views: str = "none",
    on_scored: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Score every image once, in order, without training anything.

    ``on_scored`` is called after every batch with its number of images. With a shortlist, scores of labels
    that were left out are −∞. With ``views`` scores are means over them.

    Raises:
        ValueError: no such views, or samples that are no images.
    """
    scores = score(
        network,
        images,
        mean=mean,
        std=std,
        precision=precision,
        batch_size=batch_size,
        views=views,
        on_scored=on_scored,
    )
    return summarise(network, images.labels.to(next(network.parameters()).device), scores)


def warn_of_many_labels(network: LocalNetwork) -> None:
    """Say so where a prediction takes a pass for each of many labels."""
    if network.shortlist is not None:
        kept, after = network.shortlist.labels, network.shortlist.after
        warnings.warn(
            f"method {network.method.name} tries each of {network.num_classes} labels to predict; behind "
            f"block {after} it goes on with the {kept} likeliest (evaluate --shortlist 0 tries all to the "
            "end; a method such as superfecta needs one pass)",
            stacklevel=2,
        )


@torch.inference_mode()
def choose_blocks(
    network: LocalNetwork,
    images: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    precision: str = "fp32",
    batch_size: int = BATCH_SIZE,
) -> tuple[int, ...]:
    """The consecutive scored blocks whose fusion reads ``images`` best; the later and fewer of equals.

    Source: layers chosen on validation images, Sun et al. 2025 (DeeperForward, ICLR).
    """
    scores = score(network, images, mean=mean, std=std, precision=precision, batch_size=batch_size)
    blocks, labels = network.scored_blocks, images.labels.to(next(network.parameters()).device)
    ranges = [blocks[i : j + 1] for i in range(len(blocks)) for j in range(i, len(blocks))]
    return max(ranges, key=lambda run: (_accuracy(scores, run, labels), run[-1], -len(run)))


@torch.inference_mode()
def score(
    network: LocalNetwork,
    images: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    precision: str = "fp32",
    batch_size: int = BATCH_SIZE,
    views: str = "none",
    on_scored: Callable[[int], None] = lambda images: None,
) -> list[Tensor | None]:
    """Score every image and class by every block, L × (N, K); None where a block has no head.

    Arguments and errors are those of :func:`evaluate`.
    """
    make_views = lookup(VIEWS, views, "views")
    if views != "none" and len(network.sample_shape) != 3:
        raise ValueError(
            f"views are of images (C, H, W): received samples of shape {network.sample_shape}; drop views"
        )
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    by_block: list[list[Tensor]] = [[] for _ in network.blocks]
    for batch, _ in evaluation_batches(images, batch_size, mean=mean, std=std):
        with autocast(precision, device):
            seen = [
                (network.block_scores(in_memory_format(view)), weight)
                for view, weight in make_views(batch.to(device))
            ]
        for k in network.scored_blocks:
            by_block[k].append(_mean([(scores[k], weight) for scores, weight in seen]))
        on_scored(len(batch))
    network.train(was_training)
    return [torch.cat(parts) if parts else None for parts in by_block]


def _mean(views: list[tuple[Tensor | None, float]]) -> Tensor:
    """Return the weighted mean of the scores of views; those of a single one as they are."""
    scores = [(view, weight) for view, weight in views if view is not None]
    first = scores[0][0]
    return first if len(scores) == 1 else torch.stack([view * weight for view, weight in scores]).sum(0)


@torch.inference_mode()
def summarise(network: LocalNetwork, labels: Tensor, scores: list[Tensor | None]) -> Evaluation:
    """Measure what :func:`score` returned by the true ``labels``, (N,)."""
    num_classes = network.num_classes
    generator = torch.Generator(labels.device).manual_seed(0)
    wrong = wrong_labels(labels, num_classes, generator)
    fused = fuse(scores, network.readout_blocks)
    predicted = fused.argmax(1)
    shares = probabilities(fused, float(network.temperature))
    pairs = (labels * num_classes + predicted).flatten()
    confusion = torch.bincount(pairs, minlength=num_classes**2)
    return Evaluation(
        accuracy=_share(predicted == labels),
        block_accuracy=[None if s is None else _share(s.argmax(1) == labels) for s in scores],
        readout_accuracy={
            name: _accuracy(scores, blocks, labels)
            for name, blocks in named_readouts(network.scored_blocks).items()
        },
        confusion=confusion.view(num_classes, num_classes).cpu(),
        positive=[None if s is None else _of(s, labels) for s in scores],
        negative=[None if s is None else _of(s, wrong) for s in scores],
        predicted=predicted.cpu(),
        confidence=shares.amax(1).float().cpu(),
        log_loss=log_loss(shares, labels),
        calibration_error=calibration_error(shares, labels),
        cumulative_accuracy=[
            None if s is None else _accuracy(scores, [j for j in network.scored_blocks if j <= k], labels)
            for k, s in enumerate(scores)
        ],
    )


def _accuracy(scores: Sequence[Tensor | None], blocks: Sequence[int], labels: Tensor) -> float:
    return _share(fuse(scores, blocks).argmax(1) == labels)


def _share(correct: Tensor) -> float:
    return correct.double().mean().item()


def _of(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels.unsqueeze(1)).float().flatten().cpu()
