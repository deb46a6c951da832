"""What a run says of its own cost: seconds by a clock that the test winds, and counted work."""

import time
from pathlib import Path
from typing import Any

import pytest

from stopping import StopAt
from trifecta.counts import counts
from trifecta.data import DataConfig
from trifecta.methods import get_method
from trifecta.training import Interrupted, RunConfig, RunFolder, Trainer, train
from trifecta.training.run import finish, resumed_trainer


class Clock:
    """Moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    return clock


def config_of(folder: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "data": DataConfig(source=str(folder)),
        "method": get_method("superfecta"),
        "network": "mlp",
        "width": 0.01,
        "epochs": 3,
        "batch_size": 20,
        "precision": "fp32",
    }
    return RunConfig(**settings | changes)


def test_seconds_are_of_training_of_evaluation_and_of_the_whole_run(
    stripes_folder: Path, clock: Clock
) -> None:
    result = train(config_of(stripes_folder, statistics="running")).result
    # One second between two looks at the clock: three epochs, three validations and the test.
    assert (result["seconds"], result["evaluation_seconds"]) == (3.0, 4.0)
    # From the first look to the last.
    assert result["total_seconds"] == clock.now - 1


def test_estimating_statistics_is_part_of_training(stripes_folder: Path, clock: Clock) -> None:
    result = train(config_of(stripes_folder)).result
    assert (result["seconds"], result["evaluation_seconds"]) == (6.0, 4.0)


def test_without_validation_images_the_test_is_all_evaluation(stripes_folder: Path, clock: Clock) -> None:
    config = config_of(stripes_folder, data=DataConfig(source=str(stripes_folder), validation=0.0))
    assert train(config).result["evaluation_seconds"] == 1.0


def test_the_seconds_of_a_resumed_run_are_those_of_its_parts(
    stripes_folder: Path, tmp_path: Path, clock: Clock
) -> None:
    trainer = Trainer(config_of(stripes_folder), folder=RunFolder(tmp_path / "run"))
    trainer.callbacks.append(StopAt(17))
    with pytest.raises(Interrupted):
        finish(trainer)
    first_part = clock.now - 1
    assert trainer.folder is not None
    assert trainer.folder.read_checkpoint(trainer.device)["total_seconds"] == first_part
    clock.now = 1e6
    result = finish(resumed_trainer(tmp_path / "run")).result
    assert result["total_seconds"] == first_part + clock.now - (1e6 + 1)
    assert result["evaluation_seconds"] == 4.0


@pytest.mark.usefixtures("real_counts")
def test_a_result_holds_the_counts_of_its_network(stripes_folder: Path) -> None:
    run = train(config_of(stripes_folder))
    steps = 3 * run.trainer.batches.steps_per_epoch
    expected = counts(run.network, batch_size=20, total_steps=steps)
    assert expected.items() <= run.result.items()
    assert expected["parameters"] > expected["block_parameters"] > 0
