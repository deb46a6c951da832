"""Class scores of a network's blocks: in one pass, or with every label tried.

Shapes: B images (B, C, H, W), G of them in a pass; K classes; L blocks.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trifecta.fused import infer_block, infer_first_block, inference_block
from trifecta.losses import ChannelSums
from trifecta.readout import best_rows, fuse, spread_scores

if TYPE_CHECKING:
    from trifecta.network import LocalNetwork

# In one pass of prediction: enough to keep every core busy, few enough to bound its memory.
LABELLED_SAMPLES = 256


def block_scores(network: "LocalNetwork", images: Tensor) -> list[Tensor | None]:
    """Score every class by every block, L × (B, K); None where a block has no head.

    A method whose labels enter tries all K in one pass over groups of images, so that a pass never
    holds more than ``LABELLED_SAMPLES`` samples (or K, if that is more); any other scores all
    classes at once.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W).
    """
    if network.image_pairs is not None:
        return _pass_scores(network, network.image_pairs.neutral(images))
    if network.label_input is None:
        return _pass_scores(network, images)
    size = max(1, LABELLED_SAMPLES // network.num_classes)
    groups = [_label_scores(network, group) for group in torch.split(images, size)]
    return [_cat(scores) for scores in zip(*groups, strict=True)]


def embeddings(network: "LocalNetwork", images: Tensor, block: int) -> Tensor:
    """Return the features that the head of ``block`` reads, means over positions, (B, C, …) → (B, F).

    A method whose labels enter gets the label that it predicts; pairs of images get none.

    Args:
        network: in evaluation mode.
        images: (B, C, …).
        block: from 0.
    """
    x = images
    if network.label_input is not None:
        x = network.labelled(images, network.fused_scores(images).argmax(1))
    elif network.image_pairs is not None:
        x = network.image_pairs.neutral(images)
    features = x
    for k in range(block + 1):
        features, x = network.pass_block(k, network.renewed(k, x, len(images), None))
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def _label_scores(network: "LocalNetwork", images: Tensor) -> list[Tensor | None]:
    """L × (G, K), every image of (G, C, H, W) tried with every label."""
    assert network.label_input is not None
    num_classes = network.num_classes
    first = inference_block(network.blocks[0]) if network.reads == "output" else None
    if first is not None and first.norm.separable and network.label_input.is_additive:
        x, sums = infer_first_block(
            first, network.label_input.base(images), network.label_input.maps(images)
        )
        scores = [_scores_of(network, 0, x, sums)]
    else:
        labels = torch.arange(num_classes, device=images.device).repeat(len(images))
        x = network.labelled(images.repeat_interleave(num_classes, dim=0), labels)
        scores = []
    grid = (len(images), num_classes)
    if network.shortlist is None:
        return [_view(s, grid) for s in scores + _pass_scores(network, x, first=len(scores))]
    x, early = _run_blocks(network, x, len(scores), network.shortlist.after + 1)
    scores = [_view(s, grid) for s in scores + early]
    so_far = [k for k in network.readout_blocks if k <= network.shortlist.after]
    rows, kept = best_rows(fuse(scores, so_far or [network.shortlist.after]), network.shortlist.labels)
    late = _pass_scores(network, x[rows], first=len(scores))
    return scores + [None if s is None else spread_scores(s, kept, num_classes) for s in late]


def _pass_scores(network: "LocalNetwork", x: Tensor, *, first: int = 0) -> list[Tensor | None]:
    """Scores by the blocks from ``first`` on, which receives ``x``."""
    return _run_blocks(network, x, first, len(network.blocks))[1]


def _run_blocks(
    network: "LocalNetwork", x: Tensor, first: int, end: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Pass ``x`` through blocks ``first … end − 1``; return their output and the scores on the way."""
    scores: list[Tensor | None] = []
    for k in range(first, end):
        x = network.renewed(k, x, len(x), None)
        layers = inference_block(network.blocks[k]) if network.reads == "output" else None
        if layers is None:
            seen, x = network.pass_block(k, x)
            scores.append(_scores_of(network, k, seen, None))
        else:
            x, sums = infer_block(layers, x)
            scores.append(_scores_of(network, k, x, sums))
    return x, scores


def _scores_of(
    network: "LocalNetwork", block: int, features: Tensor, sums: ChannelSums | None
) -> Tensor | None:
    if block not in network.scored_blocks:
        return None
    head = network.head(block)
    return head.scores(sums if sums is not None and head.reads_channel_sums else features)


def _view(scores: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    return None if scores is None else scores.view(grid)


def _cat(scores: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [s for s in scores if s is not None]
    return torch.cat(given) if given else None
