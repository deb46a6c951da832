"""Faults that are really injected: damaged and missing files, full disks, kills, two at once."""

import json
import random
import re
import resource
import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from command import run as run_command
from stopping import StopAt
from trifecta._utils.files import StorageError, tensor_checksum, write_atomically
from trifecta.cli import main
from trifecta.data import DataConfig, ImageData
from trifecta.launch import _new_folder
from trifecta.training import (
    Callback,
    Interrupted,
    Run,
    RunConfig,
    RunFolder,
    Trainer,
    load,
    resume,
    train,
    trainer,
)
from trifecta.training.run import finish

SMALL = RunConfig(method="pred", width=0.05, epochs=4, batch_size=60, precision="fp32")
BIT_FLIPS = 15


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if "second" not in k} for r in records]


def assert_equal_runs(one: Run, other: Run) -> None:
    tensors = other.network.state_dict()
    assert all(torch.equal(t, tensors[name]) for name, t in one.network.state_dict().items())
    assert untimed(one.trainer.history) == untimed(other.trainer.history)
    assert one.test_accuracy == other.test_accuracy


@pytest.fixture(scope="module")
def finished(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of four epochs."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    return folder, train(SMALL, data=stripes, out=folder)


@pytest.fixture(scope="module")
def half(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after batch 10 of 16: two epochs and a half."""
    folder = tmp_path_factory.mktemp("faults") / "run"
    trainer = Trainer(
        replace(SMALL, data=None), folder=RunFolder(folder), data=stripes, callbacks=[StopAt(10)]
    )
    with pytest.raises(Interrupted):
        finish(trainer)
    return folder


@pytest.fixture
def stopped(half: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(half, tmp_path / "run"))


def flip_bit(file: Path, where: random.Random) -> None:
    content = bytearray(file.read_bytes())
    position = where.randrange(8 * len(content))
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)


def test_a_flipped_bit_in_a_checkpoint_changes_no_result(
    half: Path, finished: tuple[Path, Run], stripes: ImageData, tmp_path: Path
) -> None:
    """It is told and the checkpoint before it used, or it was in a part that is not read."""
    where = random.Random(0)
    told = 0
    for _ in range(3):
        copy = Path(shutil.copytree(half, tmp_path / "run"))
        flip_bit(copy / "checkpoint/state.pt", where)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            continued = resume(copy, data=stripes)
        told += any("state.pt" in str(warning.message) for warning in caught)
        assert_equal_runs(continued, finished[1])
        shutil.rmtree(copy)
    assert told


def test_a_flipped_bit_in_the_weights_is_told_or_changes_none(
    finished: tuple[Path, Run], tmp_path: Path
) -> None:
    where, copy = random.Random(1), Path(shutil.copytree(finished[0], tmp_path / "run"))
    told, expected = 0, finished[1].network.state_dict()
    load(copy)
    whole = (copy / "model.safetensors").read_bytes()
    for _ in range(BIT_FLIPS):
        (copy / "model.safetensors").write_bytes(whole)
        flip_bit(copy / "model.safetensors", where)
        try:
            found = load(copy).network.state_dict()
        except ValueError as error:
            told += "model.safetensors" in str(error)
        else:
            assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert told > BIT_FLIPS / 2


def test_files_that_a_person_edited_are_used(
    stopped: Path, finished: tuple[Path, Run], stripes: ImageData
) -> None:
    """Also those of earlier versions, which carried checksums."""
    config, history = stopped / "config.yaml", stopped / "history.jsonl"
    config.write_text("# the good one\n" + config.read_text() + "# crc32 00000000\n")
    records = [json.loads(line) for line in history.read_text().splitlines()]
    history.write_text("".join(f"{json.dumps({**r, 'note': 'x', 'crc32': '0'})}\n" for r in records))
    assert [record["note"] for record in RunFolder(stopped).read_history()] == ["x", "x"]
    assert_equal_runs(resume(stopped, data=stripes), finished[1])
    result = stopped / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "note": "x", "crc32": "0"}, indent=4))
    assert RunFolder(stopped).read_result()["note"] == "x"
    names = load(stopped).predict(stripes.test.images)
    assert names == [stripes.classes[k] for k in finished[1].test.predicted]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("history.jsonl", "{", "history.jsonl, line 1 is not JSON"),
        ("history.jsonl", "3", "history.jsonl, line 1 is not a JSON object"),
        (
            "history.jsonl",
            '{"epoch": 1, "seconds": "x"}',
            "history.jsonl, line 1: expected float, received .x. .in seconds",
        ),
        ("result.json", "{}", "result.json: expected float, received None"),
        ("config.yaml", "width: [", "cannot read settings from .*config.yaml"),
        ("config.yaml", "wdth: 1", "config.yaml: .*wdth"),
    ],
)
def test_contents_that_cannot_be_read_are_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    folder = RunFolder(tmp_path)
    read: dict[str, Callable[[], object]] = {
        "history": folder.read_history,
        "result": folder.read_result,
        "config": folder.read_config,
    }
    with pytest.raises(ValueError, match=told):
        read[name.partition(".")[0]]()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.double(), "float64"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: t.flatten(), "this run's is"),
    ],
)
def test_weights_that_no_network_has_are_refused_by_name(
    finished: tuple[Path, Run], tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "run"))
    name = "blocks.2.weights.weight"
    tensors = load_file(copy / "model.safetensors")
    tensors[name] = change(tensors[name] + 1)
    save_file(tensors, copy / "model.safetensors", {"crc32": tensor_checksum(tensors)})
    with pytest.raises(ValueError, match=rf"model.safetensors.*{name}.*{told}"):
        load(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position", None),
        ("history", []),
        ("history", [{"epoch": 1}, {"epoch": 2}]),
        ("total_seconds", []),
        ("network", 7),
        ("learner", {}),
        ("learner", "none"),
        ("meter", {"losses": torch.zeros(2)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(
    stopped: Path, stripes: ImageData, field: str, value: object
) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {field: value}, file)
    with pytest.raises(ValueError, match=r"state.pt is not this run's"):
        resume(stopped, data=stripes)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor[:1].expand_as(tensor),
        lambda tensor: tensor.repeat(2, 1)[: len(tensor)],
        torch.nn.Parameter,
    ],
    ids=["meta", "sparse", "expanded", "part", "parameter"],
)
def test_a_tensor_that_no_run_writes_is_refused_by_name(
    change: Callable[[torch.Tensor], torch.Tensor], stopped: Path, stripes: ImageData
) -> None:
    folder = RunFolder(stopped)
    state = torch.load(folder.checkpoint, weights_only=True)
    name = next(name for name, tensor in state["network"].items() if tensor.ndim == 4)
    state["network"][name] = change(state["network"][name].flatten(1))
    torch.save(state, folder.checkpoint)
    folder.previous.unlink()
    with pytest.raises(ValueError, match=rf"network\.{name} is not a plain tensor"):
        resume(stopped, data=stripes)


def test_an_optimizer_s_state_of_another_shape_is_refused(stopped: Path, stripes: ImageData) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    (values, *_) = state["learner"]["optimizers"][1]["state"].values()
    name = next(name for name, value in values.items() if value.ndim)
    values[name] = values[name][:1].clone()
    torch.save(state, file)
    with pytest.raises(ValueError, match=rf"state.pt is not this run's: {name} is"):
        resume(stopped, data=stripes)


@pytest.mark.parametrize("begins", [b"", (2**32).to_bytes(8, "little")])
def test_a_huge_file_of_weights_is_refused_before_it_is_read(
    finished: tuple[Path, Run], tmp_path: Path, begins: bytes
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "run"))
    with (copy / "model.safetensors").open("wb") as file:
        file.write(begins)
        file.truncate(2**33)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"cannot read .*model.safetensors"):
        load(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


@pytest.mark.parametrize("left", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1))])
def test_a_history_that_was_lost_or_cut_comes_back(
    stopped: Path, finished: tuple[Path, Run], stripes: ImageData, left: int | None
) -> None:
    history = stopped / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    history.unlink()
    if left is not None:
        history.write_text("".join(lines[:left]))
    assert_equal_runs(resume(stopped, data=stripes), finished[1])
    assert len(RunFolder(stopped).read_history()) == RunFolder(stopped).read_result()["epochs"] == 4


def test_a_lost_checkpoint_is_named(stopped: Path, stripes: ImageData) -> None:
    shutil.rmtree(stopped / "checkpoint")
    with pytest.raises(ValueError, match=r"state.pt is missing"):
        resume(stopped, data=stripes)


class FullDisk(Callback):
    """From an epoch on, no file may be larger than so many bytes."""

    def __init__(self, epoch: int, limit: int) -> None:
        self.epoch, self.limit = epoch, limit

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        if epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize("limit", [2_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 12_000))])
def test_a_full_disk_leaves_the_last_checkpoint(
    finished: tuple[Path, Run], stripes: ImageData, tmp_path: Path, limit: int
) -> None:
    run = tmp_path / "run"
    try:
        with pytest.raises(StorageError, match=r"cannot write .*run/.*safe up to its last checkpoint"):
            train(SMALL, data=stripes, out=run, callbacks=[FullDisk(3, limit)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not list(run.rglob("*.tmp"))
    assert_equal_runs(resume(run, data=stripes), finished[1])


def test_a_full_disk_has_an_exit_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--network", "mlp", "--width", "0.02", "--epochs", "1", "--precision", "fp32"]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))
        status, _, error = run_command(
            capsys, "train", "--data", "digits", "--out", tmp_path / "run", *small
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    last = error.splitlines()[-1]
    assert (status, "Traceback" in error) == (3, False), error
    assert "cannot write" in last
    assert "nothing had been trained yet" in last


def test_a_folder_that_vanishes_is_named(stripes: ImageData, tmp_path: Path) -> None:
    class Vanish(Callback):
        def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
            if epoch == 2:
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(StorageError, match=r"cannot write .*run"):
        train(SMALL, data=stripes, out=tmp_path / "run", callbacks=[Vanish()])


def test_leftovers_of_a_kill_are_swept(
    stopped: Path, finished: tuple[Path, Run], stripes: ImageData
) -> None:
    leftovers = [stopped / f".config.yaml.{'0' * 32}.tmp", stopped / f"checkpoint/.state.pt.{'a' * 32}.tmp"]
    for file in leftovers:
        file.write_text("half")
    assert_equal_runs(resume(stopped, data=stripes), finished[1])
    assert not any(file.exists() for file in leftovers)


def test_what_is_written_is_old_or_new(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def half_way(path: Path) -> None:
        path.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot write .*file: No space left"):
        write_atomically(file, half_way)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


class Meet(Callback):
    """Waits within the first epoch until somebody else has tried."""

    def __init__(self, attempt: Callable[[], object]) -> None:
        self.attempt = attempt
        self.errors: list[str] = []

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        if epoch == 3:
            # Another process holds the folder as another thread does.
            other = threading.Thread(target=self._try)
            other.start()
            other.join()

    def _try(self) -> None:
        try:
            self.attempt()
        except ValueError as error:
            self.errors.append(str(error))


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused(
    finished: tuple[Path, Run], stripes: ImageData, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for attempt in (
        lambda: resume(run, data=stripes),
        lambda: train(SMALL, data=stripes, out=run),
        lambda: Trainer(SMALL, folder=RunFolder(run), data=stripes).fit(),
    ):
        meet = Meet(attempt)
        first = train(SMALL, data=stripes, out=run, callbacks=[meet])
        (error,) = meet.errors
        assert "another process is training in" in error or "not empty" in error
        assert_equal_runs(first, finished[1])
        shutil.rmtree(run)


def test_trainings_that_begin_at_once_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: _new_folder(RunConfig()), range(100)))
    assert len(set(names)) == 100


def test_a_run_stopped_while_it_reads_its_data_goes_on(
    stripes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, data=DataConfig(source=str(stripes_folder)))

    def stop(config: DataConfig) -> ImageData:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "load_data", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, out=tmp_path / "run")
    with pytest.raises(ValueError, match="stopped before it began to train: resume it"):
        load(tmp_path / "run")
    with pytest.raises(ValueError, match="not empty; choose another one, or resume"):
        train(config, out=tmp_path / "run")
    assert_equal_runs(resume(tmp_path / "run"), train(config))


def test_a_run_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    config = replace(SMALL, data=DataConfig(source=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match="no folder"):
        train(config, out=tmp_path / "new/run")
    assert not (tmp_path / "new/run").exists()


def test_other_data_is_refused(stopped: Path, stripes: ImageData) -> None:
    own, fewer = stripes.train, replace(stripes, train=stripes.train.select(slice(0, -6)))
    permuted = torch.arange(len(own)).roll(1)
    changed = own.images.clone()
    changed[5, 0, 0, 0] += 1
    others = (
        fewer,
        replace(stripes, train=own.select(permuted)),
        replace(stripes, train=replace(own, images=changed)),
        replace(stripes, train=replace(own, labels=own.labels[permuted])),
        replace(stripes, test=stripes.test.select(slice(1, None))),
        replace(stripes, mean=(0.4,)),
        replace(stripes, classes=("a", "b", "c")),
        replace(stripes, rows="others", grey_range=(0, 9)),
    )
    for other in others:
        with pytest.raises(
            ValueError,
            match=r"data is not what .* was trained on: (its samples or labels|classes was|mean was)",
        ):
            resume(stopped, data=other)
    # As earlier versions wrote it.
    config = stopped / "config.yaml"
    config.write_text(re.sub(r"\n  checksum: .*", "", config.read_text()))
    assert "checksum" not in config.read_text()
    with pytest.raises(ValueError, match="the checkpoint has 4 steps per epoch, and the data has 3"):
        resume(stopped, data=fewer)
    resume(stopped, data=replace(stripes, train=replace(own, images=changed)))


def test_rows_in_another_order_are_other_data(tmp_path: Path) -> None:
    rows, labels = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    config = replace(SMALL, network="mlp", width=0.01, epochs=1, batch_size=20, data=None)
    first = train(config, data=(rows, labels), out=tmp_path / "run")
    order = torch.arange(60).roll(3)
    with pytest.raises(
        ValueError, match=r"the data is not what .*run was trained on: its samples or labels differ; give"
    ):
        resume(tmp_path / "run", data=(rows[order], labels), epochs=2)
    again = resume(tmp_path / "run", data=(rows.numpy().astype(float), labels.tolist()))
    assert again.test_accuracy == first.test_accuracy


def test_a_run_whose_data_moved_is_resumed(
    stripes_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, run = tmp_path / "images", tmp_path / "elsewhere", tmp_path / "run"
    for number, file in enumerate(sorted(stripes_folder.rglob("*.png"))):
        if number % 5 == 0:
            there = old / file.relative_to(stripes_folder)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)
    config = replace(SMALL, network="mlp", width=0.01, epochs=1, batch_size=20)
    config = replace(config, data=DataConfig(source=str(old)))
    train(config, out=run)
    old.rename(new)
    resume(run, epochs=2, data=new)
    assert RunFolder(run).read_config()[0].data == DataConfig(source=str(new))
    moved = min((new / "train/vertical").iterdir())
    moved.rename(new / "train/diagonal" / moved.name)
    command = ["train", "--resume", str(run), "--epochs", "3", "--data", str(new)]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert (
        f"the data is not what {run} was trained on: its samples or labels differ"
        in capsys.readouterr().err
    )
    (new / "train/diagonal" / moved.name).rename(moved)
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert len(RunFolder(run).read_history()) == 3
