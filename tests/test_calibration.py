"""Probabilities, temperature and measures of honesty against scikit-learn and slow, obvious versions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from torch import Tensor

from trifecta import calibration
from trifecta.calibration import (
    calibration_error,
    fit_readout,
    fit_temperature,
    log_loss,
    probabilities,
)


def drawn(count: int, classes: int, *, seed: int = 0, heat: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scores, and labels that have exactly the probabilities ``softmax(scores / heat)``."""
    draw = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(count, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial((scores / heat).softmax(1), 1, generator=draw).flatten()
    return scores, labels


def smoothed_loss(scores: Tensor, labels: Tensor, temperature: float) -> float:
    """The objective of ``fit_temperature``, a sample and a class at a time."""
    count, classes = scores.shape
    total = 0.0
    for row, label in zip((scores / temperature).log_softmax(1).tolist(), labels.tolist(), strict=True):
        for k, value in enumerate(row):
            weight = (count + 1) / (count + 2) if k == label else 1 / (count + 2) / (classes - 1)
            total -= weight * value
    return total / count


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("heat", [0.2, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(classes: int, heat: float) -> None:
    scores, labels = drawn(5_000, classes, heat=heat)
    assert fit_temperature(scores, labels) == pytest.approx(heat, rel=0.1)


@pytest.mark.parametrize("classes", [2, 5])
def test_no_other_temperature_has_less_loss(classes: int) -> None:
    scores, labels = drawn(40, classes, heat=3)
    found = fit_temperature(scores, labels)
    least = smoothed_loss(scores, labels, found)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        assert smoothed_loss(scores, labels, factor * found) > least


def test_scores_without_a_mistake_promise_what_so_many_samples_can() -> None:
    labels = torch.arange(10) % 2
    scores = torch.nn.functional.one_hot(labels).double()
    true = probabilities(scores, fit_temperature(scores, labels))[0, 0].item()
    assert true == pytest.approx(11 / 12)
    assert fit_temperature(1e-20 * scores, labels) == pytest.approx(1e-20 / math.log(11))


def test_scores_that_say_nothing_or_less_give_no_confidence() -> None:
    scores, labels = drawn(500, 4)
    worse = probabilities(-scores, fit_temperature(-scores, labels))
    assert worse.amax() < 0.26
    assert torch.equal(worse.argmax(1), (-scores).argmax(1))
    assert fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 0])) == 1
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 1


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 30), st.sampled_from([1e-6, 1.0, 1e6]))
def test_it_is_positive_keeps_predictions_and_follows_the_scale(
    seed: int, classes: int, count: int, scale: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, classes, generator=draw)
    labels = torch.randint(classes, (count,), generator=draw)
    found = fit_temperature(scores, labels)
    assert 0 < found < math.inf
    shares = probabilities(scores, found)
    assert torch.equal(shares.argmax(1), scores.argmax(1))
    assert shares.sum(1) == pytest.approx(1, abs=1e-12)
    assert fit_temperature(scale * scores.double(), labels) == pytest.approx(scale * found, rel=1e-4)


def test_scores_that_say_nothing_give_the_frequencies_of_the_classes() -> None:
    labels = torch.tensor([0] * 850 + [1] * 100 + [2] * 50)
    scores = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    temperature, offset = fit_readout(scores, labels)
    shares = (scores / temperature + offset).softmax(1)
    assert shares.mean(0).numpy() == pytest.approx([0.85, 0.1, 0.05], abs=0.005)
    assert offset.sum().item() == pytest.approx(0, abs=1e-12)
    prior = torch.tensor([0.85, 0.1, 0.05]).expand(1000, 3)
    assert log_loss(shares, labels) <= log_loss(prior, labels) + 1e-4
    # Where classes have weights, their frequencies do not count.
    plain = fit_readout(scores, labels, frequencies=False)
    assert plain[0] == fit_temperature(scores, labels)
    assert plain[1].tolist() == [0, 0, 0]


def test_a_share_of_the_frequencies_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    counts = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    # The scores know half of the frequencies.
    scores = torch.randn(20_000, 3, generator=draw, dtype=torch.float64) + counts.log()
    labels = torch.multinomial((scores / 2 + 0.5 * counts.log()).softmax(1), 1, generator=draw).flatten()
    temperature, offset = fit_readout(scores, labels)
    assert temperature == pytest.approx(2, rel=0.1)
    expected = (labels.bincount() + 1).double().log()
    expected -= expected.mean()
    weights = (offset / expected).tolist()
    assert weights == pytest.approx([weights[0]] * 3)
    assert weights[0] == pytest.approx(0.5, abs=0.11)
    assert weights[0] * 10 == pytest.approx(round(weights[0] * 10))
    loss = log_loss((scores / temperature + offset).softmax(1), labels)
    for w in (weights[0] - 0.1, weights[0] + 0.1):
        assert log_loss((scores / temperature + w * expected).softmax(1), labels) > loss


def test_offsets_need_labels_that_show_them() -> None:
    scores, labels = drawn(300, 4, heat=2)
    rare = labels.clone()
    rare[rare == 3] = torch.where(torch.arange(int((rare == 3).sum())) % 2 == 0, 3, 0)
    for own in (labels, rare[:12]):
        temperature, offset = fit_readout(scores[: len(own)], own)
        assert offset.abs().max() == 0
        assert temperature == fit_temperature(scores[: len(own)], own)
    there = scores.view(20, 15, 4).movedim(2, 1), rare.view(20, 15)
    found, flat = fit_readout(*there), fit_readout(scores, rare)
    assert flat[1].abs().max() > 0
    assert torch.allclose(found[1], flat[1])
    assert found[0] == pytest.approx(flat[0])


def test_labels_off_a_shortlist_are_unlikely_and_not_impossible() -> None:
    scores = torch.tensor([[3.0, 1.0, -math.inf, -math.inf], [-math.inf, 5.0, -math.inf, -math.inf]])
    shares = probabilities(scores, 2.0)
    odds = np.exp([1.5, 0.5, -0.5, -0.5])
    assert shares[0].numpy() == pytest.approx(odds / odds.sum())
    assert shares[1].argmax() == 1
    assert shares[1, 0] == pytest.approx(1 / (math.e + 3))
    labels = torch.tensor([2, 1])
    assert math.isfinite(log_loss(shares, labels))


def test_the_temperature_of_a_shortlist_is_fitted_to_those_probabilities() -> None:
    scores, labels = drawn(400, 6, heat=2)
    scores.scatter_(1, scores.topk(3, largest=False).indices, -math.inf)
    found = fit_temperature(scores, labels)
    losses = {factor: log_loss(probabilities(scores, factor * found), labels) for factor in (0.5, 1, 2)}
    assert min(losses, key=losses.__getitem__) == 1
    assert found != 1


def test_log_loss_is_scikit_learns() -> None:
    scores, labels = drawn(200, 6)
    shares = probabilities(scores, 0.1)
    assert log_loss(shares, labels) == pytest.approx(
        sklearn_log_loss(labels, shares, labels=range(6)), rel=1e-12
    )
    sure = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert log_loss(sure, torch.tensor([1])) == pytest.approx(sklearn_log_loss([1], sure, labels=[0, 1]))


def slow_calibration_error(shares: Tensor, labels: Tensor, bins: int) -> float:
    error = 0.0
    for b in range(bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(shares.tolist(), labels.tolist(), strict=True)
            if min(int(max(row) * bins), bins - 1) == b
        ]
        if inside:
            confidence = sum(sure for sure, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_its_definition(bins: int) -> None:
    scores, labels = drawn(150, 4)
    shares = probabilities(scores, 0.4)
    slow = slow_calibration_error(shares, labels, bins)
    assert calibration_error(shares, labels, bins=bins) == pytest.approx(slow, abs=1e-12)
    assert slow > 0.05
    certain = torch.eye(3, dtype=torch.float64)
    assert calibration_error(certain[:1], torch.tensor([1])) == 1
    assert calibration_error(certain, torch.tensor([0, 1, 2])) == 0
    assert calibration_error(certain, torch.tensor([1, 2, 0])) == 1


def test_a_label_at_every_position_counts_as_one_sample_each() -> None:
    scores, labels = drawn(120, 5, heat=2)
    there = scores.view(20, 6, 5).movedim(2, 1), labels.view(20, 6)
    assert fit_temperature(*there) == pytest.approx(fit_temperature(scores, labels))
    shares, wide = probabilities(scores, 2.0), probabilities(there[0], 2.0)
    assert torch.allclose(wide.movedim(1, 2).reshape(120, 5), shares, atol=1e-12)
    assert log_loss(wide, there[1]) == pytest.approx(log_loss(shares, labels))
    assert calibration_error(wide, there[1]) == pytest.approx(calibration_error(shares, labels))


def test_a_shortlist_of_wrong_labels_is_worth_what_a_uniform_guess_is() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(2_000, 100, generator=draw, dtype=torch.float64)
    scores.scatter_(1, scores.topk(90, largest=False).indices, -math.inf)
    off = scores.isneginf().double()
    labels = torch.multinomial(off, 1, generator=draw).flatten()
    shares = probabilities(scores, fit_temperature(scores, labels))
    assert log_loss(shares, labels) == pytest.approx(math.log(100), abs=0.001)


def test_every_third_label_is_enough_where_there_are_three_times_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert calibration._MOST == 50_000
    scores, labels = drawn(25, 4, heat=2)
    expected = fit_temperature(scores[::3], labels[::3])
    monkeypatch.setattr(calibration, "_MOST", 10)
    assert fit_temperature(scores, labels) == expected


def test_scores_worse_than_useless_get_the_highest_temperature() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [9.0, 4.0, 5.0]])
    assert fit_temperature(scores, torch.tensor([0, 1])) == pytest.approx(5e3, rel=1e-6)
    assert torch.equal(probabilities(scores), probabilities(scores, 1.0))


@pytest.mark.parametrize("classes", [2, 5])
def test_one_temperature_knows_a_uniform_guess_but_no_prior(classes: int) -> None:
    scores, _ = drawn(300, classes)
    # Nine in ten are of the first class, whatever the scores.
    labels = torch.where(torch.arange(300) % 10 > 0, 0, 1)
    for unit in (1.0, 20.0):
        loss = log_loss(probabilities(scores, fit_temperature(unit * scores, labels) / unit), labels)
        assert loss <= math.log(classes) + 1e-3
        assert loss > math.log(classes) - 0.05 > log_loss(torch.tensor([[0.9, 0.1]] * 300), labels)


def test_a_temperature_takes_few_steps_from_1(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, softmax = 0, Tensor.softmax

    def counted(rows: Tensor, dim: int) -> Tensor:
        nonlocal steps
        steps += 1
        return softmax(rows, dim)

    monkeypatch.setattr(Tensor, "softmax", counted)
    scores, labels = drawn(400, 5, heat=3)
    # A row that says nothing bounds no temperature.
    scores[0] = 0
    for scale in (1e-3, 1.0, 1e3):
        steps = 0
        assert fit_temperature(scale * scores, labels) == pytest.approx(2.933899 * scale, rel=1e-6)
        assert steps <= 6
    steps = 0
    # Halved until the bracket is closed.
    fit_temperature(torch.tensor([[1.0, 3.0, 2.0], [9.0, 4.0, 5.0]]), torch.tensor([0, 1]))
    assert steps <= 37
    monkeypatch.setattr(calibration, "_STEPS", 0)
    assert fit_temperature(scores, labels) == 1


@pytest.mark.parametrize("seed", range(12))
def test_the_share_of_the_frequencies_has_the_least_smoothed_loss(seed: int) -> None:
    scores, labels = drawn(25, 3, seed=seed)
    labels[::2] = 0
    # The scores know some of it.
    scores[:, 0] += 1.75
    log_counts = (labels.bincount(minlength=3) + 1).double().log()
    log_counts -= log_counts.mean()

    def least(w: float) -> float:
        # A fixed offset moves the scores at every temperature alike.
        temperatures = torch.logspace(-1, 3, 400, dtype=torch.float64).tolist()
        return min(smoothed_loss(scores + t * w * log_counts, labels, t) for t in temperatures)

    tenths = [w / 10 for w in range(11)]
    losses = [least(w) for w in tenths]
    expected = tenths[losses.index(min(losses))] if 2 * 25 * (losses[0] - min(losses)) > 3.84 else 0.0
    _, offset = fit_readout(scores, labels)
    assert torch.allclose(offset, expected * log_counts, atol=1e-9)
