"""What share of an epoch goes into making batches: gathering, normalising and augmenting images."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from trifecta.bench.setting import Setting, data_name, endless_batches
from trifecta.bench.speed import STEPS_A_TURN, Report, Say, Turn, spread, take_turns
from trifecta.data import AUGMENTATIONS, load_data
from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.training import RunConfig


def measure_loading(config: RunConfig, methods: Sequence[str], *, rounds: int, say: Say) -> Report:
    """Batches of every augmentation and steps of every method, in turn, on the data of ``config``."""
    data = load_data(config.data)
    setting = Setting.of(config, data.image_shape, len(data.classes))
    data = data.to(setting.torch_device)
    turns: dict[str, Turn] = {
        name: partial(_take, endless_batches(replace(config, augmentation=augmentation), data))
        for name, augmentation in AUGMENTATIONS.items()
    }
    batch = setting.batch()
    for name in methods:
        learner = Learner(setting.build(get_method(name)), precision=setting.resolved_precision)
        turns[f"step of {name}"] = partial(_step, learner, *batch)
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    rows = []
    for augmentation in AUGMENTATIONS:
        loading = seconds[augmentation]
        shares = {}
        for name in methods:
            steps = seconds[f"step of {name}"]
            shares[name] = spread([a / (a + b) for a, b in zip(loading, steps, strict=True)])
        batch_seconds = statistics.median(loading) / STEPS_A_TURN
        rows.append({"name": augmentation, "seconds_a_batch": batch_seconds, "share_of_epoch": shares})
    facts = setting.facts()
    return {
        "benchmark": "loading",
        **facts,
        "data": data_name(config.data.source),
        "rounds": rounds,
        "rows": rows,
    }


def _take(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    for _ in range(STEPS_A_TURN):
        next(batches)


def _step(learner: Learner, images: Tensor, labels: Tensor) -> None:
    for _ in range(STEPS_A_TURN):
        learner.step(images, labels)
