"""Goodness and losses: values by hand, exact gradients, invariances."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from trifecta.goodness import GOODNESS, mean, mean_square, sum_square
from trifecta.objectives import symmetric_loss, threshold_loss


def test_goodness_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert mean_square(activations).tolist() == [3.5, 1.0]
    assert sum_square(activations).tolist() == [14.0, 4.0]
    assert mean(activations).tolist() == [1.5, 0.5]


@pytest.mark.parametrize("name", GOODNESS)
def test_half_precision_is_reduced_in_float32(name: str) -> None:
    activations = torch.full((2, 4096), 1.001)
    reduced = GOODNESS[name](activations.bfloat16())
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, GOODNESS[name](activations.bfloat16().float()))


@pytest.mark.parametrize("name", GOODNESS)
def test_goodness_has_exact_gradients(name: str) -> None:
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(GOODNESS[name], (x,))


def pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    positive, negative = torch.randn(2, 5, generator=draw, dtype=torch.float64) * 3
    return positive.requires_grad_(), negative.requires_grad_()


def test_losses_by_hand() -> None:
    positive, negative = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    expected = (math.log1p(math.exp(-8)) + math.log1p(math.exp(4))) / 2
    assert symmetric_loss(positive, negative, alpha=4.0).item() == pytest.approx(expected)
    terms = [2 - 3, 1 - 2, 2 - 1, 2 - 2]  # threshold − g⁺ and g⁻ − threshold of both pairs
    expected = sum(math.log1p(math.exp(t)) for t in terms) / 2
    assert threshold_loss(positive, negative, threshold=2.0).item() == pytest.approx(expected)


def test_losses_have_exact_gradients() -> None:
    assert gradcheck(lambda p, n: symmetric_loss(p, n, alpha=4.0), pair())
    assert gradcheck(lambda p, n: threshold_loss(p, n, threshold=2.0), pair())


def test_symmetric_loss_pulls_the_halves_equally_and_ignores_their_level() -> None:
    positive, negative = pair()
    up, down = torch.autograd.grad(symmetric_loss(positive, negative), (positive, negative))
    torch.testing.assert_close(up, -down)
    torch.testing.assert_close(
        symmetric_loss(positive + 7, negative + 7), symmetric_loss(positive, negative)
    )


def test_losses_stay_finite_where_an_exponential_overflows() -> None:
    far = torch.tensor([1e4])
    assert symmetric_loss(-far, far, alpha=4.0).item() == pytest.approx(8e4)
    assert threshold_loss(-far, far, threshold=2.0).item() == pytest.approx(2e4)
