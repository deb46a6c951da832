"""Faults that are really injected: damaged and missing files, full disks, kills, two at once."""

import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stopping import StopAt
from trifecta._utils import files as checksums
from trifecta._utils.files import StorageError, write_atomically
from trifecta.data import DataConfig, ImageData, ImageSet
from trifecta.training import Callback, Interrupted, Run, RunConfig, RunFolder, Trainer, load, resume, train
from trifecta.training.run import finish

SMALL = RunConfig(width=0.05, epochs=4, batch_size=60, precision="fp32")
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


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", lambda folder: load(folder.path)),
        ("history.jsonl", lambda folder: folder.read_history()),
        ("result.json", lambda folder: folder.read_result()),
    ],
)
def test_a_flipped_bit_is_refused_by_name(
    finished: tuple[Path, Run], tmp_path: Path, name: str, read: Callable[[RunFolder], object]
) -> None:
    where, whole = random.Random(1), (finished[0] / name).read_bytes()
    copy = Path(shutil.copytree(finished[0], tmp_path / "run"))
    read(RunFolder(copy))
    for _ in range(BIT_FLIPS):
        (copy / name).write_bytes(whole)
        flip_bit(copy / name, where)
        with pytest.raises(ValueError, match=name):
            read(RunFolder(copy))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t / 0, "not finite"),
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
    save_file(tensors, copy / "model.safetensors", {"crc32": checksums.of_tensors(tensors)})
    with pytest.raises(ValueError, match=rf"model.safetensors.*{name}.*{told}"):
        load(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position", {"epoch": 2, "batch": 99}),
        ("position", {"epoch": "two"}),
        ("position", None),
        ("history", []),
        ("history", "none"),
        ("network", 7),
        ("learner", {}),
        ("learner", "none"),
        ("meter", {"losses": torch.zeros(2)}),
        ("total_seconds", float("nan")),
    ],
)
def test_contents_that_are_not_the_run_s_are_refused_by_name(
    stopped: Path, stripes: ImageData, field: str, value: object
) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {field: value}, file)
    with pytest.raises(ValueError, match=rf"state.pt.*{field}"):
        resume(stopped, data=stripes)


@pytest.mark.parametrize(("field", "value"), [("skipped", ["two"]), ("skipped", 3), ("steps", "one")])
def test_a_learner_s_state_that_cannot_be_is_refused(
    stopped: Path, stripes: ImageData, field: str, value: object
) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    state["learner"][field] = value
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"state.pt.*learner"):
        resume(stopped, data=stripes)


def test_an_optimizer_s_state_of_another_shape_is_refused(stopped: Path, stripes: ImageData) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    (values, *_) = state["learner"]["optimizers"][1]["state"].values()
    name = next(name for name, value in values.items() if value.ndim)
    values[name] = values[name][:1].clone()
    torch.save(state, file)
    with pytest.raises(ValueError, match=rf"learner is not this run's \({name} is"):
        resume(stopped, data=stripes)


WEIGHT = "blocks.2.weights.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.to("meta"), "meta"),
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: t[:1].expand_as(t), "a view"),
        (lambda t: torch.stack([t, t], -1)[..., 0], "a view"),
        (lambda t: torch.cat([t, t])[len(t) :], "a view"),
        (torch.nn.Parameter, "a Parameter"),
        (lambda t: t.clone().requires_grad_(), "requires a gradient"),
        (torch._neg_view, "negated"),
    ],
)
def test_tensors_that_no_run_writes_are_refused_by_name(
    stopped: Path, stripes: ImageData, change: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    state["network"][WEIGHT] = change(state["network"][WEIGHT])
    torch.save(state, file)
    with pytest.raises(ValueError, match=rf"state.pt: network.{WEIGHT} is .*{told}"):
        resume(stopped, data=stripes)


def test_an_optimizer_s_state_that_is_no_number_is_refused(stopped: Path, stripes: ImageData) -> None:
    file = stopped / "checkpoint/state.pt"
    state = torch.load(file, weights_only=True)
    kept = [v for o in state["learner"]["optimizers"].values() for v in o["state"].values()]
    values = next(v for v in kept if "exp_avg" in v)
    values["exp_avg"] = values["exp_avg"] / 0
    torch.save(state, file)
    with pytest.raises(
        ValueError, match=r"state.pt: learner is not this run's \(exp_avg has values that are not finite"
    ):
        resume(stopped, data=stripes)


HUGE = 2**33


@pytest.mark.parametrize(
    ("name", "begins", "read"),
    [
        ("model.safetensors", b"", lambda folder: load(folder.path)),
        ("model.safetensors", (2**32).to_bytes(8, "little"), lambda folder: load(folder.path)),
        ("config.yaml", b"", lambda folder: folder.read_config()),
        ("history.jsonl", b"", lambda folder: folder.read_history()),
        ("result.json", b"", lambda folder: folder.read_result()),
    ],
)
def test_a_huge_file_is_refused_before_it_is_read(
    finished: tuple[Path, Run],
    tmp_path: Path,
    name: str,
    begins: bytes,
    read: Callable[[RunFolder], object],
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "run"))
    with (copy / name).open("wb") as file:
        file.write(begins)
        file.truncate(HUGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"cannot read .*{name}"):
        read(RunFolder(copy))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


def test_a_million_names_are_refused_before_they_are_read(
    finished: tuple[Path, Run], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(finished[0], tmp_path / "run"))
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = ("{" + ",".join(entry.format(k) for k in range(10**6)) + "}").encode()
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"cannot read .*model.safetensors: its header is said to have"):
        load(copy)


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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        continued = resume(stopped, data=stripes)
    # One epoch less is what a kill between two files leaves.
    assert any("history.jsonl" in str(w.message) for w in caught) == (left != 1)
    assert_equal_runs(continued, finished[1])
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


@pytest.mark.slow
def test_a_full_disk_has_an_exit_status_of_its_own(tmp_path: Path) -> None:
    program = (
        "import resource\nfrom trifecta.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, -1))\n"
        f"main(['train', '--data', 'digits', '--out', {str(tmp_path / 'run')!r}, "
        "'--width', '0.05', '--epochs', '1', '--precision', 'fp32'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
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


@pytest.mark.slow
def test_processes_that_begin_at_once_have_a_folder_each(tmp_path: Path) -> None:
    program = (
        "from trifecta.cli.actions.train import _new_folder\nfrom trifecta.training import RunConfig\n"
        "print(*(_new_folder(RunConfig()) for _ in range(50)))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    names = " ".join(process.communicate()[0] for process in processes).split()
    assert len(names) == len(set(names)) == 100


def test_a_run_stopped_while_it_reads_its_data_goes_on(
    stripes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, data=DataConfig(source=str(stripes_folder)))

    def stop(config: RunConfig) -> ImageData:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trifecta.training.trainer.loaded", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"stopped before it began to train.*--resume"):
        load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"--resume"):
        train(config, out=tmp_path / "run")
    assert_equal_runs(resume(tmp_path / "run"), train(config))


def test_a_run_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    config = replace(SMALL, data=DataConfig(source=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match="no folder"):
        train(config, out=tmp_path / "new/run")
    assert not (tmp_path / "new/run").exists()


def test_other_data_is_refused(stopped: Path, stripes: ImageData) -> None:
    fewer = ImageSet(stripes.train.images[:-6], stripes.train.labels[:-6])
    for other in (replace(stripes, mean=(0.4,)), replace(stripes, classes=("a", "b", "c"))):
        with pytest.raises(ValueError, match=r"the data is not what .* was trained on: (mean|classes) was"):
            resume(stopped, data=other)
    with pytest.raises(ValueError, match=r"state.pt: (meter|position)"):
        resume(stopped, data=replace(stripes, train=fewer))


def test_a_line_of_another_epoch_is_refused(finished: tuple[Path, Run], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = [json.loads(line) for line in (finished[0] / "history.jsonl").read_text().splitlines()]
    folder.write_history([{k: v for k, v in record.items() if k != "crc32"} for record in records[1:]])
    with pytest.raises(ValueError, match=r"history.jsonl is not a run's history: epoch 1 is missing"):
        folder.read_history()


def test_seconds_that_are_none_are_refused(finished: tuple[Path, Run], tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(finished[0], tmp_path / "run")))
    records = [{**record, "evaluation_seconds": None} for record in folder.read_history()]
    folder.write_history(records)
    with pytest.raises(ValueError, match="epoch 1: evaluation_seconds is None"):
        folder.read_history()
