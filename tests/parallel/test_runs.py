"""Whole runs in several processes: the files of one process, whatever the layout.

Processes take longer to start than to train, so that two of them do everything that two can.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import asked_once
from stopping import StopAt
from trifecta import Callback, get_method
from trifecta.data import ImageData
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import Processes
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer, train
from trifecta.training.run import finish, resumed_trainer

pytestmark = pytest.mark.slow
CONFIG = RunConfig(width=0.05, epochs=3, batch_size=60, precision="fp32", data=None)
STAGES, REPLICAS = Layout(layers=2), Layout(data=2)


def config_of(method: str) -> RunConfig:
    return replace(CONFIG, method=get_method(method))


def run_in(rank: int, layout: Layout, folder: Path, method: str, data: ImageData, stop: int | None) -> Any:
    """Train, or go on where a run is there already; the accuracy, or why it stopped."""
    processes = Processes(layout, synchronized=layout.data > 1)
    target = RunFolder(folder)
    begins = processes.agreed(not target.path.exists())
    callbacks = [] if stop is None else [StopAt(stop)]
    config = config_of(method)
    hold = target.begin(config) if begins else target.claim()
    with hold if rank == 0 else nullcontext():
        if begins:
            trainer = Trainer(config, folder=target, data=data, callbacks=callbacks, processes=processes)
        else:
            trainer = resumed_trainer(folder, data=data, callbacks=callbacks, processes=processes)
        try:
            return finish(trainer).test_accuracy
        except Interrupted as error:
            return str(error)


class Spoil(Callback):
    """Moves all weights by one place at the end of the last epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps == trainer.learner.total_steps:
            with torch.no_grad():
                for parameter in trainer.network.parameters():
                    if not parameter.is_meta:
                        parameter.copy_(parameter.flatten().roll(1).view_as(parameter))


def spoilt_in(rank: int, folder: Path | None, data: ImageData) -> Any:
    """Train a run whose last epoch is not its best; its weights, and which epoch they are of."""
    target = None if folder is None else RunFolder(folder)
    with nullcontext() if target is None or rank else target.begin(CONFIG):
        processes = Processes(STAGES)
        trainer = Trainer(CONFIG, folder=target, data=data, callbacks=[Spoil()], processes=processes)
        run = finish(trainer)
    with trainer.learner.whole() as network:
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return run.test_accuracy, run.result["kept_epoch"], weights


def batches_of(data: ImageData) -> tuple[str, list[int]]:
    """What a process's batches are, and how many images each has before it is received."""
    trainer = Trainer(config_of("superfecta"), data=data, processes=Processes(STAGES))
    batches = trainer.batches.epoch(0, start=1, generator=torch.Generator())
    return type(trainer.batches).__name__, [len(labels) for _, labels in batches]


def refusals(rank: int, data: ImageData) -> list[str]:
    """What this process says where the other one has something else."""
    other = replace(data, train=replace(data.train, images=255 - data.train.images))
    fewer = replace(data, test=data.test.select(torch.arange(30)))
    method = get_method("superfecta")
    slower = replace(method, optimizer=replace(method.optimizer, learning_rate=0.001))

    def trainer(config: RunConfig, images: ImageData) -> Trainer:
        return Trainer(
            config if rank else CONFIG, data=images if rank else data, processes=Processes(REPLICAS)
        )

    tries: list[Callable[[], object]] = [
        lambda: trainer(replace(CONFIG, seed=1), data),
        lambda: trainer(replace(CONFIG, method=slower), data),
        lambda: trainer(CONFIG, other),
        lambda: trainer(CONFIG, fewer),
        lambda: Trainer(replace(CONFIG, batch_size=15), data=data, processes=Processes(REPLICAS)),
        lambda: Processes(REPLICAS if rank else STAGES),
        lambda: Processes(Layout(layers=3)),
    ]
    found = []
    for refused in tries:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            refused()
        found.append(str(error.value))
    return found


REFUSALS = (
    r"seed is 0 in process 0 and 1 in process 1",
    r"method.optimizer.learning_rate is .* and 0.001 in process 1",
    r"images of train is",
    r"number of test images is 60 in process 0 and 30 in process 1",
    r"equal shares of a batch: received 15 images for 2",
    r"parallel is '1x2' in process 0 and '2x1' in process 1",
    r"layout 1x3 needs 3 processes: received 2",
)


def goes_on_in(rank: int, folder: Path, data: ImageData) -> list[Any]:
    """Stop on two stages, within an epoch; then on one, between two; then end on two again."""
    found = [run_in(rank, STAGES, folder, "trifecta", data, 2)]
    if rank == 0:
        with RunFolder(folder).claim(), pytest.raises(Interrupted):
            finish(resumed_trainer(folder, data=data, callbacks=[StopAt(2)]))
    return [*found, run_in(rank, STAGES, folder, "trifecta", data, None)]


def everything(rank: int, folder: Path, data: ImageData) -> dict[str, Any]:
    found = {
        f"stages {method}": run_in(rank, STAGES, folder / f"stages-{method}", method, data, None)
        for method in ("superfecta", "trifecta")
    }
    for name, stop in (("whole", None), ("resumed", 3), ("resumed", None)):
        found[name] = run_in(rank, REPLICAS, folder / name, "superfecta", data, stop)
    return found | {
        "kept in memory": spoilt_in(rank, None, data),
        "kept in a folder": spoilt_in(rank, folder / "spoilt", data),
        "batches": batches_of(data),
        "refusals": refusals(rank, data),
        "stopped": goes_on_in(rank, folder / "stopped", data),
    }


Found = tuple[Path, list[dict[str, Any]]]
Alone = Callable[[str], Run]


@pytest.fixture(scope="module")
def two(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A folder of runs, and what each of two processes found."""
    return asked_once(tmp_path_factory, 2, everything, stripes)


@pytest.fixture(scope="module")
def alone(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The same runs in this process."""
    folder = tmp_path_factory.mktemp("alone")
    return cache(lambda method: train(config_of(method), data=stripes, out=folder / method))


def untimed(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = RunFolder(folder)
    result = {k: v for k, v in run.read_result().items() if "second" not in k and k != "peak_memory_bytes"}
    history = [{k: v for k, v in r.items() if "second" not in k} for r in run.read_history()]
    return result, history


def assert_same_run(folder: Path, whole: Run) -> None:
    weights = RunFolder(folder).read_model()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert whole.trainer.folder is not None
    assert untimed(folder) == untimed(whole.trainer.folder.path)


@pytest.mark.parametrize("method", ["superfecta", "trifecta"])
def test_the_files_of_stages_are_those_of_one_process(method: str, two: Found, alone: Alone) -> None:
    folder, found = two
    assert [own[f"stages {method}"] for own in found] == [alone(method).test_accuracy] * 2
    assert_same_run(folder / f"stages-{method}", alone(method))


def test_a_run_goes_on_with_another_layout(two: Found, alone: Alone) -> None:
    folder, found = two
    assert all("stopped in epoch" in own["stopped"][0] for own in found)
    assert [own["stopped"][1] for own in found] == [alone("trifecta").test_accuracy] * 2
    assert_same_run(folder / "stopped", alone("trifecta"))


def test_stages_keep_their_best_epoch(two: Found, stripes: ImageData) -> None:
    whole = train(CONFIG, data=stripes, callbacks=[Spoil()])
    assert whole.result["kept_epoch"] == 2
    for kept in ("kept in memory", "kept in a folder"):
        for own in two[1]:
            accuracy, epoch, weights = own[kept]
            assert (accuracy, epoch) == (whole.test_accuracy, 2)
            for name, tensor in whole.network.state_dict().items():
                assert torch.equal(weights[name], tensor), name


def test_replicas_learn_what_one_process_does(two: Found, alone: Alone) -> None:
    folder, found = two
    expected = pytest.approx(alone("superfecta").test_accuracy, abs=0.05)
    assert found[0]["whole"] == found[1]["whole"] == expected
    assert len(untimed(folder / "whole")[1]) == 3


def test_replicas_go_on_as_if_they_had_not_been_stopped(two: Found) -> None:
    folder, _ = two
    whole = RunFolder(folder / "whole").read_model()
    resumed = RunFolder(folder / "resumed").read_model()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert untimed(folder / "resumed") == untimed(folder / "whole")
    assert RunFolder(folder / "resumed").read_resolved()["sync_batch_norm"] is True


def test_only_first_stages_prepare_batches(two: Found) -> None:
    first, second = two[1]
    assert first["batches"] == ("Batches", [CONFIG.batch_size] * 3)
    assert second["batches"] == ("ReceivedBatches", [0] * 3)


def test_settings_and_data_that_differ_are_named_in_every_process(two: Found) -> None:
    first, second = (own["refusals"] for own in two[1])
    assert first == second
    for found, expected in zip(first, REFUSALS, strict=True):
        assert re.search(expected, found), found
