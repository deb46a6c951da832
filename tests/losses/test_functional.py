"""Goodness and losses: values by hand, exact gradients, invariances."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from trifecta.losses import GroupCrossEntropy, Symmetric, Threshold
from trifecta.losses.functional import (
    similarities,
    supervised_contrastive_loss,
    symmetric_loss,
    threshold_loss,
    unsettled,
)
from trifecta.losses.goodness import (
    GOODNESS,
    READ_CHANNEL_SUMS,
    ChannelSums,
    group_mean_square,
    group_means,
    mean,
    mean_square,
    patch_rms,
    sum_square,
)


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
    expected = sum(math.log1p(math.exp(t)) for t in terms) / 4
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
    assert threshold_loss(-far, far, threshold=2.0).item() == pytest.approx(1e4)
    assert symmetric_loss(far, -far) == threshold_loss(far, -far) == 0


def moments_of(activations: Tensor) -> ChannelSums:
    flat = activations.reshape(*activations.shape[:2], -1)
    return ChannelSums(sums=flat.sum(2), squares=flat.square().sum(2), positions=flat.shape[2])


def test_the_top_is_the_strongest_of_fifty() -> None:
    activations = torch.arange(200.0).view(2, 4, 5, 5)
    strongest = [(98.0**2 + 99.0**2) / 2, (198.0**2 + 199.0**2) / 2]
    assert GOODNESS["top-k"](activations).tolist() == pytest.approx(strongest)
    # Of fewer than fifty it is the strongest one.
    assert GOODNESS["top-k"](torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [9.0]
    assert GOODNESS["top-k"] not in READ_CHANNEL_SUMS


@pytest.mark.parametrize("shape", [(5, 6, 3, 2), (5, 6)])
@pytest.mark.parametrize("name", ["mean-square", "sum-square", "mean"])
def test_moments_take_the_place_of_activations(name: str, shape: tuple[int, ...]) -> None:
    activations = torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(GOODNESS[name](moments_of(activations)), GOODNESS[name](activations))


@pytest.mark.parametrize("shape", [(5, 7, 3, 2), (5, 7)])
def test_group_goodness_by_hand(shape: tuple[int, ...]) -> None:
    activations = torch.rand(shape, dtype=torch.float64)
    groups = GroupCrossEntropy().head(shape[1:], 3).get_buffer("groups")
    squares = activations.reshape(5, 7, -1).square().mean(2)
    # Channel c belongs to class c·3 // 7: three, two and two channels.
    expected = torch.stack([squares[:, a:b].mean(1) for a, b in ((0, 3), (3, 5), (5, 7))], dim=1)
    for given in (activations, moments_of(activations)):
        torch.testing.assert_close(group_mean_square(given, groups), expected, rtol=1e-6, atol=0)


def test_groups_need_a_channel_a_class() -> None:
    with pytest.raises(ValueError, match="use a larger width"):
        GroupCrossEntropy().head((9, 4, 4), 10)


def test_settled_pairs_are_skipped_without_bias() -> None:
    draw = torch.Generator().manual_seed(0)
    differences = torch.randn(200_000, generator=draw, dtype=torch.float64) + 1
    coefficient = torch.sigmoid(-4 * differences)
    weights = unsettled(coefficient, 0.3)
    matters = coefficient >= 0.3
    assert bool((weights[matters] == 1).all())
    assert 0.2 < (weights == 0).double().mean().item() < 0.8
    taken = weights > 0
    torch.testing.assert_close((weights * coefficient)[taken].min().item(), 0.3)
    for values in (coefficient, coefficient * differences, coefficient.square()):
        torch.testing.assert_close((weights * values).mean(), values.mean(), rtol=2e-3, atol=0)


@pytest.mark.parametrize(("loss", "steepness"), [(symmetric_loss, 4), (threshold_loss, 0.5)])
def test_skipped_pairs_get_no_gradient_at_all(loss: Callable[..., Tensor], steepness: float) -> None:
    positive = torch.linspace(0, 6, 40, dtype=torch.float64).requires_grad_()
    negative = torch.linspace(4, 0, 40, dtype=torch.float64).requires_grad_()
    whole = torch.autograd.grad(loss(positive, negative), (positive, negative))
    some = torch.autograd.grad(loss(positive, negative, settled=0.2), (positive, negative))
    for expected, found in zip(whole, some, strict=True):
        assert 0 < int((found == 0).sum()) < 40
        coefficient = expected.abs() * 40 / steepness
        large = coefficient >= 0.2
        torch.testing.assert_close(found[large], expected[large])


def test_thresholds_and_steepness_are_the_papers_where_none_are_given() -> None:
    positive, negative = pair()
    assert torch.equal(
        threshold_loss(positive, negative), threshold_loss(positive, negative, threshold=2.0)
    )
    assert torch.equal(symmetric_loss(positive, negative), symmetric_loss(positive, negative, alpha=4.0))


def test_a_heads_loss_is_that_of_its_objectives_settings() -> None:
    features, labels = torch.rand(8, 3, 4, 4, dtype=torch.float64), torch.arange(4)
    positive, negative = sum_square(features).chunk(2)
    threshold = Threshold(goodness="sum-square", threshold=5.0, skip_settled=0.2).head((3, 4, 4), 3)
    expected = threshold_loss(positive, negative, threshold=5.0, settled=0.2)
    torch.testing.assert_close(threshold.loss(features, labels), expected)
    symmetric = Symmetric(goodness="sum-square", alpha=0.5, skip_settled=0.9).head((3, 4, 4), 3)
    expected = symmetric_loss(positive, negative, alpha=0.5, settled=0.9)
    torch.testing.assert_close(symmetric.loss(features, labels), expected)
    assert expected != symmetric_loss(positive, negative, alpha=0.5)
    assert threshold.skips_samples
    assert symmetric.skips_samples
    for kind in (Threshold, Symmetric):
        assert not kind().head((3, 4, 4), 3).skips_samples
        with pytest.raises(ValueError, match="unknown goodness 'sum-squar': did you mean sum-square"):
            kind(goodness="sum-squar").head((3, 4, 4), 3)


def test_a_patch_without_activations_has_a_goodness_and_a_gradient() -> None:
    blank = torch.zeros(1, 2, 4, 4, requires_grad=True)
    goodness = patch_rms(blank, 2)
    torch.testing.assert_close(goodness, torch.full((1, 8), 1e-4))
    assert torch.autograd.grad(goodness.sum(), blank)[0].isfinite().all()


REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "similarities": similarities,
    "contrast": lambda x: supervised_contrastive_loss(x, torch.arange(8) % 3),
    "group means": lambda x: group_means(x.float(), torch.eye(32, dtype=torch.bool)[:, :4]),
}


@pytest.mark.parametrize("name", REDUCED)
def test_products_of_similarities_and_groups_are_float32_under_autocast(name: str) -> None:
    features = torch.randn(8, 32).bfloat16()
    expected = REDUCED[name](features.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = REDUCED[name](features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_similarities_stay_between_minus_1_and_1() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 7, generator=draw).repeat(2, 1)
    rows[200:] *= -1
    found = similarities(rows)
    assert found.max() == 1
    assert found.min() == -1
