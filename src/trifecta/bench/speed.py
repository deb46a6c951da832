"""Images a second, training and predicting, and seconds to an accuracy.

Rows take turns on one machine: every figure is the median over rounds, with the smallest and largest.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trifecta.bench.setting import (
    Setting,
    conditions,
    data_name,
    peak_multiply_adds,
    prediction_multiply_adds,
    timed,
    training_multiply_adds,
)
from trifecta.bench.variants import BACKPROP, PUBLISHED, Variant
from trifecta.data import load_data
from trifecta.training import RunConfig, Trainer
from trifecta.training.config import to_plain
from trifecta.training.trainer import Record

# Both parities of an overlapping schedule.
STEPS_A_TURN = 2
WARM_UP_TURNS = 2
Turn = Callable[[], object]
Report = dict[str, Any]
Say = Callable[[str], None]


def measure_speed(
    setting: Setting, variants: Sequence[Variant], *, rounds: int, say: Say, steps: int = STEPS_A_TURN
) -> Report:
    """Report the training speed of variants that take turns.

    Args:
        setting: settings of all variants.
        variants: one for each row.
        rounds: number of turns of each variant.
        say: called with what happens.
        steps: number of steps in a turn; a pipeline needs more, as its blocks start and end one by one.
    """
    batch = setting.batch()
    turns: dict[str, Turn] = {}
    work: dict[str, float] = {}
    for variant in variants:
        trainer = variant.build(setting)
        turns[variant.name] = partial(variant.train, trainer, [batch] * steps)
        work[variant.name] = training_multiply_adds(trainer.network)
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    report = report_turns("speed", setting, variants, seconds, work, steps * setting.batch_size)
    return report | {"steps_a_turn": steps}


def measure_inference(setting: Setting, variants: Sequence[Variant], *, rounds: int, say: Say) -> Report:
    """Report how fast variants that take turns score one batch."""
    images, _ = setting.batch()
    turns: dict[str, Turn] = {}
    work: dict[str, float] = {}
    for variant in variants:
        trainer = variant.build(setting)
        turns[variant.name] = partial(variant.predictor(trainer, setting), images)
        work[variant.name] = prediction_multiply_adds(trainer.network)
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    return report_turns("inference", setting, variants, seconds, work, setting.batch_size)


def take_turns(
    turns: Mapping[str, Turn], setting: Setting, *, rounds: int, say: Say
) -> dict[str, list[float]]:
    """Return the seconds of every turn by name: warm-up first, then A B C, A B C and so on."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-WARM_UP_TURNS, rounds):
        say("warming up" if number < 0 else f"round {number + 1} of {rounds}")
        for name, turn in turns.items():
            taken = timed(turn, setting.torch_device)
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def report_turns(
    benchmark: str,
    setting: Setting,
    variants: Sequence[Variant],
    seconds: Mapping[str, Sequence[float]],
    work: Mapping[str, float],
    images: int,
) -> Report:
    """Return the report of variants that took turns of ``images`` each."""
    peak = peak_multiply_adds(setting.torch_device, setting.resolved_precision)
    rows: list[Report] = []
    for variant in variants:
        name, own = variant.name, seconds[variant.name]
        speeds = [images / s for s in own]
        row: Report = {
            "name": name,
            "title": variant.title,
            "locality": variant.method.locality,
            "precision": "fp32" if name == PUBLISHED else setting.resolved_precision,
            "images_per_second": spread(speeds),
        }
        if name in work:
            row["multiply_adds"] = work[name]
            row["efficiency"] = statistics.median(speeds) * work[name] / peak["convolution"]
        if name in work and BACKPROP in work:
            row["bound_over_backprop"] = work[BACKPROP] / work[name]
        row |= {f"over_{r}": ratio(seconds[r], own) for r in (BACKPROP, PUBLISHED) if r in seconds}
        rows.append(row)
    return {
        "benchmark": benchmark,
        **setting.facts(),
        "rounds": len(next(iter(seconds.values()))),
        "peak_multiply_adds_per_second": peak,
        "rows": rows,
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return the ratio of medians, and the smallest and largest ratio within a round."""
    within = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return spread(within) | {"median": statistics.median(numerator) / statistics.median(denominator)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure_accuracy(configs: Sequence[RunConfig], thresholds: Sequence[float], *, say: Say) -> Report:
    """Report the seconds of training until the *validation* accuracy reaches thresholds.

    Seconds are from the first batch to the end of the epoch, without evaluation, which is reported on its
    own. The test split is not read.

    Args:
        configs: one for each row; all train on the data of the first.
        thresholds: validation accuracies from 0 to 1.
        say: called with what happens.
    """
    assert configs[0].data is not None
    data = load_data(configs[0].data)
    rows = []
    for config in configs:
        say(f"{config.method.name}, seed {config.seed}, {config.epochs} epochs")
        trainer = Trainer(config, data=data)
        trainer.fit()
        rows.append(_accuracy_row(config, trainer, thresholds))
    return {
        "benchmark": "accuracy",
        **conditions(trainer.device),
        "thresholds": list(thresholds),
        "rows": rows,
    }


def _accuracy_row(config: RunConfig, trainer: Trainer, thresholds: Sequence[float]) -> Report:
    history, plain = trainer.history, to_plain(config)
    plain["data"]["source"] = data_name(plain["data"]["source"])
    return {
        "name": config.method.name,
        "seed": config.seed,
        "precision": trainer.learner.precision,
        "locality": config.method.locality,
        "seconds_to": {f"{t:g}": seconds_to(history, t) for t in thresholds},
        "validation_accuracy": [record["validation_accuracy"] for record in history],
        "images_per_second": [record["images_per_second"] for record in history],
        "seconds_by_epoch": [record["seconds"] for record in history],
        "evaluation_seconds": sum(record["evaluation_seconds"] for record in history),
        "config": plain,
    }


def seconds_to(history: Sequence[Record], threshold: float) -> float | None:
    """Return the seconds of training until an epoch ends at ``threshold`` or above; None if none does."""
    spent = 0.0
    for record in history:
        spent += float(record["seconds"])
        if (record["validation_accuracy"] or 0) >= threshold:
            return spent
    return None
