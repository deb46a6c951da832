"""Heads against their formulas, written out sample by sample."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses import (
    AuxiliaryCrossEntropy,
    CentroidMargin,
    Combined,
    CrossEntropy,
    GroupCrossEntropy,
    LocalTargets,
    ProjectedCrossEntropy,
    Similarity,
    SupervisedContrastive,
    Symmetric,
)
from trifecta.losses.classifiers import ClassifierHead
from trifecta.losses.combined import CoarseHead
from trifecta.losses.functional import similarity_loss, supervised_contrastive_loss
from trifecta.losses.goodness import ChannelSums, patch_rms
from trifecta.losses.pairs import PairObjective

SHAPE, CLASSES = (6, 8, 8), 3


def features(size: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(size, *SHAPE, generator=draw, dtype=torch.float64)


def labels(size: int = 5) -> Tensor:
    return torch.arange(size) % CLASSES


@pytest.mark.parametrize("pool", [1, 2])
def test_a_normalised_classifier_reads_averages_less_their_mean_over_their_deviation(pool: int) -> None:
    head = CrossEntropy(pool=pool, normalized=True).head(SHAPE, CLASSES).double()
    assert isinstance(head, ClassifierHead)
    a = features()
    averages = F.adaptive_avg_pool2d(a, pool).permute(0, 2, 3, 1).flatten(1)
    spread = (averages.var(0, correction=0) + 1e-5).sqrt()
    assert isinstance(head.classifier, nn.Linear)
    expected = (averages - averages.mean(0)) / spread @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head.scores(a), expected)
    if pool == 1:
        moments = ChannelSums(sums=a.sum((2, 3)), squares=a.square().sum((2, 3)), positions=64)
        torch.testing.assert_close(head.scores(moments), expected)
    # A prediction does not depend on what stands beside it.
    torch.testing.assert_close(head.eval().scores(a)[:2], head.scores(a[:2]))


def test_a_hidden_layer_is_normalised_and_rectified() -> None:
    head = CrossEntropy(pool=2, hidden=4).head(SHAPE, CLASSES).double()
    a, weights = features(), dict(head.named_parameters())
    averages = F.adaptive_avg_pool2d(a, 2).permute(0, 2, 3, 1).flatten(1)
    responses = averages @ weights["classifier.0.weight"].T
    spread = (responses.var(0, correction=0) + 1e-5).sqrt()
    hidden = ((responses - responses.mean(0)) / spread).clamp(min=0)
    expected = hidden @ weights["classifier.3.weight"].T + weights["classifier.3.bias"]
    torch.testing.assert_close(head.scores(a), expected)


def test_a_classifier_has_no_fewer_than_0_hidden_units() -> None:
    with pytest.raises(ValueError, match=r"hidden is a number from 0 to .*: received -1"):
        CrossEntropy(hidden=-1)


def test_similarity_is_of_cosines_about_each_rows_own_mean() -> None:
    rows = torch.randn(4, 7, dtype=torch.float64)
    classes = torch.tensor([0, 2, 2, 1])

    def similarities(x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return torch.stack(
            [torch.stack([F.cosine_similarity(a, b, dim=0) for b in centred]) for a in centred]
        )

    expected = (
        (similarities(rows) - similarities(torch.eye(3, dtype=torch.float64)[classes])).square().mean()
    )
    torch.testing.assert_close(similarity_loss(rows, classes, 3), expected, rtol=0, atol=1e-7)


def test_similarity_is_0_for_features_that_are_the_labels() -> None:
    classes = torch.tensor([0, 1, 2, 1, 0])
    assert similarity_loss(torch.eye(3)[classes] * 5, classes, 3).item() == pytest.approx(0, abs=1e-12)


def test_supervised_contrast_is_its_formula() -> None:
    rows = torch.randn(5, 4, dtype=torch.float64)
    classes = torch.tensor([0, 1, 0, 0, 2])
    unit = rows / rows.norm(dim=1, keepdim=True)
    losses = []
    for i in (0, 2, 3):
        friends = [p for p in (0, 2, 3) if p != i]
        total = sum(math.exp(float(unit[i] @ unit[j]) / 0.5) for j in range(5) if j != i)
        log_shares = [float(unit[i] @ unit[p]) / 0.5 - math.log(total) for p in friends]
        losses.append(-sum(log_shares) / len(friends))
    value = supervised_contrastive_loss(rows, classes, temperature=0.5)
    # Two images are alone in their class and count as 0.
    assert value.item() == pytest.approx(sum(losses) / 5)
    usual = supervised_contrastive_loss(rows, classes, temperature=0.1)
    assert torch.equal(supervised_contrastive_loss(rows, classes), usual)


def test_supervised_contrast_of_a_batch_without_friends_is_0_and_has_a_gradient() -> None:
    rows = torch.randn(3, 4, requires_grad=True)
    value = supervised_contrastive_loss(rows, torch.arange(3))
    torch.autograd.backward(value)
    assert value.item() == 0
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_patches_are_root_mean_squares_of_pieces_of_the_maps() -> None:
    a = features()
    g = patch_rms(a, 2)
    assert g.shape == (5, 6 * 4)
    torch.testing.assert_close(g[1, 6 * 1 + 2], a[1, 2, :4, 4:].square().mean().sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(patch_rms(-a[:, :, 0, 0], 2), a[:, :, 0, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("goodness", ["mean-square", "mean"])
def test_groups_score_alike_from_features_and_from_moments(goodness: str) -> None:
    a = features()
    head = GroupCrossEntropy(goodness=goodness, temperature=0.5).head(SHAPE, CLASSES).double()
    power = 2 if goodness == "mean-square" else 1
    expected = torch.stack([a[:, 2 * k : 2 * k + 2].pow(power).mean((1, 2, 3)) for k in range(3)], 1) / 0.5
    torch.testing.assert_close(head.scores(a), expected)
    moments = ChannelSums(a.sum((2, 3)), a.square().sum((2, 3)), 64)
    torch.testing.assert_close(head.scores(moments), expected)


def test_a_projection_is_fixed_and_only_a_temperature_learns() -> None:
    fixed = ProjectedCrossEntropy().head(SHAPE, CLASSES)
    learned = ProjectedCrossEntropy(learned_temperature=True).head(SHAPE, CLASSES)
    assert [p for p in fixed.parameters() if p.requires_grad] == []
    assert [p.numel() for p in learned.parameters() if p.requires_grad] == [1]
    assert "projection" in fixed.state_dict()
    hotter = learned.scores(features().float())
    with torch.no_grad():
        next(learned.parameters()).add_(math.log(2))
    torch.testing.assert_close(learned.scores(features().float()), 2 * hotter)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_block_receives_its_share_and_the_classifier_all_of_the_gradient(share: float) -> None:
    objective = Combined(scoring=CrossEntropy(pool=2), share=share)
    head = objective.head(SHAPE, CLASSES).double()
    alone = head.get_submodule("scoring")
    a = features().requires_grad_()
    parameters = list(alone.parameters())
    whole = torch.autograd.grad(alone.loss(a, labels()), [a, *parameters])  # type: ignore[operator]
    shared = torch.autograd.grad(head.loss(a, labels()), [a, *parameters])
    torch.testing.assert_close(shared[0], share * whole[0])
    for ours, theirs in zip(shared[1:], whole[1:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_terms_are_added_by_weight() -> None:
    terms = (Similarity(weight=0.5), SupervisedContrastive(weight=2.0, features=4))
    head = Combined(scoring=CrossEntropy(), terms=terms).head(SHAPE, CLASSES).double()
    scoring = head.get_submodule("scoring")
    similarity, contrast = (head.get_submodule(f"terms.{k}") for k in range(2))
    a, classes = features(), labels()
    expected = scoring.loss(a, classes) + 0.5 * similarity(a, classes)  # type: ignore[operator]
    torch.testing.assert_close(head.loss(a, classes), expected + 2 * contrast(a, classes))


def test_the_contrastive_term_does_not_see_how_loud_a_sample_is() -> None:
    term = SupervisedContrastive(features=4).module(SHAPE, CLASSES).double()
    loud = features() * torch.tensor([1.0, 10.0, 3.0, 0.5, 7.0]).view(5, 1, 1, 1)
    torch.testing.assert_close(term(loud, labels()), term(features(), labels()), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropy(pool=0),
        CrossEntropy(pool=4, smoothing=0.1),
        AuxiliaryCrossEntropy(),
        CentroidMargin(),
        ProjectedCrossEntropy(),
        Combined(terms=(Similarity(), SupervisedContrastive())),
    ],
    ids=lambda objective: str(objective.kind),
)
@pytest.mark.parametrize("shape", [SHAPE, (6,)])
def test_every_head_takes_maps_and_units(objective: CrossEntropy, shape: tuple[int, ...]) -> None:
    head = objective.head(shape, CLASSES)
    x = torch.rand(4, *shape)
    assert head.scores(x).shape == (4, CLASSES)
    assert head.loss(x, labels(4)).isfinite()


def test_centroids_score_by_distance_and_lose_by_the_margin() -> None:
    head = CentroidMargin(pool=1, margin=0.5).head((4,), CLASSES).double()
    (centroids,) = head.parameters()
    x = torch.randn(5, 4, dtype=torch.float64)
    unit = x / x.norm(dim=1, keepdim=True)
    expected = -8 * (unit.unsqueeze(1) - centroids).square().sum(2)
    torch.testing.assert_close(head.scores(x), expected)
    losses = []
    for row, label in zip(expected.tolist(), labels().tolist(), strict=True):
        wrong = [math.exp(0.5 + row[k] - row[label]) for k in range(3) if k != label]
        losses.append(math.log1p(sum(wrong)))
    assert head.loss(x, labels()).item() == pytest.approx(sum(losses) / 5)


def test_targets_are_a_step_against_the_fed_back_error() -> None:
    head: Any = LocalTargets(step=0.3).head(SHAPE, CLASSES).double()
    a, error = features().requires_grad_(), torch.randn(5, CLASSES, dtype=torch.float64)
    head.receive(error)
    change = 0.3 * (error @ head.feedback).view(5, -1, 1, 1)
    target = (a - change).clamp(min=0).detach()
    (gradient,) = torch.autograd.grad(head.loss(a, labels()), a)
    torch.testing.assert_close(gradient, (a - target) / 5)
    # Where the target is not cut off, that is the fed-back error itself, whatever the features are.
    open_ = target > 0
    torch.testing.assert_close(gradient[open_], (change / 5).expand_as(a)[open_])


def test_patches_of_signals_and_volumes() -> None:
    signals, volumes = torch.randn(3, 2, 8), torch.randn(3, 2, 4, 4, 4)
    found = patch_rms(signals, 2)
    expected = signals.view(3, 2, 2, 4).square().mean(3).sqrt()
    torch.testing.assert_close(found.view(3, 2, 2).mT, expected, rtol=1e-4, atol=1e-4)
    assert patch_rms(volumes, 2).shape == (3, 2 * 8)


def test_a_pair_head_reads_sums_for_goodness_that_takes_them() -> None:
    own: Callable[[Tensor], Tensor] = lambda a: a.flatten(1).norm(dim=1)  # noqa: E731
    for goodness, reads in (("mean-square", True), (own, False)):
        head = Symmetric(goodness=goodness).head(SHAPE, CLASSES)
        assert head.reads_channel_sums == reads
        assert head.skips_samples is False
    with pytest.raises(NotImplementedError, match=r"^PairObjective has no compare$"):
        PairObjective().compare(torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize("sides", [(8,), (8, 8), (4, 4, 4)])
def test_centroids_of_signals_images_and_volumes_are_of_averages(sides: tuple[int, ...]) -> None:
    head = CentroidMargin(pool=2).head((3, *sides), 4).double()
    (centroids,) = head.parameters()
    x = torch.rand(5, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    halves = x
    for dim in range(2, x.ndim):
        halves = torch.stack([half.mean(dim) for half in halves.chunk(2, dim)], dim)
    averages = halves.movedim(1, -1).flatten(1)
    unit = averages / averages.norm(dim=1, keepdim=True)
    expected = -8 * (unit.unsqueeze(1) - centroids).square().sum(2)
    torch.testing.assert_close(head.scores(x), expected)


def test_a_batch_may_lack_the_last_classes() -> None:
    head = CentroidMargin(margin=0.5).head(SHAPE, CLASSES).double()
    a, classes = features(), torch.zeros(5, dtype=torch.int64)
    margin = 0.5 * (1 - F.one_hot(classes, CLASSES))
    expected = F.cross_entropy(head.scores(a) + margin, classes)
    torch.testing.assert_close(head.loss(a, classes), expected)


def test_a_projection_reads_standardised_goodness() -> None:
    head = ProjectedCrossEntropy(patches=2).head(SHAPE, CLASSES).double()
    a = features()
    goodness = patch_rms(a, 2)
    spread = (goodness.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    standard = (goodness - goodness.mean(1, keepdim=True)) / spread
    torch.testing.assert_close(head.scores(a), standard @ head.get_buffer("projection"))


def test_the_scoring_head_is_told_the_epoch_too() -> None:
    inner = Combined(terms=(SupervisedContrastive(features=4),))
    head = Combined(scoring=inner).head(SHAPE, CLASSES)
    for epoch, temperature in ((49, 0.8 - 0.6 * 49 / 50), (75, 0.15)):
        CoarseHead(head, (0, 1, 1)).set_epoch(epoch, 100)
        assert head.get_submodule("scoring.terms.0").temperature == pytest.approx(temperature)


def test_similarities_are_of_the_deviations_of_convolved_maps() -> None:
    module = Similarity().module(SHAPE, CLASSES).double()
    a = features()
    maps = F.conv2d(a, module.get_parameter("weights.weight"), padding=1)
    expected = similarity_loss(maps.flatten(2).std(2), labels(), CLASSES)
    torch.testing.assert_close(module(a, labels()), expected)
