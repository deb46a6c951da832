"""Benchmarks: fair turns, counted work, honest opponents, memory that is really what it says."""

import copy
import gc
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from reference.work import forward_multiply_adds
from trifecta import METHODS, Learner, build_network, get_method
from trifecta.bench import (
    STEPS_A_TURN,
    VARIANTS,
    WARM_UP_TURNS,
    AccumulatedLearner,
    CheckpointedLearner,
    SavedBytes,
    Setting,
    Turn,
    measure_memory,
    measure_speed,
    prediction_multiply_adds,
    ratio,
    seconds_to,
    select,
    take_turns,
    variant_of,
)
from trifecta.data import DataConfig
from trifecta.learner import LocalStep
from trifecta.network import LocalNetwork
from trifecta.training import RunConfig

TINY = Setting(width=0.05, image_shape=(1, 8, 8), num_classes=3, batch_size=6, precision="fp32")


def silent(_: str) -> None:
    pass


def network_of(method: str, *, normalization: str = "batch") -> LocalNetwork:
    varied = replace(get_method(method), normalization=normalization)
    return build_network(varied, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05).double()


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(8, 1, 8, 8, generator=draw, dtype=torch.float64), torch.arange(8) % 3


def assert_same_weights(first: LocalNetwork, second: LocalNetwork) -> None:
    state = second.state_dict()
    for name, value in first.state_dict().items():
        torch.testing.assert_close(state[name], value)


def test_variants_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    turns: dict[str, Turn] = {name: partial(order.append, name) for name in "abc"}
    seconds = take_turns(turns, TINY, rounds=4, say=silent)
    assert "".join(order) == "abc" * (WARM_UP_TURNS + 4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_ratio_is_of_medians_and_its_spread_within_rounds() -> None:
    assert ratio([4.0, 6.0, 8.0], [2.0, 2.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 3.0}


@pytest.mark.slow
def test_every_variant_trains_and_is_reported_beside_backprop() -> None:
    report = measure_speed(TINY, select(None), rounds=1, say=silent)
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {variant.name for variant in select(None)}
    assert set(METHODS) <= set(VARIANTS)
    for row in rows.values():
        speed = row["images_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert row["over_backprop"]["median"] == pytest.approx(
            speed["median"] / rows["backprop"]["images_per_second"]["median"]
        )
        assert row["efficiency"] > 0
    assert rows["published"]["precision"] == "fp32"
    assert {"hardware", "threads", "versions", "date", "precision"} <= set(report)


@pytest.mark.slow
def test_every_turn_has_so_many_steps_and_a_pipeline_takes_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[LocalNetwork] = []
    learn = Learner.learn

    def counted(self: Learner, step: LocalStep) -> None:
        trained.append(self.network)
        learn(self, step)

    monkeypatch.setattr(Learner, "learn", counted)
    rows = select("superfecta,superfecta-pipeline")
    report = measure_speed(TINY, rows, rounds=1, steps=5, say=silent)
    assert report["steps_a_turn"] == 5
    blocks_a_turn = 6 * 5
    # Copies on which work is counted take fewer steps.
    *_, first, second = sorted(Counter(map(id, trained)).values())
    assert first == second == (WARM_UP_TURNS + 1) * blocks_a_turn


def test_the_work_of_a_prediction_by_hand() -> None:
    network = TINY.build(get_method("trifecta"))
    forward = forward_multiply_adds(network)
    assert prediction_multiply_adds(network) == 3 * sum(forward)
    network.keep_labels(2)
    assert prediction_multiply_adds(network) == 3 * sum(forward[:2]) + 2 * sum(forward[2:])
    end_to_end = TINY.build(get_method("backprop"))
    classifier = 3 * end_to_end.feature_shapes[-1][0]
    assert prediction_multiply_adds(end_to_end) == sum(forward_multiply_adds(end_to_end)) + classifier


def test_the_published_rule_predicts_as_the_library_does() -> None:
    """And learns by its code: the rule itself is pinned to the published one elsewhere."""
    variant = VARIANTS["published"]
    learner = variant.build(replace(TINY, precision="bf16"))
    images, labels = TINY.batch()
    variant.train(learner, [(images, labels)] * 2)
    assert learner.precision == "fp32"
    with torch.no_grad():
        expected = learner.network.eval()(images)
    torch.testing.assert_close(variant.predictor(learner, TINY)(images), expected)


@pytest.mark.parametrize("normalization", ["batch", "class-groups"])
def test_checkpointed_backprop_moves_weights_as_backprop_does(normalization: str) -> None:
    # Blocks with a norm by class groups are not fused.
    network = network_of("backprop", normalization=normalization)
    checkpointed = CheckpointedLearner(copy.deepcopy(network))
    learner = Learner(network)
    for _ in range(3):
        learner.step(*batch())
        checkpointed.step(*batch())
    for expected, found in zip(network.parameters(), checkpointed.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_accumulated_backprop_moves_weights_as_backprop_does_where_no_norm_sees_the_batch() -> None:
    network = network_of("backprop", normalization="none")
    accumulated = AccumulatedLearner(copy.deepcopy(network))
    learner = Learner(network)
    for _ in range(3):
        learner.step(*batch())
        accumulated.step(*batch())
    assert_same_weights(network, accumulated.network)


def saved_bytes(variant: str, depth: int, *, kernels: bool | None = None) -> int:
    setting = replace(TINY, network=f"equal:{depth}:4")
    trainer = VARIANTS[variant].build(setting)
    if kernels and isinstance(trainer, Learner):
        trainer = Learner(trainer.network, kernels=True)
    images, labels = setting.batch()
    gc.collect()
    with SavedBytes() as saved:
        for _ in range(2):
            trainer.step(images, labels)
    return saved.most


@pytest.mark.parametrize("variant", ["trifecta", "published"])
def test_what_a_local_graph_holds_does_not_grow_with_depth(variant: str) -> None:
    assert saved_bytes(variant, 4, kernels=True) == saved_bytes(variant, 12, kernels=True)


def test_what_backprop_holds_does() -> None:
    deep, shallow = (saved_bytes("backprop", depth, kernels=True) for depth in (12, 4))
    activations = 6 * 4 * 64 * 4
    statistics = 2 * 4 * 4
    assert (deep - shallow) / 8 == activations + statistics


def test_saved_bytes_count_shared_memory_once_and_forget_what_is_freed() -> None:
    x = torch.ones(1000, requires_grad=True)
    with SavedBytes() as saved:
        y = x.exp()
        z = y.square() + y.view(10, 100).square().sum()
        assert saved.most == 4000
        del y, z
        again = x.exp()
        assert saved.most == 4000
        both = again, x.exp()
        assert saved.most == 8000
        del both


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_its_own() -> None:
    """Of variants, and of a run whose method is none by its name."""
    optimizer = get_method("superfecta").optimizer
    method = replace(get_method("backprop"), optimizer=optimizer)
    config = RunConfig(
        data=DataConfig(source="digits"), method=method, width=0.2, batch_size=6, precision="fp32"
    )
    setting = Setting.of(config, (1, 8, 8), 3)
    variants = [VARIANTS["trifecta"], variant_of(config)]
    rows = measure_memory(setting, variants, ["small"], rounds=1, say=silent)["rows"]
    assert [(row["network"], row["name"]) for row in rows] == [("small", "trifecta"), ("small", "backprop")]
    assert rows[1]["over_backprop"] == 1
    assert rows[0]["saved_over_backprop"] == rows[0]["saved_bytes"] / rows[1]["saved_bytes"]
    trainer = VARIANTS["backprop-muon"].build(setting)
    with SavedBytes() as saved:
        trainer.step(*setting.batch())
    assert rows[1]["saved_bytes"] == saved.most
    assert variant_of(replace(config, pipeline=2)).pipeline == 2


def test_a_pipeline_holds_the_graphs_of_several_blocks() -> None:
    """In whichever threads they are made; at least one block's, at most all that are under way."""
    setting = replace(TINY, network="equal:12:4")
    variant = VARIANTS["superfecta-pipeline"]
    trainer = variant.build(setting)
    assert isinstance(trainer, Learner)
    with SavedBytes() as saved:
        saved.follow(trainer)
        variant.train(trainer, [setting.batch()] * 8)
    alone = saved_bytes("superfecta", 12)
    assert alone <= saved.most <= variant.pipeline * alone


@pytest.mark.slow
def test_a_probe_that_fails_says_why() -> None:
    too_small = replace(TINY, image_shape=(1, 2, 2))
    with pytest.raises(RuntimeError, match=r"backprop on small failed.*image_size=8"):
        measure_memory(too_small, select("backprop"), ["small"], rounds=1, say=silent)


def test_seconds_to_an_accuracy_are_those_of_training_alone() -> None:
    history = [
        {"seconds": 2.0, "validation_accuracy": 0.4, "evaluation_seconds": 9.0},
        {"seconds": 3.0, "validation_accuracy": 0.6, "evaluation_seconds": 9.0},
    ]
    assert [seconds_to(history, t) for t in (0.3, 0.5, 0.6, 0.7)] == [2.0, 5.0, 5.0, None]
    assert seconds_to([], 0.1) is None


def test_a_turn_covers_both_parities() -> None:
    schedule = get_method("trifecta").schedule
    assert {schedule.windows(step, 6) for step in range(STEPS_A_TURN)} == {
        schedule.windows(0, 6),
        schedule.windows(1, 6),
    }
