"""A small part of what `make soak` runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fuzz import Fuzzer
from kills import kill_loop
from longevity import growth, many_steps, many_trainings
from trifecta.data import ImageData
from trifecta.methods import get_method
from trifecta.training import RunConfig

pytestmark = pytest.mark.slow
# Resident memory of so few repetitions still settles.
MOST_GROWTH = 0.02


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("method", "pipeline"),
    [("trifecta", 2), ("rec-lra", 1)],
)
def test_a_killed_training_is_what_it_would_have_been(
    stripes: ImageData, tmp_path: Path, method: str, pipeline: int
) -> None:
    config = RunConfig(
        method=get_method(method), width=0.05, epochs=4, batch_size=20, precision="fp32", pipeline=pipeline
    )
    killed = kill_loop(config, stripes, tmp_path, kills=6)
    assert killed.differences == []
    assert killed.runs >= 1
    assert killed.moments.total() >= 6
    assert len(killed.moments) > 1


def test_many_steps_use_no_more_than_few() -> None:
    assert max(growth(*many_steps(1_000)).values()) < MOST_GROWTH


def test_many_trainings_use_no_more_than_few(stripes: ImageData) -> None:
    assert max(growth(*many_trainings(stripes, 16)).values()) < MOST_GROWTH


def test_nothing_that_is_wrong_ends_in_a_traceback(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = Fuzzer(tmp_path, stripes, seed=0).go(48)
    assert found.failures == []
