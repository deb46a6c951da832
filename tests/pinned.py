"""Inputs and comparisons for the numbers in ``tests/reference_values``; its README has the formulas."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "reference_values"
MODULUS = 1_000_003


def reference(name: str) -> dict[str, Any]:
    """What one paper's code computed."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return values


def tensor(number: int, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """The tensor called ``number``, float64, times ``scale`` plus ``shift``."""
    n = torch.arange(math.prod(shape), dtype=torch.int64) + 1009 * number
    u = (48271 * n * n + 11 * n + 7) % MODULUS
    return (2 * u.double() / MODULUS - 1).mul(scale).add(shift).view(shape)


def labels_of(first: int, count: int, classes: int = 10) -> Tensor:
    """The labels of samples ``first`` and on."""
    return (7 * torch.arange(first, first + count) + 3) % classes


def wrong_labels_of(first: int, count: int, classes: int = 10) -> Tensor:
    """Their wrong labels."""
    i = torch.arange(first, first + count)
    return (labels_of(first, count, classes) + 1 + (5 * i) % (classes - 1)) % classes


def summary(x: Tensor) -> Tensor:
    """Sum, sum of squares and four entries of ``x``."""
    flat = x.detach().flatten()
    n = len(flat)
    entries = [flat[k] for k in (0, 17 % n, n // 2, n - 1)]
    return torch.stack([flat.sum(), flat.square().sum(), *entries])


def assert_pinned(
    received: Tensor | float, expected: float | Sequence[Any], tolerance: float = 1e-8
) -> None:
    """Equal up to ``tolerance`` times max(1e-3, |expected|); by their summaries where shapes differ."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    got = torch.as_tensor(received, dtype=torch.float64).detach()
    got = got if got.shape == wanted.shape else summary(got)
    error = (got - wanted).abs() / wanted.abs().clamp(min=1e-3)
    assert error.max() < tolerance, (got.tolist(), expected)
