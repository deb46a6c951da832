"""The first block's input in training, and the error that some heads must receive before.

Shapes: B images (B, C, H, W) float, labels (B,) int64; K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.inputs.labels import hard_labels, wrong_labels
from trifecta.network import LocalNetwork


def first_input(
    network: LocalNetwork,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    rows: slice = slice(None),
) -> Tensor:
    """The images (B, …), or for pairs (2B, …), positives first; tells the error where it feeds back.

    Of a batch only the images in ``rows`` are wanted; everything random is drawn for all of them.
    """
    if network.method.objective.uses_feedback:
        _feed_back(network, images[rows], labels[rows])
    return entering(network, images, labels, generator, rows)


def entering(
    network: LocalNetwork,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    rows: slice = slice(None),
) -> Tensor:
    """Return the input of :func:`first_input`, and tell no head an error."""
    if network.image_pairs is not None:
        positives, negatives = network.image_pairs.pairs(images, generator).chunk(2)
        return torch.cat([positives[rows], negatives[rows]])
    if network.label_input is None:
        return images[rows]
    if network.method.negatives == "hard":
        wrong = hard_labels(labels, _predict(network, images), generator)
    else:
        wrong = wrong_labels(labels, network.num_classes, generator)
    samples = images[rows]
    return network.labelled(torch.cat([samples, samples]), torch.cat([labels[rows], wrong[rows]]))


def check_batch(network: LocalNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Refuse a batch that the network cannot learn from; return its samples in the blocks' precision.

    Raises:
        ValueError: samples of another shape or kind, labels that are not (B,) int64 ((B, …) where each
            position has one), or, seen on CPU only, not below K.
    """
    fits = images.dtype == torch.int64 if network.integer else images.is_floating_point()
    if images.shape[1:] != network.sample_shape or not fits:
        raise ValueError(
            f"images must be {'int64' if network.integer else 'float'} "
            f"(B, {', '.join(map(str, network.sample_shape))}): "
            f"received {images.dtype} {tuple(images.shape)}"
        )
    expected = (len(images), *network.label_shape)
    if labels.shape != expected or labels.dtype != torch.int64:
        each = "position" if network.label_shape else "image"
        raise ValueError(
            f"labels must be int64 ({', '.join(map(str, expected))}{'' if expected[1:] else ','}), one per "
            f"{each}: received {labels.dtype} {tuple(labels.shape)}"
        )
    # Checking values on another device would synchronise with it.
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < network.num_classes)).all()):
        raise ValueError(
            f"labels must be 0 … {network.num_classes - 1}: "
            f"received {int(labels.min())} … {int(labels.max())}"
        )
    return network.as_samples(images)


def _feed_back(network: LocalNetwork, images: Tensor, labels: Tensor) -> None:
    """Tell every head the network's error."""
    scores = _predict(network, images)
    error = scores.softmax(1) - F.one_hot(labels, scores.shape[1])
    for block in network.scored_blocks:
        network.head(block).receive(error)


@torch.no_grad()
def _predict(network: LocalNetwork, images: Tensor) -> Tensor:
    """Class scores (B, K) as for new images, of every label; leaves running statistics alone."""
    with network.every_label():
        scores = network.fused_scores(images)
    return scores.float() if scores.dtype.itemsize < 4 else scores
