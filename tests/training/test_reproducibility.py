"""The same seed gives the same result; what changes with the precision and the threads, and how little."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from matrix import FEW, crossed
from trifecta.data import Augmentation, ImageData
from trifecta.methods import get_method
from trifecta.training import RunConfig, train

SMALL = RunConfig(
    width=0.05,
    epochs=1,
    batch_size=60,
    augmentation=Augmentation(crop_padding=1, flip=True),
    precision="fp32",
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def result_of(config: RunConfig, data: ImageData) -> dict[str, Any]:
    """What ``result.json`` and the history say, but for times and memory."""
    run = train(config, data=data)
    whole = run.result | {"history": run.trainer.history[0]}
    return {name: _untimed(value) for name, value in whole.items() if _is_kept(name)}


def _is_kept(name: str) -> bool:
    return "second" not in name and name != "peak_memory_bytes"


def _untimed(value: Any) -> Any:
    return {n: v for n, v in value.items() if _is_kept(n)} if isinstance(value, dict) else value


@pytest.mark.parametrize(("method", "precision"), crossed(FEW, ["fp32", "bf16"], quick=("superfecta",)))
def test_the_same_seed_gives_the_same_result(method: str, precision: str, stripes: ImageData) -> None:
    config = replace(SMALL, method=get_method(method), precision=precision)
    assert result_of(config, stripes) == result_of(config, stripes)


@pytest.mark.slow
def test_the_precision_changes_the_numbers(stripes: ImageData) -> None:
    fp32, bf16 = (result_of(replace(SMALL, precision=p), stripes) for p in ("fp32", "bf16"))
    assert fp32["history"]["loss"] != bf16["history"]["loss"]
    assert fp32["history"]["loss"] == pytest.approx(bf16["history"]["loss"], rel=0.05)


@pytest.mark.slow
def test_the_number_of_threads_changes_them_by_rounding(stripes: ImageData) -> None:
    losses = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        losses.append(result_of(replace(SMALL, method="pred"), stripes)["history"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
