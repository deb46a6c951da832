"""A run ends with the weights of its best epoch, or of its last one where that is asked for."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_wine
from torch import Tensor

from kills import differences
from stopping import StopAt
from trifecta import Callback, EarlyStopping, RunConfig, Trainer, TrifectaClassifier, get_method, load
from trifecta import resume as go_on
from trifecta.data import ImageData
from trifecta.launch import watched
from trifecta.training import DivergenceError, Interrupted, Run, RunFolder, evaluate, train
from trifecta.training.evaluation import choose_blocks, score
from trifecta.training.run import finish, resumed_trainer

CONFIG = RunConfig(method="pred", network="mlp", width=0.01, epochs=4, batch_size=60, precision="fp32")
STEPS = 4  # an epoch


class Spoil(Callback):
    """Moves all weights by one place after some steps, and keeps what they were at each epoch's end."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.at_end = steps, list[dict[str, Tensor]]()

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps in self.steps:
            with torch.no_grad():
                for parameter in trainer.network.parameters():
                    parameter.copy_(parameter.flatten().roll(1).view_as(parameter))

    def on_epoch_end(self, trainer: Trainer, record: object) -> None:
        self.at_end.append({name: p.detach().clone() for name, p in trainer.network.state_dict().items()})


# The third epoch, of four, ends spoilt, and so does the fourth.
SPOILT = (3 * STEPS, 4 * STEPS)


@pytest.fixture(scope="module")
def spoilt(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, Spoil]:
    """A run whose second epoch is its best, and its weights at each epoch's end."""
    folder, spoil = tmp_path_factory.mktemp("kept") / "run", Spoil(*SPOILT)
    return folder, train(CONFIG, data=stripes, out=folder, callbacks=[spoil]), spoil


@pytest.fixture
def copied(spoilt: tuple[Path, Run, Spoil], tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(spoilt[0], tmp_path / "run"))


def accuracies(run: Run) -> list[float]:
    return [record["validation_accuracy"] for record in run.trainer.history]


def model_of(folder: Path) -> dict[str, Tensor]:
    return RunFolder(folder).read_model()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    # The temperature is fitted at the end.
    assert all(torch.equal(value, expected[n]) for n, value in found.items() if n != "temperature")


def test_the_best_epoch_is_kept(spoilt: tuple[Path, Run, Spoil], copied: Path, stripes: ImageData) -> None:
    _, run, spoil = spoilt
    assert accuracies(run)[1] > max(accuracies(run)[2:])
    assert run.result["kept_epoch"] == 2
    assert run.result["epochs"] == 4
    assert run.result["validation_accuracy"] == accuracies(run)[1]
    measured = evaluate(run.network, run.trainer.data.test, mean=stripes.mean, std=stripes.std)
    assert run.test_accuracy == measured.accuracy
    looked_at = resumed_trainer(copied, data=stripes, writes=False).network.state_dict()
    in_memory = train(CONFIG, data=stripes, callbacks=[Spoil(*SPOILT)]).network.state_dict()
    loaded = load(copied).network.state_dict()
    for found in (run.network.state_dict(), in_memory, looked_at, model_of(copied), loaded):
        assert_same(found, spoil.at_end[1])


def test_the_last_is_kept_where_that_is_asked_for_or_nothing_is_validated(
    stripes: ImageData, tmp_path: Path
) -> None:
    cases = {
        "last": (replace(CONFIG, keep="last"), stripes),
        "nothing": (CONFIG, replace(stripes, validation=None)),
    }
    for name, (config, data) in cases.items():
        spoil = Spoil(*SPOILT)
        run = train(config, data=data, out=tmp_path / name, callbacks=[spoil])
        assert run.result["kept_epoch"] == run.result["epochs"] == 4
        assert run.result["validation_accuracy"] == run.trainer.history[-1]["validation_accuracy"]
        assert_same(run.network.state_dict(), spoil.at_end[3])
        assert_same(model_of(tmp_path / name), spoil.at_end[3])
    with pytest.raises(ValueError, match="keep 'first'"):
        RunConfig(keep="first")


def test_of_equals_the_latest_is_kept(stripes: ImageData) -> None:
    assert stripes.validation is not None
    one = replace(stripes, validation=stripes.validation.part(torch.arange(1)))
    run = train(replace(CONFIG, epochs=3), data=one)
    found = accuracies(run)
    best = [epoch for epoch, accuracy in enumerate(found, 1) if accuracy == max(found)]
    assert len(best) > 1
    assert run.result["kept_epoch"] == best[-1]


# Before the best epoch ends, and in the middle of the next.
@pytest.mark.parametrize(
    "stop",
    [
        2 * STEPS + 1,
        pytest.param(STEPS + 1, marks=pytest.mark.slow),
    ],
)
def test_it_is_kept_through_a_stop(
    stop: int, spoilt: tuple[Path, Run, Spoil], stripes: ImageData, tmp_path: Path
) -> None:
    whole_folder, whole, _ = spoilt
    callbacks = [Spoil(*SPOILT), StopAt(stop)]
    trainer = Trainer(CONFIG, data=stripes, folder=RunFolder(tmp_path), callbacks=callbacks)
    with pytest.raises(Interrupted):
        finish(trainer)
    again = go_on(tmp_path, data=stripes, callbacks=[Spoil(*SPOILT)])
    assert again.result["kept_epoch"] == whole.result["kept_epoch"] == 2
    assert_same(model_of(tmp_path), model_of(whole_folder))
    assert again.test_accuracy == whole.test_accuracy


class Terminate(Callback):
    """Sends this process SIGTERM at a step, or before the images of an epoch are scored."""

    def __init__(self, *, step: int = -1, scoring: int = -1) -> None:
        self.step, self.scoring = step, scoring

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_evaluation_begin(self, trainer: Trainer, images: int) -> None:
        if trainer.epochs_done + 1 == self.scoring:
            os.kill(os.getpid(), signal.SIGTERM)


# In the epoch behind the best one, at its last batch, and while the best one is scored.
@pytest.mark.parametrize(
    "moment",
    [
        {"step": 2 * STEPS + 1},
        pytest.param({"step": 3 * STEPS}, marks=pytest.mark.slow),
        {"scoring": 2},
    ],
)
def test_a_signal_leaves_early_stopping_as_it_was(
    moment: dict[str, int], stripes: ImageData, tmp_path: Path
) -> None:
    def callbacks() -> list[Callback]:
        return [Spoil(*SPOILT, 5 * STEPS), EarlyStopping(2)]

    config = replace(CONFIG, epochs=9)
    whole = train(config, data=stripes, out=tmp_path / "whole", callbacks=callbacks())
    trainer = Trainer(
        config,
        data=stripes,
        folder=RunFolder(tmp_path / "stopped"),
        callbacks=[*callbacks(), Terminate(**moment)],
    )
    with watched(trainer, Console(quiet=True)), pytest.raises(Interrupted):
        finish(trainer)
    again = go_on(tmp_path / "stopped", data=stripes, callbacks=callbacks())
    assert 2 < len(accuracies(whole)) < 9
    assert differences(tmp_path / "whole", tmp_path / "stopped") == []
    assert_same(again.network.state_dict(), whole.network.state_dict())


def test_more_epochs_go_on_from_the_last(stripes: ImageData, tmp_path: Path) -> None:
    base = get_method("pred")
    method = replace(base, optimizer=replace(base.optimizer, decay="constant"))
    config = replace(CONFIG, method=method)
    train(config, data=stripes, out=tmp_path / "run", callbacks=[Spoil(*SPOILT)])
    longer = go_on(tmp_path / "run", epochs=6, data=stripes)
    whole = train(replace(config, epochs=6), data=stripes, callbacks=[Spoil(*SPOILT)])
    assert accuracies(longer) == accuracies(whole)
    assert longer.result["kept_epoch"] == whole.result["kept_epoch"]
    assert_same(longer.network.state_dict(), whole.network.state_dict())
    with pytest.raises(ValueError, match="has trained 6 epochs already"):
        go_on(tmp_path / "run", epochs=5, data=stripes)


def test_it_is_brought_back_to_a_finished_run(
    spoilt: tuple[Path, Run, Spoil], copied: Path, stripes: ImageData
) -> None:
    again = go_on(copied, data=stripes)
    assert again.result["kept_epoch"] == 2
    assert again.test_accuracy == spoilt[1].test_accuracy
    assert_same(again.network.state_dict(), spoilt[1].network.state_dict())


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_lost_weights_are_said(
    damage: str, spoilt: tuple[Path, Run, Spoil], copied: Path, stripes: ImageData
) -> None:
    model = RunFolder(copied).model
    if damage == "missing":
        model.unlink()
    else:
        model.write_bytes(model.read_bytes()[:-8] + b"\0" * 8)
    with pytest.warns(UserWarning, match="the weights of the best epoch are lost"):
        again = go_on(copied, data=stripes)
    assert again.result["kept_epoch"] == 4
    assert_same(model_of(copied), spoilt[2].at_end[3])


class Poison(Callback):
    """Makes a weight infinite after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.learner.steps == self.step:
            with torch.no_grad():
                next(trainer.network.blocks[1].parameters()).fill_(torch.inf)


def test_a_divergence_leaves_the_best_so_far(stripes: ImageData, tmp_path: Path) -> None:
    spoil = Spoil(3 * STEPS - 1)
    with pytest.raises(DivergenceError):
        train(CONFIG, data=stripes, out=tmp_path, callbacks=[spoil, Poison(3 * STEPS + 1)])
    assert len(spoil.at_end) == 3
    assert_same(model_of(tmp_path), spoil.at_end[1])
    assert resumed_trainer(tmp_path, data=stripes).epochs_done == 3


def test_a_readout_is_chosen_for_the_weights_that_are_kept(stripes: ImageData) -> None:
    method = replace(get_method("superfecta"), readout="chosen")
    run = train(replace(CONFIG, method=method), data=stripes, callbacks=[Spoil(*SPOILT)])
    assert stripes.validation is not None
    scores = score(run.network, stripes.validation, mean=stripes.mean, std=stripes.std)
    chosen = choose_blocks(run.network, stripes.validation.labels, scores)
    assert run.network.readout_blocks == chosen
    assert run.result["kept_epoch"] == 2


def test_early_stopping_keeps_the_best(stripes: ImageData) -> None:
    spoil = Spoil(2 * STEPS, 3 * STEPS - 1, 4 * STEPS - 1)
    config = replace(CONFIG, epochs=9)
    run = train(config, data=stripes, callbacks=[spoil, EarlyStopping(2)])
    kept = run.result["kept_epoch"]
    assert accuracies(run)[kept - 1] == max(accuracies(run))
    assert_same(run.network.state_dict(), spoil.at_end[kept - 1])


class KillAfter(Callback):
    """Ends the process when an epoch has its checkpoint, before anything else hears of it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, trainer: Trainer, record: dict[str, object]) -> None:
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_early_does_not_grow_when_it_is_resumed(
    stripes: ImageData, tmp_path: Path
) -> None:
    def callbacks() -> list[Callback]:
        return [Spoil(*SPOILT), EarlyStopping(1)]

    whole = train(replace(CONFIG, epochs=9), data=stripes, out=tmp_path / "whole", callbacks=callbacks())
    last = len(whole.trainer.history)
    assert last < 9
    for name in ("killed", "whole"):
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                train(
                    replace(CONFIG, epochs=9),
                    data=stripes,
                    out=tmp_path / name,
                    callbacks=[KillAfter(last), *callbacks()],
                )
        again = go_on(tmp_path / name, data=stripes, callbacks=callbacks())
        assert accuracies(again) == accuracies(whole)
        assert again.result["kept_epoch"] == whole.result["kept_epoch"]
        assert_same(model_of(tmp_path / name), whole.network.state_dict())


def test_an_estimator_that_stops_early_has_its_best_weights() -> None:
    rows, labels = load_wine(return_X_y=True)
    estimator = TrifectaClassifier(
        width=0.02, epochs=200, early_stopping=True, validation_fraction=0.3, patience=5, random_state=1
    )
    estimator.fit(rows, labels)
    found = [record["validation_accuracy"] for record in estimator.history_]
    assert len(found) < 200
    # Scored anew on the rows that were held out.
    assert estimator.score(rows, labels) >= max(found) - 0.05
