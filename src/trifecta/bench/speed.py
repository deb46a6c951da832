"""Images a second, training and predicting: variants take turns on one machine.

Shapes: R rounds; every figure of a row is the median over them, with its smallest and largest.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trifecta._utils.devices import synchronize
from trifecta.bench.machine import peak_multiply_adds
from trifecta.bench.setting import Setting
from trifecta.bench.variants import BACKPROP, PUBLISHED, Variant
from trifecta.bench.work import prediction_multiply_adds, training_multiply_adds
from trifecta.network import LocalNetwork

# Both parities of an overlapping schedule.
STEPS_A_TURN = 2
WARM_UP_TURNS = 2
Turn = Callable[[], object]
Report = dict[str, Any]
Say = Callable[[str], None]


def measure_speed(
    setting: Setting,
    variants: Sequence[Variant],
    *,
    rounds: int,
    say: Say,
    steps: int = STEPS_A_TURN,
) -> Report:
    """Training steps of every variant in turn, ``steps`` each time.

    Where blocks learn at the same time, they start and end one after another: that needs more steps.
    """
    images, labels = setting.batch()
    turns: dict[str, Turn] = {}
    networks: dict[str, LocalNetwork] = {}
    for variant in variants:
        trainer = variant.build(setting)
        networks[variant.name] = trainer.network

        turns[variant.name] = partial(variant.train, trainer, [(images, labels)] * steps)
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    work = {name: training_multiply_adds(network) for name, network in networks.items()}
    report = report_turns("speed", setting, variants, seconds, work, steps * setting.batch_size)
    return report | {"steps_a_turn": steps}


def measure_inference(setting: Setting, variants: Sequence[Variant], *, rounds: int, say: Say) -> Report:
    """Class scores of one batch by every variant in turn."""
    images, _ = setting.batch()
    turns: dict[str, Turn] = {}
    work = {}
    for variant in variants:
        trainer = variant.build(setting)
        predict = variant.predictor(trainer, setting)
        turns[variant.name] = lambda predict=predict: predict(images)  # type: ignore[misc]
        work[variant.name] = prediction_multiply_adds(trainer.network)
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    return report_turns("inference", setting, variants, seconds, work, setting.batch_size)


def take_turns(
    turns: dict[str, Turn], setting: Setting, *, rounds: int, say: Say
) -> dict[str, list[float]]:
    """Seconds of every turn, by name, R each: warm-up first, then A B C, A B C and so on."""
    device = setting.torch_device
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-WARM_UP_TURNS, rounds):
        say("warming up" if number < 0 else f"round {number + 1} of {rounds}")
        for name, turn in turns.items():
            synchronize(device)
            began = time.perf_counter()
            turn()
            synchronize(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report_turns(
    benchmark: str,
    setting: Setting,
    variants: Sequence[Variant],
    seconds: dict[str, list[float]],
    work: Mapping[str, float],
    images: int,
) -> Report:
    """The report of variants that took their turns, ``images`` each time."""
    peak = peak_multiply_adds(setting.torch_device, setting.resolved_precision)
    rows: list[Report] = []
    for variant in variants:
        name = variant.name
        speeds = [images / s for s in seconds[name]]
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
        for other in (BACKPROP, PUBLISHED):
            if other in seconds:
                row[f"over_{other}"] = ratio(seconds[other], seconds[name])
        if name in work and BACKPROP in work:
            row["bound_over_backprop"] = work[BACKPROP] / work[name]
        rows.append(row)
    return {
        "benchmark": benchmark,
        **setting.facts(),
        "rounds": len(next(iter(seconds.values()))),
        "peak_multiply_adds_per_second": peak,
        "rows": rows,
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Ratio of medians, and the smallest and largest ratio within a round."""
    within = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {
        "median": statistics.median(numerator) / statistics.median(denominator),
        "low": min(within),
        "high": max(within),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
