"""Weights of classes: what a weighted mean over the samples' losses gives, in every head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matrix import KINDS
from trifecta.learner import Learner
from trifecta.losses import (
    CentroidMargin,
    Combined,
    Contrast,
    CrossEntropy,
    Head,
    LabelGoodness,
    LocalTargets,
    PositionCrossEntropy,
    PositionThresholds,
    Similarity,
    Site,
    Symmetric,
    Threshold,
)
from trifecta.losses.combined import CoarseHead
from trifecta.losses.functional import unsettled
from trifecta.methods import METHODS, get_method
from trifecta.network import build_network
from trifecta.schedules import Window
from trifecta.window import window_loss

K = 3
WEIGHTS = torch.tensor([0.5, 3.0, 1.25], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 2, 0, 2, 1, 0])
EACH = WEIGHTS[LABELS] / WEIGHTS[LABELS].sum()


def features_of(head: Head, *, pairs: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16 if pairs else 8, 4, 4, 4, dtype=torch.float64, generator=generator)


def by_sample(compare: Callable[[Tensor], Tensor]) -> Tensor:
    """The weighted mean of each sample's loss, for a loss that samples do not share."""
    return sum(
        (EACH[i] * compare(torch.tensor([i])) for i in range(8)), torch.zeros((), dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "objective", [CrossEntropy(pool=2), CentroidMargin(), LabelGoodness(), CrossEntropy(hidden=0, pool=0)]
)
def test_a_head_weighs_its_samples(objective: Any) -> None:
    head = objective.head((4, 4, 4), K).double().eval()
    features = features_of(head)
    head.weigh_classes(WEIGHTS)
    weighted = head.loss(features, LABELS)
    head.weigh_classes(None)
    torch.testing.assert_close(weighted, by_sample(lambda i: head.loss(features[i], LABELS[i])))


def test_smoothing_is_weighted_as_by_torch() -> None:
    head = CrossEntropy(smoothing=0.2).head((4, 4, 4), K).double()
    features = features_of(head)
    head.weigh_classes(WEIGHTS)
    # Σ_i Σ_c weight_c · target_ic · −log p_ic / Σ_i weight of i's label
    targets = 0.8 * F.one_hot(LABELS, K) + 0.2 / K
    losses = -(WEIGHTS * targets * head.scores(features).log_softmax(1)).sum(1)
    torch.testing.assert_close(head.loss(features, LABELS), losses.sum() / WEIGHTS[LABELS].sum())


@pytest.mark.parametrize("objective", [Symmetric(), Threshold(), Symmetric(skip_settled=0.2)])
def test_a_pair_weighs_what_its_true_label_does(objective: Any) -> None:
    head = objective.head((4, 4, 4), K)
    features = features_of(head, pairs=True)
    head.weigh_classes(WEIGHTS)
    positive, negative = features.flatten(1).square().mean(1).chunk(2)
    if objective.skip_settled:
        excess = -4 * (positive - negative)
        losses = unsettled(excess.sigmoid(), 0.2) * F.softplus(excess)
        expected = (EACH * losses).sum()
    else:
        expected = by_sample(lambda i: objective.compare(positive[i], negative[i]))
    torch.testing.assert_close(head.loss(features, LABELS), expected)


def test_coarse_targets_weigh_their_classes() -> None:
    head = CoarseHead(CrossEntropy().head((4, 4, 4), K), (0, 1, 1)).double()
    features = features_of(head)
    head.weigh_classes(WEIGHTS)
    weighted = head.loss(features, LABELS)
    head.weigh_classes(None)
    torch.testing.assert_close(weighted, by_sample(lambda i: head.loss(features[i], LABELS[i])))


def test_every_position_weighs_what_its_label_does() -> None:
    head = PositionCrossEntropy().head((4, 4), K).double()
    features = torch.randn(2, 4, 4, dtype=torch.float64)
    head.weigh_classes(WEIGHTS)
    weighted = head.loss(features, LABELS.view(2, 4))
    losses = F.cross_entropy(head.scores(features), LABELS.view(2, 4), reduction="none")
    torch.testing.assert_close(weighted, (EACH.view(2, 4) * losses).sum())


def test_terms_keep_their_loss_and_pairs_among_them_weigh() -> None:
    objective = Combined(terms=(Similarity(weight=0.5), Contrast(weight=2.0)))
    head: Any = objective.head((4, 4, 4), K).double()
    features = features_of(head, pairs=True)
    head.weigh_classes(WEIGHTS)
    scoring, pair = CrossEntropy().head((4, 4, 4), K).double(), Symmetric().head((4, 4, 4), K)
    scoring.load_state_dict(head.scoring.state_dict())
    for part in (scoring, pair):
        part.weigh_classes(WEIGHTS)
    expected = scoring.loss(features[:8], LABELS) + 2 * pair.loss(features, LABELS)
    expected = expected + 0.5 * head.terms[0](features[:8], LABELS)
    torch.testing.assert_close(head.loss(features, LABELS), expected)


def test_an_error_that_comes_back_is_that_of_the_weighted_loss() -> None:
    head: Any = LocalTargets().head((4, 4, 4), K).double()
    features, error = features_of(head), torch.randn(8, K, dtype=torch.float64)
    head.weigh_classes(WEIGHTS)
    head.receive(error)
    weighted = head.loss(features, LABELS)
    probe = head.probe.loss(F.relu(features), LABELS)
    head.weigh_classes(None)
    head.receive(error * 8 * EACH.unsqueeze(1))
    unweighted_probe = head.probe.loss(F.relu(features), LABELS)
    torch.testing.assert_close(weighted - probe, head.loss(features, LABELS) - unweighted_probe)


def test_a_probe_beside_an_unsupervised_loss_weighs() -> None:
    head: Any = PositionThresholds().head((4, 4, 4), K).double()
    features = features_of(head, pairs=True)
    plain, probe = head.loss(features, LABELS), head.probe.loss(head.activation(features[:8]), LABELS)
    head.weigh_classes(WEIGHTS)
    weighted_probe = head.probe.loss(head.activation(features[:8]), LABELS)
    assert weighted_probe != probe
    torch.testing.assert_close(head.loss(features, LABELS) - weighted_probe, plain - probe)


class Own(Head):
    def scores(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))[:, :K]


class OwnLoss(Own):
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(features), labels)


def test_a_head_of_ones_own_weighs_unless_it_has_a_loss_of_its_own() -> None:
    head, features = Own(), features_of(Own())
    head.weigh_classes(WEIGHTS)
    losses = F.cross_entropy(head.scores(features), LABELS, reduction="none")
    torch.testing.assert_close(head.loss(features, LABELS), (EACH * losses).sum())
    assert "class_weights" not in head.state_dict()
    with pytest.raises(
        ValueError,
        match=r"of OwnLoss .*; leave them out, or use cross_entropy and weighs_classes in it$",
    ):
        OwnLoss().weigh_classes(WEIGHTS)
    OwnLoss().weigh_classes(None)


def learner_of(method: str, weights: Tensor | None) -> Learner:
    made = get_method(method)
    network = build_network(made, sample_shape=(1, 8, 8), num_classes=K, width=0.05)
    if weights is not None:
        network.weigh_classes(weights.float())
    return Learner(network, generator=torch.Generator().manual_seed(0))


def test_every_method_weighs_classes() -> None:
    site = Site(0, [(4, 4, 4)], K)
    assert all(get_method(method).head(site).weighs_classes for method in METHODS)


@pytest.mark.parametrize("method", KINDS)
def test_weights_move_each_kind_of_method_and_equal_ones_change_little(method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    images, losses = torch.randn(8, 1, 8, 8, generator=generator), []
    for weights in (None, torch.ones(K), WEIGHTS):
        learner = learner_of(method, weights)
        found = learner.step(images, LABELS)
        losses.append(torch.stack([loss for loss in found if loss is not None]))
    torch.testing.assert_close(losses[0], losses[1])
    assert not torch.allclose(losses[0], losses[2], rtol=1e-4)


@pytest.mark.parametrize("method", ["superfecta", "trifecta", "tierce", "backprop"])
def test_a_fused_window_weighs_as_the_plain_one(method: str) -> None:
    gradients = []
    for fused in (True, False):
        network = learner_of(method, WEIGHTS).network.double()
        x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        if network.label_input is not None:
            x = network.labelled(torch.cat([x, x]), torch.cat([LABELS, (LABELS + 1) % K]))
        loss, _ = window_loss(
            network.train(), Window(0, network.scored_blocks[0]), x, LABELS, kernels=fused
        )
        parameters = network.own_parameters(0)
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
