"""``auto`` takes the faster precision, changes nothing of the run by finding out, and keeps to it."""

import contextlib
import copy
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from command import run
from stopping import StopAt
from trifecta._utils.precision import kept_precision, narrow_precision
from trifecta.bench import setting as setting_module
from trifecta.bench.setting import Setting
from trifecta.building import build_network
from trifecta.data import DataConfig, ImageData
from trifecta.learning import Learner
from trifecta.learning.precision_timing import PrecisionTimes, _time, time_precisions
from trifecta.methods import Method, get_method
from trifecta.network import LocalNetwork
from trifecta.schedules import END_TO_END
from trifecta.training import Interrupted, RunConfig, RunFolder, Trainer, resume, train
from trifecta.training.precision_choice import run_precision
from trifecta.training.run import finish, resumed_trainer

SHAPE, CLASSES = (1, 8, 8), 3
CPU = torch.device("cpu")
Times = Callable[[Learner, int], PrecisionTimes]


def have_bfloat16(monkeypatch: pytest.MonkeyPatch, *, hardware: bool = True) -> None:
    """Whatever this machine has: without hardware bf16 is slow here, and right."""
    monkeypatch.setattr("trifecta._utils.precision.has_bfloat16", lambda _: hardware)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has both precisions."""
    have_bfloat16(monkeypatch)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty at first."""
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def timed_as(monkeypatch: pytest.MonkeyPatch, times: Times) -> list[int]:
    """Let ``times`` stand for the timing; returns the batch sizes that it was asked for."""
    asked: list[int] = []

    def stand_in(learner: Learner, batch_size: int) -> PrecisionTimes:
        asked.append(batch_size)
        return times(learner, batch_size)

    monkeypatch.setattr("trifecta.learning.learner.time_precisions", stand_in)
    monkeypatch.setattr("trifecta.training.precision_choice.time_precisions", stand_in)
    return asked


def really(winner: str) -> Times:
    """Time for real, then let ``winner`` be the faster."""

    def times(learner: Learner, batch_size: int) -> PrecisionTimes:
        time_precisions(learner, batch_size)
        return WON[winner]

    return times


WON = {
    "fp32": PrecisionTimes(fp32_ms=1.0, bf16_ms=2.0),
    "bf16": PrecisionTimes(fp32_ms=2.0, bf16_ms=1.0),
}


def never(learner: Learner, batch_size: int) -> PrecisionTimes:
    raise AssertionError("nothing is to be timed here")


def config_of(folder: Path, method: str = "trifecta", **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "data": DataConfig(source=str(folder)),
        "method": get_method(method),
        "width": 0.05,
        "epochs": 1,
        "batch_size": 20,
    }
    return RunConfig(**settings | changes)


class Noise(nn.Module):
    """Draws from PyTorch's global random numbers, and counts what it has seen."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
            return nn.functional.dropout(x, 0.1)
        return x


class Sleeper(nn.Module):
    """Takes a while in one precision."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu") == (self.slow == "bf16"):
            time.sleep(0.02)
        return x


def network_with(extra: nn.Module, base: Method | None = None) -> LocalNetwork:
    base = get_method("superfecta") if base is None else base
    built = build_network(base, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05)
    blocks = [nn.Sequential(built.blocks[0], extra), *list(built.blocks)[1:]]
    return LocalNetwork(blocks, base, sample_shape=SHAPE, num_classes=CLASSES)


def learner_of(network: LocalNetwork, precision: str = "auto") -> Learner:
    return Learner(network, generator=torch.Generator().manual_seed(4), precision=precision, total_steps=9)


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(size, *SHAPE, generator=draw), torch.arange(size) % CLASSES


def equal(one: LocalNetwork, other: LocalNetwork) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(("slow", "fast"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_the_faster_precision_is_found(slow: str, fast: str) -> None:
    learner = learner_of(network_with(Sleeper(slow)))
    times = time_precisions(learner, 12)
    assert times.faster == fast
    assert times.fp32_ms is not None
    assert times.bf16_ms is not None
    learner.step(*batch())
    assert learner.precision == fast


@pytest.mark.usefixtures("both")
def test_windows_after_the_first_count_where_they_take_little_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first block alone says little of a network whose others are slow."""
    monkeypatch.setattr("trifecta.learning.precision_timing.PASS_SECONDS", 60.0)
    method = get_method("ff")
    channels, *_ = method.input_shape(SHAPE, CLASSES)
    blocks = [nn.Conv2d(channels, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), Sleeper("fp32"))]
    learner = learner_of(LocalNetwork(blocks, method, sample_shape=SHAPE, num_classes=CLASSES))
    assert time_precisions(learner, 12).faster == "bf16"


def test_a_device_without_bf16_takes_fp32_at_once(
    stripes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_bfloat16(monkeypatch, hardware=False)
    timed_as(monkeypatch, never)
    result = train(config_of(stripes_folder)).result
    assert (result["precision"], result["precision_choice"]) == ("fp32", None)
    assert narrow_precision("auto", torch.device("mps")) == "fp32"
    assert Setting(width=0.05).resolved_precision == "fp32"


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_user_chose_is_not_timed(
    precision: str, stripes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_as(monkeypatch, never)
    result = train(config_of(stripes_folder, precision=precision)).result
    assert (result["precision"], result["precision_choice"]) == (precision, None)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("method", "winner"),
    [
        ("trifecta", "fp32"),
        pytest.param("superfecta", "bf16", marks=pytest.mark.slow),
        pytest.param("rec-lra", "fp32", marks=pytest.mark.slow),
        pytest.param("scff", "bf16", marks=pytest.mark.slow),
        pytest.param("backprop", "fp32", marks=pytest.mark.slow),
    ],
)
def test_timing_changes_nothing_of_a_run(
    method: str, winner: str, stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of ``auto`` are, to the bit, those of the precision that it came to."""
    asked = timed_as(monkeypatch, really(winner))
    chosen, told = (
        Trainer(config_of(tmp_path, method, precision=precision), data=stripes)
        for precision in ("auto", winner)
    )
    for trainer in (chosen, told):
        trainer.fit()
    assert asked == [20]
    assert chosen.learner.precision == winner
    assert equal(chosen.network, told.network)
    assert chosen.history[0]["loss"] == told.history[0]["loss"]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(("normalization", "negatives"), [("batch", "uniform"), ("running", "hard")])
def test_timing_leaves_no_trace(normalization: str, negatives: str) -> None:
    """Not in weights, buffers, gradients, optimizers or any random numbers."""
    method = replace(get_method("trifecta"), normalization=normalization, negatives=negatives)
    network = network_with(Noise(), method)
    learner = learner_of(network.eval())
    before = copy.deepcopy(network)
    assert learner.generator is not None
    draws = (learner.generator.get_state(), torch.get_rng_state(), random.getstate())
    time_precisions(learner, 12)
    assert equal(network, before)
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not optimizer.state for optimizer in learner.optimizers.values())
    assert (learner.steps, learner.precision) == (0, "auto")
    assert torch.equal(learner.generator.get_state(), draws[0])
    assert torch.equal(torch.get_rng_state(), draws[1])
    assert random.getstate() == draws[2]
    assert network.method.negatives == negatives


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("winner", ["fp32", "bf16"])
def test_a_learner_of_its_own_chooses_at_its_first_step(
    winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed_as(monkeypatch, really(winner))
    network = network_with(Noise())
    one, other = learner_of(network), learner_of(copy.deepcopy(network), winner)
    for learner in (one, other):
        torch.manual_seed(3)
        for _ in range(3):
            learner.step(*batch())
    assert asked == [12]
    assert one.precision == winner
    assert equal(one.network, other.network)
    # What goes on from there, does so in the same precision.
    timed_as(monkeypatch, never)
    continued = learner_of(copy.deepcopy(network))
    continued.load_state_dict(one.state_dict())
    assert continued.precision == winner


@pytest.mark.usefixtures("both")
def test_where_memory_is_not_enough_bf16_is_taken_and_nothing_kept(
    stripes_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> int:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr("trifecta.learning.precision_timing._Trial.warm_up", too_much)
    result = train(config_of(stripes_folder)).result
    assert result["precision"] == "bf16"
    assert result["precision_choice"] == {"fp32_ms": None, "bf16_ms": None, "cached": False}
    assert list(cache.glob("precision-*")) == []


@pytest.mark.usefixtures("both")
def test_the_choice_is_known_to_the_next_run_like_it(
    stripes_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(stripes_folder)
    asked = timed_as(monkeypatch, lambda *_: WON["bf16"])
    first, again = train(config).result, train(replace(config, seed=1)).result
    assert first["precision_choice"] == {"fp32_ms": 2.0, "bf16_ms": 1.0, "cached": False}
    assert again["precision_choice"] == {"fp32_ms": 2.0, "bf16_ms": 1.0, "cached": True}
    assert first["precision"] == again["precision"] == "bf16"
    (file,) = cache.glob("precision-*.json")
    assert json.loads(file.read_text())["precision"] == "bf16"
    assert asked == [20]


@pytest.mark.usefixtures("both")
def test_a_choice_that_was_not_clear_is_not_kept(
    stripes: ImageData, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the machine did other work at the same time."""
    asked = timed_as(monkeypatch, lambda *_: replace(WON["bf16"], is_clear=False))
    for count in (1, 2):
        trainer = Trainer(config_of(tmp_path), data=stripes)
        trainer.fit()
        assert trainer.learner.precision == "bf16"
        assert len(asked) == count
    assert list(cache.glob("precision-*")) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # fp32 and bf16 by turns.
        ([4, 2, 4, 2], (4000, 2000, True)),
        ([2, 4, 2, 4], (2000, 4000, True)),
        ([4, 2, 4, 9, 4, 3], (4000, 3000, False)),
        ([2.0, 2.1, 2.1, 2.0], (2050, 2050, True)),
        ([0.1, 0.2] * 15, (100, 200, True)),
    ],
)
def test_rounds_go_on_until_they_agree_or_are_many(
    seconds: list[float], expected: tuple[float, float, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, clock = iter(seconds), [0.0]

    class Trial:
        def warm_up(self) -> int:
            return 1

        def seconds(self, precision: str, windows: int) -> float:
            taken = next(turns)
            # Short passes fill no budget here, so that only their number ends them.
            clock[0] += taken if taken > 1 else 0
            return taken

    monkeypatch.setattr("trifecta.learning.precision_timing.perf_counter", lambda: clock[0])
    times = _time(Trial())  # type: ignore[arg-type]
    assert (times.fp32_ms, times.bf16_ms, times.is_clear) == pytest.approx(expected)
    assert list(turns) == []


@pytest.mark.usefixtures("both")
@pytest.mark.slow
def test_another_workload_machine_or_version_is_timed_anew(
    stripes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(stripes_folder)
    asked = timed_as(monkeypatch, lambda *_: WON["fp32"])
    end_to_end = replace(config.method, schedule=END_TO_END)
    others: list[dict[str, Any]] = [
        {"batch_size": 12},
        {"width": 0.1},
        {"network": "mlp"},
        {"method": end_to_end},
    ]
    configs = [config, *(replace(config, **changes) for changes in others)]
    for count, other in enumerate(configs, 1):
        Trainer(other).fit()
        assert len(asked) == count
    where = "trifecta.training.precision_choice"
    for name, value in (
        ("versions", lambda: {"torch": "9"}),
        ("describe_device", lambda _: "another"),
        ("torch.get_num_threads", lambda: 99),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{where}.{name}", value)
            count = len(asked)
            Trainer(config).fit()
            assert len(asked) == count + 1
    Trainer(config).fit()
    assert len(asked) == count + 1


@pytest.mark.usefixtures("both")
@pytest.mark.slow
def test_the_terminal_says_whether_a_precision_was_measured(
    stripes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    timed_as(monkeypatch, lambda *_: WON["bf16"])
    arguments = ["train", "--data", str(stripes_folder), "--width", "0.05", "--epochs", "1"]
    status, out, _ = run(capsys, *arguments, "--out", tmp_path / "auto")
    assert status == 0
    assert "bf16 as measured on " in out
    _, out, _ = run(capsys, *arguments, "--out", tmp_path / "told", "--precision", "fp32")
    assert "fp32 on " in out


DAMAGE = ["{", '{"fp32_ms": NaN, "bf16_ms": 1}']


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_timed_anew(
    damage: str, stripes_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(stripes_folder)
    asked = timed_as(monkeypatch, lambda *_: WON["bf16"])
    Trainer(config).fit()
    (file,) = cache.glob("precision-*.json")
    whole = file.read_bytes()
    file.write_text(damage)
    trainer = Trainer(config)
    trainer.fit()
    assert len(asked) == 2
    assert trainer.precision_choice == {"fp32_ms": 2.0, "bf16_ms": 1.0, "cached": False}
    assert file.read_bytes() == whole


@pytest.mark.usefixtures("both")
def test_a_cache_that_cannot_be_written_is_no_error(
    stripes: ImageData, stripes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "file/cache"))
    timed_as(monkeypatch, lambda *_: WON["bf16"])
    trainer = Trainer(config_of(stripes_folder), data=stripes)
    trainer.fit()
    assert trainer.learner.precision == "bf16"


def stopped(config: RunConfig, out: Path) -> None:
    trainer = Trainer(config, folder=RunFolder(out))
    trainer.callbacks.append(StopAt(3))
    with pytest.raises(Interrupted):
        finish(trainer)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("winner", ["bf16"])
def test_a_resumed_run_keeps_its_precision_and_times_nothing(
    winner: str, stripes_folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = config_of(stripes_folder), tmp_path / "run"
    timed_as(monkeypatch, lambda *_: WON[winner])
    stopped(config, out)
    for file in cache.glob("precision-*"):
        file.unlink()
    timed_as(monkeypatch, never)
    resumed = resume(out)
    assert equal(resumed.network, train(replace(config, precision=winner)).network)
    choice = {"fp32_ms": WON[winner].fp32_ms, "bf16_ms": WON[winner].bf16_ms, "cached": False}
    assert (resumed.result["precision"], resumed.result["precision_choice"]) == (winner, choice)
    assert RunFolder(out).read_config()[0] == config
    assert run_precision(RunFolder(out), CPU) == winner
    assert run_precision(RunFolder(out), CPU, "auto") == winner
    assert [run_precision(RunFolder(out), CPU, other) for other in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="received 'fp8'"):
        run_precision(RunFolder(out), CPU, "fp8")


def test_bf16_goes_on_in_fp32_with_a_warning_where_there_is_none(
    stripes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_as(monkeypatch, lambda *_: WON["bf16"])
    have_bfloat16(monkeypatch)
    stopped(config_of(stripes_folder), tmp_path / "run")
    have_bfloat16(monkeypatch, hardware=False)
    timed_as(monkeypatch, never)
    with pytest.warns(UserWarning, match="trained in bf16, which this device"):
        assert run_precision(RunFolder(tmp_path / "run"), CPU) == "fp32"
    with pytest.warns(UserWarning, match="trained in bf16, which this device"):
        trainer = resumed_trainer(tmp_path / "run")
    assert finish(trainer).result["precision"] == "fp32"
    assert kept_precision("bf16", "bf16", CPU) == "bf16"


@pytest.mark.parametrize("method", ["superfecta", "trifecta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_inside_another_autocast_is_the_same(method: str, precision: str) -> None:
    """PyTorch keeps casts of weights until the outer one ends, and weights move before."""
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(3, 12, *SHAPE, generator=draw), torch.arange(12) % CLASSES
    states = []
    for outer in (contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        network = build_network(
            get_method(method), "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05
        )
        learner = Learner(network, generator=torch.Generator().manual_seed(0), precision=precision)
        with outer:
            for batch in images:
                learner.step(batch, labels)
        states.append(network.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.usefixtures("both")
def test_a_benchmark_takes_one_precision_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def times(learner: Learner, batch_size: int) -> PrecisionTimes:
        asked.append(batch_size)
        return WON["bf16"]

    monkeypatch.setattr("trifecta.bench.setting.time_precisions", times)
    setting_module._faster_precision.cache_clear()
    setting = Setting(width=0.05, image_shape=SHAPE, num_classes=CLASSES, batch_size=7)
    assert [setting.resolved_precision, setting.facts()["precision"]] == ["bf16", "bf16"]
    assert asked == [7]
    assert replace(setting, precision="fp32").resolved_precision == "fp32"
