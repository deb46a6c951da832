"""Runs: resuming equals never having stopped, divergence is named, the folder is complete."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from matrix import FEW, crossed
from stopping import StopAt
from trifecta.data import Augmentation, DataConfig, ImageData, ImageSet
from trifecta.methods import Method, get_method
from trifecta.network import build_network
from trifecta.training import (
    DivergenceError,
    Interrupted,
    Run,
    RunConfig,
    RunFolder,
    Trainer,
    evaluate,
    load_network,
    resume,
    train,
)
from trifecta.training.run import finish, resumed_trainer


def config_of(folder: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "data": DataConfig(source=str(folder)),
        "method": "pred",
        "width": 0.05,
        "epochs": 3,
        "batch_size": 40,
        "precision": "fp32",
        "augmentation": Augmentation(crop_padding=1, flip=True),
    }
    return RunConfig(**settings | changes)


RESULT_KEYS = {
    *("test_accuracy", "validation_accuracy", "block_accuracy", "epochs", "seconds", "images_per_second"),
    *("parameters", "peak_memory_bytes", "locality", "method", "network", "data", "seed", "device"),
    *("precision", "versions"),
}


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if "second" not in k} for r in records]


# In the first epoch, at the end of one, and in the middle of the last.
@pytest.mark.parametrize(
    ("method", "batches"),
    [
        *crossed((*FEW, "hcl-ff"), [12], quick=("superfecta", "rec-lra")),
        *(pytest.param("trifecta", batches, marks=pytest.mark.slow) for batches in (2, 5)),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    stripes_folder: Path, tmp_path: Path, method: str, batches: int
) -> None:
    config = config_of(stripes_folder, method=get_method(method))
    whole = train(config, out=tmp_path / "whole")
    trainer = Trainer(config, folder=RunFolder(tmp_path / "stopped"))
    trainer.callbacks.append(StopAt(batches))
    with pytest.raises(Interrupted):
        finish(trainer)
    continued = resume(tmp_path / "stopped")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    assert untimed(continued.trainer.history) == untimed(whole.trainer.history)
    assert continued.test_accuracy == whole.test_accuracy


@pytest.mark.parametrize("batches", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_with_a_pipeline_equals_one_without_stopped_or_not(
    stripes_folder: Path, tmp_path: Path, batches: int
) -> None:
    config = config_of(stripes_folder, method=get_method("trifecta"))
    serial = train(config)
    config = replace(config, pipeline=3)
    trainer = Trainer(config, folder=RunFolder(tmp_path / "stopped"))
    trainer.callbacks.append(StopAt(batches))
    with pytest.raises(Interrupted):
        finish(trainer)
    continued = resume(tmp_path / "stopped")
    assert continued.trainer.config.pipeline == 3
    weights = serial.network.state_dict()
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in continued.network.state_dict().items()
    )
    assert untimed(continued.trainer.history) == untimed(serial.trainer.history)
    assert continued.test_accuracy == serial.test_accuracy


def test_equal_seeds_give_equal_runs_and_others_do_not(stripes_folder: Path) -> None:
    first, again, other = (
        train(config_of(stripes_folder, epochs=1, seed=seed)).network.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.weights.weight"], other["blocks.0.weights.weight"])


@pytest.fixture(scope="module")
def finished(stripes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("trainer") / "run"
    return folder, train(config_of(stripes_folder, epochs=2), out=folder)


@pytest.fixture
def copied(finished: tuple[Path, Run], tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_the_folder_holds_what_the_contract_says(finished: tuple[Path, Run]) -> None:
    folder, run = finished
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
    checkpoint = {"checkpoint", "checkpoint/state.pt", "checkpoint/previous.pt", "checkpoint/lock"}
    assert files == {"config.yaml", "history.jsonl", "result.json", "model.safetensors", *checkpoint}
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for number, record in enumerate(history, 1):
        assert record["epoch"] == number
        assert record["seconds"] > 0
        assert record["images_per_second"] > 0
        assert len(record["loss"]) == len(record["block_accuracy"]) == 6
        assert 0 <= record["validation_accuracy"] <= 1
    result = json.loads((folder / "result.json").read_text())
    assert set(result) >= RESULT_KEYS
    assert result["test_accuracy"] == run.test_accuracy
    assert result["locality"] == "strict"


def test_the_folder_gives_the_network_back(finished: tuple[Path, Run]) -> None:
    folder, run = RunFolder(finished[0]), finished[1]
    assert folder.read_config()[0] == run.trainer.config
    network, facts = load_network(folder, torch.device("cpu"))
    again = evaluate(network, run.trainer.data.test, mean=facts.mean, std=facts.std, batch_size=7)
    assert again.accuracy == run.test_accuracy
    assert torch.equal(again.confusion, run.test.confusion)


def test_the_test_split_is_read_once_and_last(
    stripes: ImageData, stripes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config_of(stripes_folder), data=stripes)
    read: list[tuple[ImageSet, int]] = []
    original = Trainer.evaluate

    def noted(self: Trainer, images: ImageSet) -> Any:
        read.append((images, self.epochs_done))
        return original(self, images)

    monkeypatch.setattr(Trainer, "evaluate", noted)
    finish(trainer)
    test_reads = [epoch for images, epoch in read if images is trainer.data.test]
    assert test_reads == [3]
    assert read[-1][0] is trainer.data.test
    assert len(read) == 4


def test_no_validation_split_leaves_its_columns_empty(stripes_folder: Path) -> None:
    data = DataConfig(source=str(stripes_folder), validation=0)
    run = train(config_of(stripes_folder, epochs=1, data=data))
    assert run.trainer.data.validation is None
    assert run.trainer.history[0]["validation_accuracy"] is None
    assert run.result["validation_accuracy"] is None


@pytest.mark.parametrize("block", [0, 3])
def test_a_loss_that_is_not_finite_names_its_block_and_keeps_the_good_checkpoint(
    stripes_folder: Path, tmp_path: Path, block: int
) -> None:
    config = config_of(stripes_folder, method=get_method("ff"))
    trainer = Trainer(config, folder=RunFolder(tmp_path / "run"))

    class Poison(StopAt):
        def on_step_end(self, trainer: Trainer) -> None:
            self.left -= 1
            if self.left == 0:
                with torch.no_grad():
                    next(trainer.network.blocks[block].parameters()).fill_(float("nan"))

    trainer.callbacks.append(Poison(8))
    with pytest.raises(DivergenceError, match=rf"block {block} became nan at step 4 of epoch 2.*state\.pt"):
        finish(trainer)
    good = resumed_trainer(tmp_path / "run")
    assert good.epochs_done == 1
    assert all(p.isfinite().all() for p in good.network.parameters())
    model = load_file(tmp_path / "run/model.safetensors")
    assert all(t.isfinite().all() for t in model.values())


def test_a_checkpoint_of_another_network_is_refused(
    stripes_folder: Path, copied: Path, tmp_path: Path
) -> None:
    train(config_of(stripes_folder, epochs=1, width=0.1), out=tmp_path / "wide")
    checkpoint = Path("checkpoint/state.pt")
    (copied / checkpoint).write_bytes((tmp_path / "wide" / checkpoint).read_bytes())
    with pytest.raises(ValueError, match=r"holds another network: blocks\.0\.weights\.weight is \(13"):
        resume(copied, epochs=3)
    model = copied / "model.safetensors"
    model.write_bytes((tmp_path / "wide/model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="holds another network"):
        load_network(RunFolder(copied), torch.device("cpu"))


def test_a_checkpoint_of_another_version_is_refused(copied: Path) -> None:
    for file in (copied / "checkpoint/state.pt", copied / "checkpoint/previous.pt"):
        torch.save(torch.load(file, weights_only=True) | {"format": 0}, file)
    with pytest.raises(ValueError, match=r"another version of trifecta.*settings in config.yaml"):
        resume(copied, epochs=3)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(copied: Path, damage: bytes) -> None:
    checkpoint = copied / "checkpoint/state.pt"
    checkpoint.write_bytes(damage)
    (copied / "checkpoint/previous.pt").unlink()
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        resume(copied, epochs=3)
    assert checkpoint.read_bytes() == damage


def test_a_used_folder_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    config = RunConfig(data=DataConfig(source=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match=r"not empty; choose another one"):
        train(config, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_batch_larger_than_the_set_shrinks_to_it(stripes_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="there are 216 training images: a batch has all of them"):
        train(config_of(stripes_folder, batch_size=10_000, epochs=1), out=tmp_path / "run")
    config, _ = RunFolder(tmp_path / "run").read_config()
    assert config.batch_size == 216


@pytest.mark.parametrize(
    "method",
    [
        get_method("backprop"),
        get_method("rec-lra"),
        replace(get_method("trifecta"), negatives="hard"),
    ],
    ids=["one window", "network's error", "hard negatives"],
)
def test_a_pipeline_that_could_only_wait_is_said_to_be_ignored(
    method: Method, stripes_folder: Path
) -> None:
    config = config_of(stripes_folder, method=method, pipeline=2)
    with pytest.warns(UserWarning, match="pipeline is ignored: with .* waits for all others"):
        assert Trainer(config).pipeline is None
    assert Trainer(replace(config, method=get_method("trifecta"))).pipeline is not None


def test_a_read_out_is_chosen_on_validation_images_and_kept(stripes_folder: Path, tmp_path: Path) -> None:
    method = replace(get_method("class-groups"), readout="chosen")
    run = train(config_of(stripes_folder, method=method, width=0.1), out=tmp_path / "run")
    data, network = run.trainer.data, run.network
    assert data.validation is not None
    facts = run.trainer.facts

    def accuracy(blocks: tuple[int, ...]) -> float:
        network.readout_blocks = blocks
        assert data.validation is not None
        return evaluate(network, data.validation, mean=facts.mean, std=facts.std).accuracy

    chosen = network.readout_blocks
    ranges = [tuple(range(i, j + 1)) for i in range(6) for j in range(i, 6)]
    by_range = {blocks: accuracy(blocks) for blocks in ranges}
    assert by_range[chosen] == max(by_range.values())
    assert all(chosen[-1] >= blocks[-1] for blocks in ranges if by_range[blocks] == by_range[chosen])
    assert run.result["readout_blocks"] == list(chosen)
    loaded, _ = load_network(RunFolder(tmp_path / "run"), torch.device("cpu"))
    assert loaded.readout_blocks == chosen
    again = evaluate(loaded, data.test, mean=facts.mean, std=facts.std)
    assert again.accuracy == run.result["test_accuracy"]


@pytest.mark.slow
def test_named_read_outs_are_what_their_methods_would_have_read(stripes_folder: Path) -> None:
    for readout in ("last", "last-half", "all-but-first", "all"):
        method = replace(get_method("class-groups"), readout=readout)
        result = train(config_of(stripes_folder, method=method, epochs=1, width=0.1)).result
        assert result["test_accuracy"] == result["readout_accuracy"][readout]


def test_a_read_out_cannot_be_chosen_without_validation_images(stripes_folder: Path) -> None:
    method = replace(get_method("class-groups"), readout="chosen")
    data = DataConfig(source=str(stripes_folder), validation=0.0)
    with pytest.raises(ValueError, match=r"chosen on validation images: .*data.validation=0;"):
        config_of(stripes_folder, method=method, data=data)


def test_a_result_says_how_many_samples_of_each_class_there_were(stripes: ImageData) -> None:
    config = RunConfig(width=0.05, epochs=1, batch_size=60, method="pred")
    few = replace(stripes, train=stripes.train.select(torch.arange(61)), validation=None)
    counts = train(config, data=few).result["samples"]
    assert counts == {
        "train": {"vertical": 21, "horizontal": 20, "diagonal": 20},
        "test": {"vertical": 20, "horizontal": 20, "diagonal": 20},
    }


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("balanced", [240 / (3 * 120), 240 / (3 * 40), 240 / (3 * 80)]),
        ({"horizontal": 4}, [1.0, 4.0, 1.0]),
        ((0.5, 1, 2), [0.5, 1.0, 2.0]),
    ],
)
def test_classes_weigh_as_the_configuration_says(
    stripes: ImageData, weights: Any, expected: list[float]
) -> None:
    labels = torch.tensor([0] * 120 + [1] * 40 + [2] * 80)
    data = replace(stripes, train=ImageSet(stripes.train.images, labels))
    config = RunConfig(width=0.05, epochs=1, batch_size=60, class_weights=weights)
    head = Trainer(config, data=data).network.head(0)
    assert head.class_weights is not None
    torch.testing.assert_close(head.class_weights, torch.tensor(expected))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), "a number for each of 3 classes: received 2"),
        ({"horizntal": 2.0}, "unknown class in class_weights 'horizntal': did you mean horizontal"),
    ],
)
def test_weights_of_other_classes_are_refused(stripes: ImageData, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(RunConfig(width=0.05, class_weights=weights), data=stripes)


def test_weights_move_what_is_learnt_and_none_change_no_bit(stripes: ImageData) -> None:
    config = RunConfig(width=0.05, epochs=3, batch_size=40, precision="fp32", method="pred")
    noise = torch.randint(0, 3, (240,), generator=torch.Generator().manual_seed(0))
    data = replace(stripes, train=ImageSet(stripes.train.images, noise))
    plain, again, weighted = (
        train(replace(config, class_weights=weights), data=data)
        for weights in (None, None, (1.0, 1.0, 50.0))
    )
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    assert weighted.test.confusion[:, 2].sum() == 60
    assert plain.test.confusion[:, 2].sum() < 60


def test_what_a_run_would_ignore_or_cannot_take_is_refused(stripes: ImageData) -> None:
    named, test = RunConfig(data="digits"), (stripes.test.images, stripes.test.labels)
    with pytest.raises(ValueError, match=r"test=… goes with data=…"):
        train(named, test=test)
    with pytest.raises(ValueError, match=r"classes=… goes with data=…"):
        train(named, data=stripes, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="config is a RunConfig: received 'superfecta'"):
        train("superfecta", data=stripes)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"method is a Method: received 'pred'; get_method\(name\) makes one"
    ):
        build_network("pred", sample_shape=(1, 8, 8), num_classes=3)  # type: ignore[arg-type]
    tokens = torch.arange(60).view(20, 3)
    with pytest.raises(ValueError, match="networks with names take floats: received integer tokens"):
        train(RunConfig(network="mlp", batch_size=10), data=(tokens, torch.arange(20) % 2))
