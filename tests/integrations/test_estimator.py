"""The scikit-learn classifier keeps scikit-learn's contract, and is what the library trains."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris, load_wine, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import trifecta
from trifecta import METHODS, get_method
from trifecta.integrations.estimator import TrifectaClassifier


def small(method: str = "superfecta", **settings: Any) -> TrifectaClassifier:
    return TrifectaClassifier(method, **({"epochs": 2, "width": 0.02, "random_state": 0} | settings))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@parametrize_with_checks([small("superfecta", epochs=10)])  # type: ignore[untyped-decorator]
def test_it_keeps_scikit_learns_contract(estimator: TrifectaClassifier, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "method",
    [m if m in ("superfecta", "trifecta") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_every_method_learns_a_table(method: str) -> None:
    rows, labels = load_wine(return_X_y=True)
    trained = small(method, epochs=20, width=0.03).fit(rows[::2], labels[::2])
    # The threshold loss hardly learns a table in twenty epochs; two in five rows are of one class.
    assert trained.score(rows[1::2], labels[1::2]) > (0.4 if method == "ff" else 0.7)
    assert trained.predict_proba(rows).sum(1) == pytest.approx(1)


def test_a_method_may_be_an_object_and_parameters_stay_as_given() -> None:
    method = get_method("mono-forward")
    estimator = small(method)  # type: ignore[arg-type]
    assert clone(estimator).get_params()["method"] == method
    rows, labels = load_iris(return_X_y=True)
    estimator.fit(rows, labels)
    assert estimator.get_params()["method"] is method


def test_a_seed_repeats_and_leaves_other_randomness_alone() -> None:
    rows, labels = load_iris(return_X_y=True)
    np.random.seed(3)
    states = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # type: ignore[index]
    scores = [small(random_state=seed).fit(rows, labels).decision_function(rows) for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
    assert np.array_equal(np.random.get_state()[1], states[0])  # type: ignore[index]
    assert torch.equal(torch.random.get_rng_state(), states[1])


@pytest.mark.parametrize("names", [["no", "yes"], [False, True], [-5, 5], ["a", "b", "c"]])
def test_labels_are_of_any_type(names: list[Any]) -> None:
    rows, labels = load_iris(return_X_y=True)
    own = np.array(names)[labels % len(names)]
    trained = small().fit(rows, own)
    assert trained.classes_.dtype == own.dtype
    assert set(trained.predict(rows)) <= set(own)
    assert trained.decision_function(rows).shape == ((150,) if len(names) == 2 else (150, 3))


def test_a_trained_one_is_pickled() -> None:
    rows, labels = load_iris(return_X_y=True)
    for estimator in (
        small("trifecta").fit(rows, labels),
        small().partial_fit(rows, labels, classes=[0, 1, 2]),
    ):
        again = pickle.loads(pickle.dumps(estimator))
        assert np.array_equal(again.predict_proba(rows), estimator.predict_proba(rows))
        assert again.partial_fit(rows, labels).n_iter_ == estimator.n_iter_ + 1


@pytest.mark.slow
def test_it_works_in_a_pipeline_a_search_a_cross_validation_and_a_calibration() -> None:
    rows, labels = load_wine(return_X_y=True)
    search = GridSearchCV(small(), {"epochs": [1, 20], "method": ["superfecta", "mono-forward"]}, cv=2)
    search.fit(rows, labels)
    assert search.best_params_["epochs"] == 20
    pipeline = make_pipeline(MinMaxScaler(), small(epochs=20))
    assert cross_val_score(pipeline, rows, labels, cv=3).mean() > 0.9
    calibrated = CalibratedClassifierCV(small("trifecta", epochs=20), cv=2).fit(rows, labels)
    assert calibrated.score(rows, labels) > 0.8


@pytest.mark.slow
def test_images_come_as_they_are_or_as_rows() -> None:
    rows, labels = load_digits(return_X_y=True)
    rows, labels = rows[:600], labels[:600]
    settings = {"width": 0.05, "epochs": 3, "random_state": 0}
    flat = TrifectaClassifier(image_shape=(1, 8, 8), **settings).fit(rows, labels)  # type: ignore[arg-type]
    images = rows.reshape(-1, 1, 8, 8)
    shaped = TrifectaClassifier(**settings).fit(images, labels)  # type: ignore[arg-type]
    assert np.array_equal(flat.predict_proba(rows), shaped.predict_proba(images))
    assert flat.score(rows, labels) > 0.7
    with pytest.raises(ValueError, match="have 64 values each: received rows of 63"):
        TrifectaClassifier(image_shape=(1, 8, 8)).fit(rows[:, :63], labels)


def test_it_stops_early_and_keeps_a_history() -> None:
    rows, labels = load_wine(return_X_y=True)
    stopped = small(epochs=500, early_stopping=True, patience=3).fit(rows, labels)
    assert stopped.n_iter_ == len(stopped.history_) < 500
    assert stopped.history_[-1]["validation_accuracy"] is not None


@pytest.mark.slow
def test_rows_that_come_bit_by_bit_are_learnt() -> None:
    rows, labels = load_digits(return_X_y=True)
    estimator = small(width=0.05)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        estimator.partial_fit(rows[:100], labels[:100])
    for start in [*range(0, 1200, 100)] * 3:
        estimator.partial_fit(rows[start : start + 100], labels[start : start + 100], classes=np.arange(10))
    assert estimator.score(rows[1200:], labels[1200:]) > 0.8
    with pytest.raises(ValueError, match="did not name"):
        estimator.partial_fit(rows[:2], np.array([10, 11]))
    with pytest.raises(ValueError, match="is not the same as on last call"):
        estimator.partial_fit(rows[:2], labels[:2], classes=[0, 1])


def noisy_table(rows: int = 300) -> tuple[Any, Any]:
    return make_classification(rows, 12, n_informative=6, flip_y=0.2, random_state=0)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "method",
    [
        m if m == "superfecta" else pytest.param(m, marks=pytest.mark.slow)
        for m in ("superfecta", "tierce", "mono-forward", "class-groups", "trifecta", "backprop")
    ],
)
def test_probabilities_are_worth_more_than_the_prior(method: str) -> None:
    rows, labels = noisy_table()
    trained = TrifectaClassifier(method, epochs=10, random_state=0).fit(rows[:200], labels[:200])
    shares, true = trained.predict_proba(rows[200:]), labels[200:]
    prior = np.tile(np.bincount(labels[:200]) / 200, (100, 1))
    scores = trained.decision_function(rows[200:])
    as_they_are = 1 / (1 + np.exp(-scores))
    assert log_loss(true, shares) < log_loss(true, prior)
    # One temperature for all: the odds of the scores, whose sign decides.
    odds = np.log(shares[:, 1] / shares[:, 0])
    assert odds * float(trained.network_.temperature) == pytest.approx(scores, rel=1e-6, abs=1e-9)
    if method == "superfecta":
        assert log_loss(true, as_they_are) > log_loss(true, prior)


@pytest.mark.parametrize(
    ("method", "how"),
    [("superfecta", "rare"), ("superfecta", "tiny"), ("superfecta", "constant"), ("backprop", "rare")],
)
def test_a_column_that_hardly_varied_does_not_decide_alone(method: str, how: str) -> None:
    rows, labels = make_classification(300, 5, n_classes=2, class_sep=2.0, random_state=0)
    column = np.random.default_rng(0).normal(0, 1e-3 if how == "tiny" else 0, 300)
    column[0] += how == "rare"
    column[200 :: 20 if how == "rare" else 5] += 1
    rows = np.column_stack([rows, column])
    fitted = TrifectaClassifier(method, epochs=10, random_state=0).fit(rows[:200], labels[:200])
    assert log_loss(labels[200:], fitted.predict_proba(rows[200:])) < 0.3
    assert fitted.score(rows[200:], labels[200:]) > 0.9


@pytest.mark.parametrize("count", [12, 18])
def test_few_rows_of_noise_make_nothing_sure(count: int) -> None:
    labels = np.arange(count + 300) % 2
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(count + 300, 10))
        fitted = small(epochs=5, random_state=seed).fit(rows[:count], labels[:count])
        assert log_loss(labels[count:], fitted.predict_proba(rows[count:])) < 0.75


@pytest.mark.parametrize(
    ("offset", "unit"), [(1_700_000_000, 10.0), (-1.7e12, 1e4), (0, 1e-14), (0, 1e-200), (0, 1e200)]
)
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_a_column_counts_whatever_its_offset_and_unit(how: str, offset: float, unit: float) -> None:
    draw, labels = np.random.default_rng(0), np.arange(300) % 2
    rows = (offset + unit * (labels + draw.normal(0, 0.1, 300)))[:, None]
    estimator = small("mono-forward", epochs=10)
    for _ in range(10 if how == "partial_fit" else 0):
        estimator.partial_fit(rows[:200], labels[:200], classes=[0, 1])
    fitted = estimator if how == "partial_fit" else estimator.fit(rows[:200], labels[:200])
    assert fitted.score(rows[200:], labels[200:]) > 0.95
    assert fitted.mean_.item() == pytest.approx(rows[:200].mean(), rel=1e-12)
    assert fitted.scale_.item() == pytest.approx(unit * (rows[:200] / unit).std(), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-14, 123_456_789.0, 1e6 + 0.1])
def test_a_constant_column_says_nothing_whatever_its_value(value: float) -> None:
    draw, labels = np.random.default_rng(0), np.arange(300) % 2
    rows = np.column_stack([np.full(300, value), labels + draw.normal(0, 0.3, 300)])
    fitted = small().fit(rows[:200], labels[:200])
    before = fitted.predict_proba(rows[200:])
    rows[200:, 0] += 50
    assert np.array_equal(fitted.predict_proba(rows[200:]), before)


@pytest.mark.filterwarnings("ignore:method trifecta tries each of 100 labels")
def test_probabilities_add_up_whatever_the_number_of_classes() -> None:
    draw = np.random.default_rng(0)
    for classes, count in ((2, 30), (15, 30), (100, 200), (3, 7)):
        labels = np.arange(count) % classes
        rows = draw.normal(size=(count, 5)) + labels[:, None]
        for method in ("superfecta", "trifecta"):
            shares = small(method, epochs=1).fit(rows, labels).predict_proba(rows)
            assert shares.shape == (count, classes)
            assert shares.dtype == np.float64
            assert np.abs(shares.sum(1) - 1).max() < 1e-12
            assert (shares > 0).all()


def test_rows_that_come_bit_by_bit_give_probabilities_too() -> None:
    rows, labels = noisy_table(600)
    estimator = TrifectaClassifier(random_state=0)
    for start in range(0, 400, 50):
        estimator.partial_fit(rows[start : start + 50], labels[start : start + 50], classes=[0, 1])
    shares = estimator.predict_proba(rows[400:])
    assert float(estimator.network_.temperature) != 1
    assert log_loss(labels[400:], shares) < np.log(2)


@pytest.mark.parametrize("name", ["predict", "predict_proba", "decision_function"])
def test_one_that_is_not_fitted_says_so(name: str) -> None:
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(small(), name)(np.zeros((2, 3)))


def test_weights_of_samples_are_refused() -> None:
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(TypeError, match="sample_weight"):
        small().fit(rows, labels, sample_weight=np.ones(150))  # type: ignore[call-arg]


def test_it_is_one_of_the_packages_names() -> None:
    assert trifecta.TrifectaClassifier is TrifectaClassifier
    assert "TrifectaClassifier" in dir(trifecta)


def weights_of(estimator: TrifectaClassifier) -> list[float]:
    weights = estimator.network_.head(0).class_weights
    assert weights is not None
    return weights.tolist()


def test_classes_weigh_as_in_scikit_learn() -> None:
    rows, labels = load_iris(return_X_y=True)
    few = np.r_[0:50, 50:60, 100:150]
    balanced = small(epochs=1, class_weight="balanced").fit(rows[few], labels[few])
    assert weights_of(balanced) == pytest.approx([110 / 150, 110 / 30, 110 / 150])
    named = small(epochs=1, class_weight={1: 9.0}).fit(rows, labels)
    assert weights_of(named) == [1, 9, 1]
    assert small(epochs=1).fit(rows, labels).network_.head(0).class_weights is None


def test_rows_that_come_bit_by_bit_weigh_by_a_dictionary_alone() -> None:
    rows, labels = load_iris(return_X_y=True)
    part = small(class_weight={1: 9.0}).partial_fit(rows, labels, classes=[0, 1, 2])
    assert weights_of(part) == [1, 9, 1]
    with pytest.raises(ValueError, match="received class_weight 'balanced'; give a dictionary"):
        small(class_weight="balanced").partial_fit(rows, labels, classes=[0, 1, 2])


@pytest.mark.filterwarnings("ignore:a batch of one has no statistics")
def test_single_rows_are_learnt_once_the_scale_is_known() -> None:
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        small().partial_fit(rows[:1], labels[:1], classes=[0, 1, 2])
    estimator = small().partial_fit(rows[::2], labels[::2], classes=[0, 1, 2])
    before = estimator.predict_proba(rows)
    estimator.partial_fit(rows[1:2], labels[1:2])
    assert estimator.n_iter_ == 2
    assert not np.array_equal(estimator.predict_proba(rows), before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_probabilities_of_noisy_unbalanced_rows_beat_the_frequencies(
    seed: int,
) -> None:
    rows, y = make_classification(1000, 12, n_informative=6, flip_y=0.3, weights=[0.9], random_state=seed)
    rows, others, y, true = train_test_split(rows, y, random_state=seed, stratify=y)
    fitted = TrifectaClassifier(random_state=seed).fit(rows, y)
    shares = fitted.predict_proba(others)
    prior = log_loss(true, np.tile(np.bincount(y) / len(y), (len(true), 1)))
    assert log_loss(true, shares) < prior
    assert (fitted.predict(others) == shares.argmax(1)).all()
    assert fitted.network_.offset.abs().max() > 0
    weighted = TrifectaClassifier(random_state=seed, class_weight="balanced", epochs=2).fit(rows, y)
    assert weighted.network_.offset.abs().max() == 0
