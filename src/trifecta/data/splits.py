"""Names of splits, and dividing a labelled set in two, class by class."""

import torch
from torch import Tensor

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""Splits by the folders that hold them, in lower case."""


def split_of(name: str) -> str:
    """The split that a name of one stands for: ``Val`` is ``validation``; any other name is itself."""
    return SPLITS.get(name.lower(), name)


def stratified_split(labels: Tensor, fraction: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hold out ``fraction`` of the samples, the same fraction of every class as far as possible.

    ``round(fraction · N)`` samples are held out. Every class gives the whole part of its share,
    and the classes with the largest remainders give one more. A class never gives its last
    sample, so that fewer are held out where classes are tiny.

    Args:
        labels: ``(N,)`` int64.
        fraction: above 0 and below 1.
        seed: of the choice within each class; the same labels and seed give the same split.

    Returns:
        The indices kept and those held out, each ascending, on the CPU.

    Raises:
        ValueError: ``fraction`` is out of its range, or would hold out nothing.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction to hold out is above 0 and below 1, got {fraction}")
    _, classes, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    shares = _shares(counts, fraction)
    if shares.sum() == 0:
        raise ValueError(
            f"{fraction} of {len(labels)} images in {len(counts)} classes holds out none, as every "
            "class keeps one image: use more images, or a larger share"
        )
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[classes[shuffled].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held_out = rank_in_class < shares.repeat_interleave(counts)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values


def _shares(counts: Tensor, fraction: float) -> Tensor:
    """Count the samples that each class of ``counts`` (K,) gives, by largest remainders."""
    exact = counts.double() * fraction
    shares = exact.floor().long()
    left = round(fraction * int(counts.sum())) - int(shares.sum())
    shares[(exact - shares).argsort(descending=True, stable=True)[:left]] += 1
    return torch.minimum(shares, counts - 1)
