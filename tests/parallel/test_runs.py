"""Whole runs in several processes: the files of one process, whatever the layout."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import in_processes
from stopping import StopAt
from trifecta import Callback, get_method
from trifecta.data import ImageData
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import Processes
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer, train
from trifecta.training.run import finish, resumed_trainer

CONFIG = RunConfig(width=0.05, epochs=3, batch_size=60, precision="fp32", data=None)


def config_of(method: str) -> RunConfig:
    return replace(CONFIG, method=get_method(method))


def run_in(rank: int, layout: Layout, folder: Path, method: str, data: ImageData, stop: int | None) -> Any:
    """Train, or go on where a run is there already; the accuracy, or why it stopped."""
    processes = Processes(layout, synchronized=layout.data > 1)
    target = RunFolder(folder)
    begins = not target.path.exists()
    begins = processes.agreed(begins)
    callbacks = [] if stop is None else [StopAt(stop)]
    if begins:
        hold = target.begin(config_of(method)) if rank == 0 else nullcontext()
        with hold:
            trainer = Trainer(
                config_of(method), folder=target, data=data, callbacks=callbacks, processes=processes
            )
            return finished(trainer)
    with target.claim() if rank == 0 else nullcontext():
        trainer = resumed_trainer(folder, data=data, callbacks=callbacks, processes=processes)
        return finished(trainer)


def finished(trainer: Trainer) -> Any:
    try:
        return finish(trainer).test_accuracy
    except Interrupted as error:
        return str(error)


def untimed(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = RunFolder(folder)
    result = {k: v for k, v in run.read_result().items() if "second" not in k and k != "peak_memory_bytes"}
    history = [{k: v for k, v in r.items() if "second" not in k} for r in run.read_history()]
    return result, history


def assert_equal_weights(folder: Path, whole: Run, *, exactly: bool) -> None:
    weights = RunFolder(folder).read_model()
    for name, tensor in whole.network.state_dict().items():
        if exactly:
            assert torch.equal(tensor, weights[name]), name
        else:
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As every process has: the order of sums depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["superfecta", "trifecta"])
def test_the_files_of_stages_are_those_of_one_process(
    method: str, stripes: ImageData, tmp_path: Path
) -> None:
    whole = train(config_of(method), data=stripes, out=tmp_path / "whole")
    found = in_processes(2, tmp_path, run_in, Layout(layers=2), tmp_path / "stages", method, stripes, None)
    assert found == [whole.test_accuracy] * 2
    assert_equal_weights(tmp_path / "stages", whole, exactly=True)
    assert untimed(tmp_path / "stages") == untimed(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_with_another_layout(stripes: ImageData, tmp_path: Path) -> None:
    whole = train(config_of("trifecta"), data=stripes, out=tmp_path / "whole")
    folder = tmp_path / "run"
    # Of twelve steps in three epochs, within an epoch and between two.
    for layout in (Layout(layers=4), Layout(layers=1), Layout(layers=2)):
        stopped = in_processes(layout.ranks, tmp_path, run_in, layout, folder, "trifecta", stripes, 2)
        assert all("stopped in epoch" in message for message in stopped)
    last = Layout(layers=3)
    found = in_processes(last.ranks, tmp_path, run_in, last, folder, "trifecta", stripes, None)
    assert found == [whole.test_accuracy] * last.ranks
    assert_equal_weights(folder, whole, exactly=True)
    assert untimed(folder) == untimed(tmp_path / "whole")


class Spoil(Callback):
    """Moves all weights by one place at the end of the last epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps == trainer.learner.total_steps:
            with torch.no_grad():
                for parameter in trainer.network.parameters():
                    if not parameter.is_meta:
                        parameter.copy_(parameter.flatten().roll(1).view_as(parameter))


def spoilt_in(rank: int, layout: Layout, folder: Path | None, data: ImageData) -> Any:
    """Train a run whose last epoch is not its best; its weights, and which epoch they are of."""
    target = None if folder is None else RunFolder(folder)
    with nullcontext() if target is None or rank else target.begin(CONFIG):
        trainer = Trainer(
            CONFIG, folder=target, data=data, callbacks=[Spoil()], processes=Processes(layout)
        )
        run = finish(trainer)
    with trainer.processes.whole(trainer.network) as network:
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return run.test_accuracy, run.result["kept_epoch"], weights


@pytest.mark.slow
@pytest.mark.parametrize("in_folder", [True, False])
def test_stages_keep_their_best_epoch(in_folder: bool, stripes: ImageData, tmp_path: Path) -> None:
    whole = train(CONFIG, data=stripes, callbacks=[Spoil()])
    assert whole.result["kept_epoch"] == 2
    folder = tmp_path / "run" if in_folder else None
    for accuracy, epoch, weights in in_processes(2, tmp_path, spoilt_in, Layout(layers=2), folder, stripes):
        assert (accuracy, epoch) == (whole.test_accuracy, 2)
        for name, tensor in whole.network.state_dict().items():
            assert torch.equal(weights[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout(data=2), Layout(data=2, layers=2)], ids=str)
def test_replicas_learn_what_one_process_does(layout: Layout, stripes: ImageData, tmp_path: Path) -> None:
    whole = train(config_of("superfecta"), data=stripes, out=tmp_path / "whole")
    found = in_processes(
        layout.ranks, tmp_path, run_in, layout, tmp_path / "run", "superfecta", stripes, None
    )
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(whole.test_accuracy, abs=0.05)
    _, history = untimed(tmp_path / "run")
    assert len(history) == 3


@pytest.mark.slow
def test_replicas_go_on_as_if_they_had_not_been_stopped(stripes: ImageData, tmp_path: Path) -> None:
    layout = Layout(data=2)
    in_processes(2, tmp_path, run_in, layout, tmp_path / "whole", "superfecta", stripes, None)
    for stop in (3, None):
        in_processes(2, tmp_path, run_in, layout, tmp_path / "run", "superfecta", stripes, stop)
    whole = RunFolder(tmp_path / "whole").read_model()
    resumed = RunFolder(tmp_path / "run").read_model()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")
    assert RunFolder(tmp_path / "run").read_resolved()["sync_batch_norm"] is True


def batches_of(rank: int, layout: Layout, data: ImageData) -> tuple[str, list[int]]:
    """What a process's batches are, and how many images each has before it is received."""
    trainer = Trainer(config_of("superfecta"), data=data, processes=Processes(layout))
    batches = trainer.batches.epoch(0, start=1, generator=torch.Generator())
    return type(trainer.batches).__name__, [len(labels) for _, labels in batches]


@pytest.mark.slow
def test_only_first_stages_prepare_batches(stripes: ImageData, tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, batches_of, Layout(layers=2), stripes)
    assert found[0] == ("Batches", [CONFIG.batch_size] * 3)
    assert found[1] == ("ReceivedBatches", [0] * 3)
