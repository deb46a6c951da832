"""Parts of a user's own that cannot work: one line names the part before anything is trained."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from command import run
from trifecta import Callback, RunConfig, get_method, train
from trifecta.data import ImageData
from trifecta.network import build_network

PARTS = """
from dataclasses import dataclass

import torch
from torch import nn

from trifecta import Head, Method, Objective, Term
from trifecta.losses import Combined, CrossEntropy
from trifecta.nn import conv_block


class Linear(Head):
    def __init__(self, channels, classes):
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def loss(self, features, labels):
        return nn.functional.cross_entropy(self.scores(features), labels)

    def scores(self, features):
        return self.linear(features.flatten(2).mean(2))


class Vector(Linear):
    def loss(self, features, labels):
        return nn.functional.cross_entropy(self.scores(features), labels, reduction="none")


class OneScore(Linear):
    def loss(self, features, labels):
        return features.sum()

    def scores(self, features):
        return super().scores(features)[:, 0]


class Raises(Linear):
    def loss(self, features, labels):
        return features.nothing


class TooNarrow(Linear):
    def loss(self, features, labels):
        return self.linear(features.flatten(1)[:, :1]).sum()


class Scoreless(Head):
    def loss(self, features, labels):
        return features.sum()


@dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    kind_of_head: str = "Linear"

    def head(self, feature_shape, num_classes):
        if self.kind_of_head == "none":
            return None
        made = globals()[self.kind_of_head]
        return made() if made is Scoreless else made(feature_shape[0], num_classes)


@dataclass(frozen=True, kw_only=True)
class Headless(Objective):
    pass


@dataclass(frozen=True, kw_only=True)
class Undefined(Term):
    weight: float = 1.0

    def module(self, feature_shape, num_classes):
        return NotANumber()


class NotANumber(nn.Module):
    def forward(self, features, labels):
        return features.sum() * float("nan")


def good():
    return Method(name="mine", objective=Mine())


def vector():
    return Method(name="mine", objective=Mine(kind_of_head="Vector"))


def one_score():
    return Method(name="mine", objective=Mine(kind_of_head="OneScore"))


def raises():
    return Method(name="mine", objective=Mine(kind_of_head="Raises"))


def too_narrow():
    return Method(name="mine", objective=Mine(kind_of_head="TooNarrow"))


def scoreless():
    return Method(name="mine", objective=Mine(kind_of_head="Scoreless"))


def no_head():
    return Method(name="mine", objective=Mine(kind_of_head="none"))


def headless():
    return Method(name="mine", objective=Headless())


def a_class():
    return Method(name="mine", objective=Mine)


class Plain(Objective):
    def head(self, feature_shape, num_classes):
        return Linear(feature_shape[0], num_classes)


def plain():
    return Method(name="mine", objective=Plain())


def undefined():
    return Method(name="mine", objective=Combined(scoring=CrossEntropy(), terms=(Undefined(),)))


def nothing():
    return None


def tiny(input_shape, *, width=1.0, style):
    first = conv_block(input_shape, 8, style, pool=True, first=True)
    return nn.Sequential(first, conv_block((8, 4, 4), 8, style))


def no_blocks(input_shape, *, width=1.0, style):
    return 5


def numbers(input_shape, *, width=1.0, style):
    return [3]


def fails(input_shape, *, width=1.0, style):
    return 1 / 0
"""
METHODS = {
    "vector": r"objective Mine on block 0: loss must return a tensor \(\) for .*: received a tensor \(4,\)",
    "one_score": r"objective Mine on block 0: scores must return a tensor \(4, 3\) for .*: .* \(4,\)",
    "raises": r"objective Mine on block 0 fails: AttributeError.*mine_refused\.py, line \d+\)",
    "too_narrow": r"objective Mine on block 0 fails: RuntimeError.*\(mine_refused\.py, line \d+\)",
    "scoreless": r"objective Mine on block 0 fails: TypeError: Can't instantiate abstract class Scoreless",
    "no_head": r"objective Mine on block 0: head must return a trifecta\.Head: received NoneType",
    "headless": r"objective Headless on block 0 fails: .*write head\(self, feature_shape, num_classes\)",
    "a_class": r"an objective is an object such as .*: received <class .*Mine'>",
    "undefined": r"objective Undefined on block 0: loss must return a finite number .*: received nan",
    "nothing": r"without arguments that returns a trifecta\.Method: mine_refused:nothing returned NoneType",
    "tiny": r"method mine_refused:tiny fails: TypeError: tiny\(\) missing .*: 'input_shape'",
    "godo": r"mine_refused has no godo: .*did you mean good\?",
}
NETWORKS = {
    "no_blocks": r"network no_blocks.* fails: TypeError: .* iterable, but got int",
    "numbers": r"network numbers.* fails: TypeError: .*int is not a Module subclass",
    "fails": r"network fails.* fails: ZeroDivisionError: division by zero \(mine_refused\.py, line \d+\)",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine_refused.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine_refused", None)


@pytest.mark.parametrize(("name", "message"), METHODS.items())
def test_a_method_that_cannot_work_is_refused_by_its_part(folder: Path, name: str, message: str) -> None:
    def build() -> None:
        method = get_method(f"mine_refused:{name}", imports=["mine_refused"])
        build_network(method, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.1)

    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("name", "message"), NETWORKS.items())
def test_a_network_that_is_none_is_refused_by_its_name(folder: Path, name: str, message: str) -> None:
    builder = getattr(import_module("mine_refused"), name)
    with pytest.raises(ValueError, match=message):
        build_network(get_method("ff"), builder, sample_shape=(1, 8, 8), num_classes=3)


def test_a_trial_of_a_head_changes_no_weight(folder: Path) -> None:
    parts = import_module("mine_refused")
    once, again = (
        build_network(parts.good(), "small", sample_shape=(1, 8, 8), num_classes=3, width=0.1)
        for _ in range(2)
    )
    for (name, one), other in zip(once.state_dict().items(), again.state_dict().values(), strict=True):
        assert one.equal(other), name


@pytest.mark.parametrize("callback", [Callback, print, "early-stopping"])
def test_what_is_no_callback_is_refused(stripes: ImageData, callback: object) -> None:
    with pytest.raises(ValueError, match="a callback is an object of a class that inherits from Callback"):
        train(RunConfig(width=0.05, epochs=1), data=stripes, callbacks=[callback])  # type: ignore[list-item]


def test_a_run_that_fails_before_its_first_step_leaves_no_folder_and_the_second_try_works(
    folder: Path, capsys: pytest.CaptureFixture[str], stripes_folder: Path
) -> None:
    out = folder / "run"
    (folder / "broken.py").write_text("import torch torch")
    quick = [
        "--epochs",
        "1",
        "--width",
        "0.1",
        "--batch-size",
        "40",
        "--precision",
        "fp32",
        "--out",
        str(out),
    ]
    own = ["--import", "./mine_refused.py"]
    wrong: list[list[str]] = [
        ["--import", "mine_refused", "--method", "mine_refused:vector"],
        [*own, "--method", "mine_refused:one_score"],
        [*own, "--method", "mine_refused:raises"],
        [*own, "--method", "mine_refused:plain"],  # which is no dataclass
        ["--import", "./broken.py", "--method", "broken:one"],
        [*own, "--network", "mine_refused:numbers"],
        ["--import", "./nosuch.py", "--method", "nosuch:one"],
        ["--network", "vgg8b"],  # which needs larger images
        ["--method", "nosuch"],
        ["--device", "cuda:99"],
        ["--set", "data.label_column=nosuch", "--set", "data.hold_out=0.5"],
    ]
    for arguments in wrong:
        status, _, error = run(capsys, "train", "--data", stripes_folder, *quick, *arguments)
        assert (status, error.count("\n")) == (2, 1), error
        assert not out.exists(), arguments
    right = [*own, "--method", "mine_refused:good", "--network", "mine_refused:tiny"]
    status, _, error = run(capsys, "train", "--data", stripes_folder, *quick, *right)
    assert status == 0, error


def test_a_run_whose_callback_fails_in_its_first_epoch_leaves_no_folder(
    stripes: ImageData, tmp_path: Path
) -> None:
    class Fails(Callback):
        def on_step_end(self, trainer: object) -> None:
            raise KeyError("my own fault")

    config = RunConfig(width=0.05, epochs=1, batch_size=40, precision="fp32")
    with pytest.raises(KeyError):
        train(config, data=stripes, out=tmp_path / "run", callbacks=[Fails()])
    assert not (tmp_path / "run").exists()
    assert train(config, data=stripes, out=tmp_path / "run").result["epochs"] == 1
