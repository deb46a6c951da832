"""What heads are made of, what they read, how wide they compute, and which settings they refuse."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta.losses import (
    AugmentedAuxiliary,
    AuxiliaryCrossEntropy,
    CentroidMargin,
    Combined,
    Contrast,
    CrossEntropy,
    GroupCrossEntropy,
    LabelGoodness,
    LocalPrediction,
    LocalTargets,
    Objective,
    PositionCrossEntropy,
    PositionThresholds,
    ProjectedCrossEntropy,
    Similarity,
    Site,
    SupervisedContrastive,
    Symmetric,
    Temperature,
    Term,
    Threshold,
)
from trifecta.losses.combined import CoarseHead, deviations
from trifecta.losses.functional import position_loss
from trifecta.losses.goodness import ChannelSums
from trifecta.losses.head import Bounded, Head, bounded, build_head, units
from trifecta.losses.pairs import PairHead, position_goodness
from trifecta.nn.shapes import FeatureShape

SHAPE, UNITS, SIGNALS, CLASSES = (6, 8, 8), (6,), (6, 8), 3
LABELS = torch.arange(5) % CLASSES


def features(*shape: int, count: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, *(shape or SHAPE), generator=draw, dtype=torch.float64)


def smoothed(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with a share of the target spread evenly over all classes, written out."""
    target = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    return -(target * scores.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_are_smoothed_by_as_much_as_is_asked_for(smoothing: float, hidden: int) -> None:
    objective = CrossEntropy(pool=2, smoothing=smoothing, hidden=hidden)
    head, a = objective.head(SHAPE, CLASSES).double(), features()
    torch.testing.assert_close(head.loss(a, LABELS), smoothed(head.scores(a), LABELS, smoothing))
    assert objective.at_positions() == PositionCrossEntropy(smoothing=smoothing, hidden=hidden)


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("shape", [SIGNALS, SHAPE])
def test_every_position_is_normalised_and_classified_alone(shape: tuple[int, ...], hidden: int) -> None:
    head = PositionCrossEntropy(smoothing=0.2, hidden=hidden).head(shape, CLASSES).double()
    a = features(*shape)
    labels = torch.arange(5 * math.prod(shape[1:])).view(5, *shape[1:]) % CLASSES
    rows = a.movedim(1, -1).reshape(-1, 6)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    norm, *layers = [module for module in head.modules() if isinstance(module, nn.LayerNorm | nn.Linear)]
    with torch.no_grad():
        norm.weight.mul_(2)
    rows = 2 * rows
    if hidden:
        rows = F.gelu(layers[0](rows))
    expected = layers[-1](rows)
    torch.testing.assert_close(head.scores(a).movedim(1, -1).reshape(-1, CLASSES), expected)
    torch.testing.assert_close(head.loss(a, labels), smoothed(expected, labels.flatten(), 0.2))


def test_units_have_no_positions_to_classify() -> None:
    with pytest.raises(
        ValueError, match=r"keep positions, \(N, C, …\): received features \(N, 6\); leave pooling"
    ):
        PositionCrossEntropy().head(UNITS, CLASSES)


def linear(probe: nn.Module, averages: Tensor) -> Tensor:
    return averages @ probe.get_parameter("classifier.weight").T + probe.get_parameter("classifier.bias")


def test_position_thresholds_are_a_contrast_and_a_linear_probe_of_what_goes_on() -> None:
    objective = PositionThresholds(positive=(0.5, 2.0), negative=(1.5, 3.0), penalty=(0.1, 0.2), pool=2)
    head: Any = objective.head(SHAPE, CLASSES).double()
    response = features(count=10) - 0.5
    on = F.relu(response - response.mean(1, keepdim=True))
    averages = F.adaptive_avg_pool2d(on, 2).movedim(1, -1).flatten(1)
    scores = linear(head.probe, averages)
    torch.testing.assert_close(head.scores(response), scores)
    contrast = position_loss(*position_goodness(response).chunk(2), thresholds=(0.5, 1.5), penalty=0.1)
    expected = contrast + F.cross_entropy(scores[:5], LABELS)
    torch.testing.assert_close(head.loss(response, LABELS), expected)


@pytest.mark.parametrize(("block", "number"), [(0, 0), (1, 1), (2, 2), (3, 2), (9, 2)])
def test_later_blocks_have_the_last_thresholds(block: int, number: int) -> None:
    head: Any = build_head(PositionThresholds(), Site(block, [SHAPE] * 10, CLASSES))
    assert head.thresholds == ((0.0, 5.0, 6.0)[number], (1.0, 9.0, 10.0)[number])
    assert head.penalty == (0.0012, 0.0007, 0.0005)[number]


def test_a_target_stands_beside_a_linear_probe_of_rectified_averages() -> None:
    head = LocalTargets(step=0.3).head(SHAPE, CLASSES).double()
    with pytest.raises(AssertionError, match=r"^no error was received"):
        head.loss(features(), LABELS)
    response, error = features() - 0.5, features(CLASSES)
    head.receive(error)
    probe = head.get_submodule("probe")
    scores = linear(probe, F.relu(response).mean((2, 3)))
    torch.testing.assert_close(head.scores(response), scores)
    change = 0.3 * (error @ head.get_buffer("feedback")).view(5, -1, 1, 1)
    distance = (F.relu(response) - F.relu(response - change)).square().sum((1, 2, 3)).mean() / 2
    torch.testing.assert_close(head.loss(response, LABELS), distance + F.cross_entropy(scores, LABELS))


def test_a_contrast_is_a_term_over_both_halves() -> None:
    pairs = features(count=10)
    module = Contrast(loss=Threshold(threshold=0.5)).module(SHAPE, CLASSES)
    positive, negative = pairs.square().mean((1, 2, 3)).chunk(2)
    expected = (F.softplus(0.5 - positive) + F.softplus(negative - 0.5)).mean() / 2
    torch.testing.assert_close(module(pairs, LABELS), expected)
    head = Combined(scoring=CrossEntropy(), share=0.0, terms=(Contrast(loss=Threshold(threshold=0.5)),))
    combined = head.head(SHAPE, CLASSES).double()
    own = combined.get_submodule("scoring").loss(pairs[:5], LABELS)  # type: ignore[operator]
    torch.testing.assert_close(combined.loss(pairs, LABELS), own + expected)


def test_terms_over_one_half_see_the_positives() -> None:
    pairs = features(count=10)
    head = Combined(share=0.0, terms=(Contrast(), Similarity())).head(SHAPE, CLASSES).double()
    similarity, contrast = head.get_submodule("terms.1"), head.get_submodule("terms.0")
    expected = head.get_submodule("scoring").loss(pairs[:5], LABELS)  # type: ignore[operator]
    expected = expected + contrast(pairs, LABELS) + similarity(pairs[:5], LABELS)
    torch.testing.assert_close(head.loss(pairs, LABELS), expected)


class Noting(Head):
    """A loss that tells what it was given."""

    def loss(self, features: Any, labels: Tensor) -> Tensor:
        total: Tensor = features.sum() + 10 * labels.sum()
        return total

    def scores(self, features: Any) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Noted(Symmetric):
    """Makes heads for one shape and number of classes alone."""

    kind: ClassVar[str] = "noted"

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        assert (feature_shape, num_classes) == (SHAPE, CLASSES)
        return Noting()


def test_a_contrast_may_be_any_loss_of_features_and_labels() -> None:
    pairs = features(count=10)
    module = Contrast(loss=Noted()).module(SHAPE, CLASSES)
    torch.testing.assert_close(module(pairs, LABELS), pairs.sum() + 10 * LABELS.sum())


def test_goodness_that_is_replaced_reads_features() -> None:
    class Own(PairHead):
        def goodness(self, features: Any) -> Tensor:
            largest: Tensor = features.flatten(1).amax(1)
            return largest

    site = Site(0, [SHAPE], CLASSES)
    assert PairHead(Symmetric(), site).reads_channel_sums
    assert not Own(Symmetric(), site).reads_channel_sums


@pytest.mark.parametrize("objective", [CrossEntropy(pool=2), LabelGoodness(pool=2)])
def test_patch_means_that_a_window_left_are_read(objective: Objective) -> None:
    head, a = objective.head(SHAPE, CLASSES).double(), features()
    means = F.adaptive_avg_pool2d(a, 2).movedim(1, -1).flatten(1)
    left = ChannelSums(torch.empty(0), torch.empty(0), 64, means)
    torch.testing.assert_close(head.scores(left), head.scores(a))


def test_terms_are_told_the_epoch_and_others_are_left_alone() -> None:
    terms = (Similarity(), SupervisedContrastive())
    head = Combined(scoring=CrossEntropy(), terms=terms).head(SHAPE, CLASSES)
    head.set_epoch(75, 100)
    contrast = head.get_submodule("terms.1")
    assert contrast.temperature == pytest.approx(0.1 + 0.1 * (1 + math.cos(math.pi / 2)) / 2)


def test_lists_become_tuples() -> None:
    assert Combined(terms=[Similarity()]).terms == (Similarity(),)  # type: ignore[arg-type]
    assert PositionThresholds(positive=[1.0]).positive == (1.0,)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Sighted(CrossEntropy):
    """Notes the shapes that it is shown."""

    kind: ClassVar[str] = "sighted"
    seen: ClassVar[list[Any]] = []

    def head_at(self, site: Site) -> Head:
        self.seen.append(site)
        return CrossEntropy().head(site.feature_shape, site.num_classes)


def test_an_objective_that_asks_for_all_shapes_gets_them() -> None:
    site = Site(1, [SHAPE, UNITS], CLASSES, [0])
    build_head(Sighted(), site)
    assert set(map(id, Sighted.seen)) == {id(site)}
    plain = build_head(CrossEntropy(), site)
    assert plain.get_parameter("classifier.weight").shape == (CLASSES, 6)


SIZES: list[tuple[Objective, tuple[int, ...], dict[str, tuple[int, ...]]]] = [
    (CrossEntropy(), SHAPE, {"classifier.weight": (3, 6), "classifier.bias": (3,)}),
    (CrossEntropy(pool=2), SIGNALS, {"classifier.weight": (3, 12), "classifier.bias": (3,)}),
    (CrossEntropy(pool=0), SHAPE, {"classifier.weight": (3, 384), "classifier.bias": (3,)}),
    (CrossEntropy(pool=4), UNITS, {"classifier.weight": (3, 6), "classifier.bias": (3,)}),
    (CrossEntropy(pool=2, normalized=True), SHAPE, {"classifier.weight": (3, 24), "classifier.bias": (3,)}),
    (
        CrossEntropy(pool=2, hidden=5),
        SHAPE,
        {
            "classifier.0.weight": (5, 24),
            "classifier.1.weight": (5,),
            "classifier.1.bias": (5,),
            "classifier.3.weight": (3, 5),
            "classifier.3.bias": (3,),
        },
    ),
    (CentroidMargin(), SHAPE, {"centroids": (3, 96)}),
    (CentroidMargin(), UNITS, {"centroids": (3, 6)}),
    (CentroidMargin(), SIGNALS, {"centroids": (3, 24)}),
    (AugmentedAuxiliary(), SHAPE, {"network.2.weight": (3, 6), "network.2.bias": (3,)}),
    (LabelGoodness(), SHAPE, {"shifts": (3, 96)}),
    (LabelGoodness(), UNITS, {"shifts": (3, 6)}),
    (ProjectedCrossEntropy(), SHAPE, {"log_scale": ()}),
    (LocalPrediction(at_most=24), SHAPE, {"classifier.weight": (3, 24), "classifier.bias": (3,)}),
    (
        AuxiliaryCrossEntropy(),
        UNITS,
        {
            "network.0.weight": (6,),
            "network.0.bias": (6,),
            "network.1.weight": (3, 6),
            "network.1.bias": (3,),
        },
    ),
    (GroupCrossEntropy(), SHAPE, {}),
    (Symmetric(), SHAPE, {}),
]


@pytest.mark.parametrize(("objective", "shape", "sizes"), SIZES)
def test_parameters_of_heads(
    objective: Objective, shape: tuple[int, ...], sizes: dict[str, tuple[int, ...]]
) -> None:
    head = objective.head(shape, CLASSES)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == sizes
    assert head.scores(torch.rand(4, *shape)).shape[0] == 4


@pytest.mark.parametrize(
    ("term", "shape", "sizes"),
    [
        (Similarity(), SHAPE, {"weights.weight": (6, 6, 3, 3)}),
        (Similarity(), SIGNALS, {"weights.weight": (6, 6, 3)}),
        (Similarity(), UNITS, {"weights.weight": (6, 6)}),
        *(
            (
                SupervisedContrastive(features=7),
                (channels, *sides),
                {
                    "projection.weight": (7, channels * pool ** len(sides)),
                    "projected_norm.weight": (7,),
                    "projected_norm.bias": (7,),
                },
            )
            for channels, sides, pool in (
                (100, (8, 8), 4),
                (101, (8, 8), 2),
                (400, (8, 8), 2),
                (401, (8, 8), 1),
                (100, (8,), 4),
                (401, (8,), 1),
                (100, (), 1),
            )
        ),
    ],
)
def test_parameters_of_terms(term: Term, shape: tuple[int, ...], sizes: dict[str, tuple[int, ...]]) -> None:
    module = term.module(shape, CLASSES)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == sizes
    assert module(torch.rand(4, *shape), LABELS[:4]).isfinite()


@pytest.mark.parametrize(
    ("objective", "shape", "sums", "means"),
    [
        (CrossEntropy(), SHAPE, True, 0),
        (CrossEntropy(), SIGNALS, True, 0),
        (CrossEntropy(pool=4), UNITS, True, 0),
        (CrossEntropy(pool=2), SHAPE, False, 2),
        (CrossEntropy(pool=4), SHAPE, False, 4),
        (CrossEntropy(pool=3), SHAPE, False, 0),
        (CrossEntropy(pool=4), SIGNALS, False, 0),
        (CrossEntropy(pool=0), SHAPE, False, 0),
        (LabelGoodness(), SHAPE, False, 4),
        (LabelGoodness(pool=2), SHAPE, False, 2),
        (LabelGoodness(pool=3), SHAPE, False, 0),
        (LabelGoodness(), SIGNALS, False, 0),
        (LabelGoodness(), UNITS, False, 0),
        (GroupCrossEntropy(), SHAPE, True, 0),
        (GroupCrossEntropy(goodness=lambda a, groups: a), SHAPE, False, 0),
        (Symmetric(), SHAPE, True, 0),
        (Symmetric(goodness="top-k"), SHAPE, False, 0),
        (CentroidMargin(), SHAPE, False, 0),
    ],
)
def test_what_a_fused_window_may_leave_for_a_head(
    objective: Objective, shape: tuple[int, ...], sums: bool, means: int
) -> None:
    for head in (objective.head(shape, CLASSES), CoarseHead(objective.head(shape, CLASSES), (0, 1, 1))):
        assert head.reads_channel_sums is sums
        assert head.reads_patch_means == means


@pytest.mark.parametrize("objective", [GroupCrossEntropy(), LocalTargets(), ProjectedCrossEntropy()])
def test_what_follows_from_the_settings_is_not_saved_and_what_was_drawn_is(objective: Objective) -> None:
    head = CoarseHead(objective.head(SHAPE, CLASSES), (0, 1, 1))
    names = {name for name in head.state_dict() if "probe" not in name}
    saved = {"group-cross-entropy": set(), "local-targets": {"head.feedback"}}
    drawn = {"head.projection", "head.log_scale"}
    assert names == saved.get(objective.kind, drawn)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("objective", "name", "deviation"),
    [
        (CentroidMargin(), "centroids", (64 * 16) ** -0.5),
        (LabelGoodness(), "shifts", 0.1),
        (ProjectedCrossEntropy(), "projection", (64 * 16) ** -0.5),
        (LocalTargets(), "feedback", 1.0),
    ],
)
def test_what_is_drawn_has_the_right_size(objective: Objective, name: str, deviation: float) -> None:
    drawn = objective.head((64, 8, 8), 40).state_dict()[name]
    assert drawn.std().item() == pytest.approx(deviation, rel=0.05)
    assert drawn.mean().abs().item() < deviation * 0.1


WIDE: list[Objective] = [
    LabelGoodness(),
    LabelGoodness(pool=0),
    CentroidMargin(),
    ProjectedCrossEntropy(),
    LocalTargets(),
    GroupCrossEntropy(),
]


def received(head: nn.Module) -> None:
    """Give a head the error that it may need."""
    head.receive(torch.linspace(-1, 1, 15).view(5, CLASSES))  # type: ignore[operator]


@pytest.mark.parametrize("objective", WIDE, ids=lambda objective: str(objective.kind))
def test_sums_and_products_stay_float32_under_autocast(objective: Objective) -> None:
    head, a = objective.head(SHAPE, CLASSES), features().float()
    received(head)
    expected = head.scores(a), head.loss(a, LABELS)
    double = copy.deepcopy(head).double()
    torch.testing.assert_close(expected[0].double(), double.scores(a.double()), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.scores(a), head.loss(a, LABELS)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, torch.float32)
    # A linear probe beside a loss is computed in half precision, the loss is not.
    tolerance = 2e-2 if isinstance(objective, LocalTargets) else 1e-6
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    "objective",
    [*WIDE[:-2], GroupCrossEntropy(), CrossEntropy(pool=2, hidden=4), PositionThresholds(), Symmetric()],
    ids=lambda objective: str(objective.kind),
)
def test_heads_of_half_precision_score_in_float32(objective: Objective) -> None:
    head, a = objective.head(SHAPE, CLASSES), features().bfloat16()
    wide = head.scores(a.float())
    found = head.bfloat16().scores(a)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide, rtol=0.1, atol=0.1 * wide.abs().max().item())


def test_targets_are_made_in_the_precision_of_the_feedback() -> None:
    head, a = LocalTargets().head(SHAPE, CLASSES), features()
    head.receive(torch.linspace(-1, 1, 15).view(5, CLASSES).bfloat16())
    expected = head.loss(a.bfloat16().float(), LABELS)
    assert expected.dtype == torch.float32
    assert torch.equal(head.loss(a.bfloat16(), LABELS), expected)
    head.receive(torch.linspace(-1, 1, 15).view(5, CLASSES).double())
    assert head.double().loss(a, LABELS).dtype == torch.float64


@pytest.mark.parametrize(
    ("maps", "reduced"),
    [((4, 2, 3), True), ((4, 2), True), ((4, 1, 5), False), ((3, 5, 5), False), ((4,), False)],
)
def test_a_map_stands_for_itself_where_it_has_one_row_or_few_channels(
    maps: tuple[int, ...], reduced: bool
) -> None:
    a = features(*maps)
    expected = a.flatten(2).std(2) if reduced else a.flatten(1)
    torch.testing.assert_close(deviations(a), expected)


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 5), (2, 7, 3)])
def test_averages_of_sizes_that_no_power_of_two_divides_are_padded_with_zeros(
    shape: tuple[int, ...],
) -> None:
    head = LocalPrediction(at_most=2 * 3 ** (len(shape) - 1)).head(shape, CLASSES).double()
    inputs = head.get_parameter("classifier.weight").shape[1]
    assert inputs <= 2 * 3 ** (len(shape) - 1)
    assert head.scores(features(*shape)).shape == (5, CLASSES)


def test_a_temperature_falls_by_a_line_and_then_by_a_cosine() -> None:
    fall = Temperature(first=0.9, second=0.5, last=0.3, epochs=4)
    found = [fall.at(epoch, 8) for epoch in range(8)]
    line = [0.9, 0.8, 0.7, 0.6]
    cosine = [0.3 + 0.2 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert found == pytest.approx(line + cosine)


def test_a_temperature_may_fall_for_one_epoch_and_ends_where_the_cosine_begins() -> None:
    assert Temperature(epochs=1).at(0, 1) == 0.8
    assert Temperature().at(50, 100) == 0.2


BOUNDS: list[tuple[Callable[..., Any], str, float | None, float | None]] = [
    (CrossEntropy, "pool", 0, 2**20),
    (CrossEntropy, "smoothing", 0, 1),
    (CrossEntropy, "hidden", 0, 2**20),
    (PositionCrossEntropy, "smoothing", 0, 1),
    (PositionCrossEntropy, "hidden", 0, 2**20),
    (Symmetric, "skip_settled", 0, 0.99),
    (Threshold, "skip_settled", 0, 0.99),
    (Combined, "share", 0, 1),
    (PositionThresholds, "pool", 0, 2**20),
    (Temperature, "first", 1e-9, None),
    (Temperature, "second", 1e-9, None),
    (Temperature, "last", 1e-9, None),
    (Temperature, "epochs", 1, None),
    (LabelGoodness, "alpha", 1e-9, None),
    (LabelGoodness, "pool", 0, 2**20),
    (GroupCrossEntropy, "temperature", 1e-9, None),
    (ProjectedCrossEntropy, "patches", 1, 2**20),
    (CentroidMargin, "pool", 1, 2**20),
    (CentroidMargin, "margin", 0, None),
    (LocalTargets, "step", 0, None),
    (LocalPrediction, "at_most", 1, 2**20),
    (SupervisedContrastive, "features", 1, 2**20),
    (AugmentedAuxiliary, "depth", 1, 2**20),
    (AugmentedAuxiliary, "smoothing", 0, 1),
]


@pytest.mark.parametrize(("kind", "name", "least", "most"), BOUNDS)
def test_settings_within_their_bounds_and_no_others(
    kind: Callable[..., Any], name: str, least: float, most: float | None
) -> None:
    assert getattr(kind(**{name: least}), name) == least
    below = least / 2 if 0 < least < 1 else least - 1
    above = math.inf if most is None else most
    assert getattr(kind(**{name: above}), name) == above
    for value in (below, math.nan) if most is None else (below, most + 1, most * 1.5):
        with pytest.raises(ValueError, match=rf"^{name} is a number from .* to .*: received {value!r}$"):
            kind(**{name: value})


def test_numbers_of_each_block_are_one_at_least() -> None:
    with pytest.raises(ValueError, match=r"^positive are one number or more: received none$"):
        PositionThresholds(positive=())


def test_a_bounded_field_has_its_default_and_a_size_has_bounds() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sized(Bounded):
        share: float = bounded(0.5, 0, 1)
        size: int = units(3)
        many: int = units(7, 2)

    assert Sized() == Sized(share=0.5, size=3, many=7)
    Sized(share=1, size=2**20, many=2)
    Sized(share=0, size=1)
    for wrong in ({"share": 1.1}, {"size": 0}, {"size": 2**20 + 1}, {"many": 1}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is a number from"):
            Sized(**wrong)


def test_an_objective_without_a_head_says_what_to_write() -> None:
    class Headless(Objective):
        pass

    message = "write head(self, feature_shape, num_classes), which returns a trifecta.Head"
    with pytest.raises(NotImplementedError, match=f"^{re.escape(message)}$"):
        Headless().head(SHAPE, CLASSES)  # type: ignore[abstract]


def test_groups_say_which_goodness_they_do_not_know() -> None:
    with pytest.raises(ValueError, match=r"^unknown group goodness 'mean-sqare'"):
        GroupCrossEntropy(goodness="mean-sqare").head(SHAPE, CLASSES)
