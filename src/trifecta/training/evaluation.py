"""Measuring a network on a set of images.

Shapes: N images, K classes, L blocks.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta._utils.devices import autocast, in_memory_format
from trifecta._utils.references import lookup
from trifecta.calibration import calibration_error, log_loss, probabilities
from trifecta.data import ImageSet, evaluation_batches
from trifecta.inputs import wrong_labels
from trifecta.network import LocalNetwork
from trifecta.readout import fuse, named_readouts

BATCH_SIZE = 256
# A view of a batch (N, C, H, W), and its weight in the mean of the scores.
View = tuple[Tensor, float]


def _flip(images: Tensor) -> list[View]:
    return [(images, 0.5), (images.flip(-1), 0.5)]


def _flip_shift(images: Tensor) -> list[View]:
    """Return both sides unshifted, with half of the weight, and shifted by a pixel to two corners."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    places = {images: 2, padded[..., :height, :width]: 4, padded[..., 2:, 2:]: 4}
    return [(view, weight / share) for moved, share in places.items() for view, weight in _flip(moved)]


# Test-time augmentation: scores are averaged over these views of an image.
VIEWS: dict[str, Callable[[Tensor], list[View]]] = {
    "none": lambda images: [(images, 1.0)],
    "flip": _flip,
    "flip-shift": _flip_shift,
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy and scores of a network on a set of images.

    Attributes:
        accuracy: accuracy of the method's read-out, 0 … 1.
        block_accuracy: accuracy of each block's own scores; None if a block has none.
        readout_accuracy: accuracy of every read-out that has a name, whichever the method uses.
        confusion: (K, K) counts; rows are true classes, columns are predictions.
        positive: score of the true label by each block, L × (N,); None likewise.
        negative: score of one wrong label per image, drawn as in training.
        predicted: (N,) classes predicted by the method's read-out.
        confidence: (N,) probability of the predicted class, of the calibrated read-out.
        log_loss: mean of −log of the true class's probability, in nats.
        calibration_error: see :func:`trifecta.calibration.calibration_error`, 0 … 1.
        cumulative_accuracy: accuracy of the summed scores of all blocks up to each; None likewise.
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
    """Measure a network on images, each scored once, without training anything.

    Args:
        network: the network, on its device.
        images: N images with their labels.
        mean: per-channel mean to normalise by; empty for samples that are used as they are.
        std: per-channel standard deviation, likewise.
        precision: ``fp32`` or ``bf16``.
        batch_size: number of images per batch.
        views: test-time augmentation, ``none``, ``flip`` or ``flip-shift``: scores are means over views.
        on_scored: called after every batch with its number of images.

    Raises:
        ValueError: unknown views, or views of samples that are not images.
    """
    how: dict[str, Any] = {"precision": precision, "batch_size": batch_size, "views": views}
    scores = score(network, images, mean=mean, std=std, on_scored=on_scored, **how)
    return summarise(network, images.labels, scores)


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
    """Return the score of every image and class by every block, L × (N, K); None without a head.

    Labels that a shortlist leaves out score −∞. Arguments and errors are those of :func:`evaluate`.
    """
    make_views = lookup(VIEWS, views, "views")
    if views != "none" and len(network.sample_shape) != 3:
        raise ValueError(
            f"views are of images (C, H, W): received samples of shape {network.sample_shape}; drop views"
        )
    was_training, device = network.training, network.device
    network.eval()
    by_block: list[list[Tensor]] = [[] for _ in network.blocks]
    for batch, _ in evaluation_batches(images, batch_size, mean=mean, std=std):
        with autocast(precision, device):
            seen = [
                (network.block_scores(in_memory_format(view)), weight)
                for view, weight in make_views(batch.to(device))
            ]
        for k in network.scored_blocks:
            parts = [own * weight for scores, weight in seen if (own := scores[k]) is not None]
            by_block[k].append(torch.stack(parts).sum(0))
        on_scored(len(batch))
    network.train(was_training)
    return [torch.cat(parts) if parts else None for parts in by_block]


@torch.inference_mode()
def summarise(network: LocalNetwork, labels: Tensor, scores: list[Tensor | None]) -> Evaluation:
    """Compare what :func:`score` returned with the true ``labels``, (N,)."""
    num_classes, scored, blocks = network.num_classes, network.scored_blocks, range(len(scores))
    fused = fuse(scores, network.readout_blocks)
    labels = labels.to(fused.device)
    wrong = wrong_labels(labels, num_classes, torch.Generator(labels.device).manual_seed(0))
    calibrated = network.calibrated(fused.double())
    predicted, shares = calibrated.argmax(1), probabilities(calibrated)
    pairs = (labels * num_classes + predicted).flatten()
    confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)

    def scores_of(chosen: Tensor) -> list[Tensor | None]:
        picked = chosen.unsqueeze(1)
        return [None if s is None else s.gather(1, picked).float().flatten().cpu() for s in scores]

    accuracy = partial(_accuracy, scores, labels)
    return Evaluation(
        accuracy=(predicted == labels).double().mean().item(),
        block_accuracy=[accuracy([k]) if k in scored else None for k in blocks],
        readout_accuracy={name: accuracy(own) for name, own in named_readouts(scored).items()},
        confusion=confusion.cpu(),
        positive=scores_of(labels),
        negative=scores_of(wrong),
        predicted=predicted.cpu(),
        confidence=shares.amax(1).float().cpu(),
        log_loss=log_loss(shares, labels),
        calibration_error=calibration_error(shares, labels),
        cumulative_accuracy=[
            accuracy([j for j in scored if j <= k]) if k in scored else None for k in blocks
        ],
    )


def choose_blocks(network: LocalNetwork, labels: Tensor, scores: list[Tensor | None]) -> tuple[int, ...]:
    """Return the consecutive blocks whose fused scores are right most often; of ties the later and fewer.

    Source: layers chosen on validation images, Sun et al. 2025 (DeeperForward, ICLR).
    """
    blocks = network.scored_blocks
    ranges = [blocks[i : j + 1] for i in range(len(blocks)) for j in range(i, len(blocks))]
    return max(ranges, key=lambda run: (_accuracy(scores, labels, run), run[-1], -len(run)))


def _accuracy(scores: Sequence[Tensor | None], labels: Tensor, blocks: Sequence[int]) -> float:
    predicted = fuse(scores, blocks).argmax(1)
    return (predicted == labels.to(predicted.device)).double().mean().item()


def warn_of_many_labels(network: LocalNetwork) -> None:
    """Warn if a prediction takes one pass for each of many labels."""
    if network.shortlist is not None:
        kept, after = network.shortlist.labels, network.shortlist.after
        warnings.warn(
            f"method {network.method.name} tries each of {network.num_classes} labels to predict; behind "
            f"block {after} it continues with the {kept} likeliest (a shortlist of 0 tries all to the end; "
            "a method such as superfecta needs one pass)",
            stacklevel=2,
        )
