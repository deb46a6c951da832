"""``auto`` follows from the device, and a run keeps to what it came to."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stopping import StopAt
from trifecta._utils import devices as precisions
from trifecta._utils.devices import has_bfloat16, kept_precision, resolved_precision
from trifecta.bench import Setting
from trifecta.data import ImageData
from trifecta.learner import Learner
from trifecta.methods import get_method
from trifecta.network import build_network
from trifecta.training import Interrupted, Run, RunConfig, RunFolder, Trainer, load, resume, train
from trifecta.training.run import finish, resumed_trainer

SHAPE, CLASSES = (1, 8, 8), 3
CPU = torch.device("cpu")
SMALL = RunConfig(method=get_method("trifecta"), width=0.05, epochs=1, batch_size=60)


def have(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    """Let the processor have these, whatever it has: without hardware bf16 is slow here, and right."""
    monkeypatch.setattr(precisions, "_capabilities", lambda: capabilities)
    monkeypatch.setattr(precisions, "has_amx", lambda: capabilities.get("amx_bf16", False))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "fp32"), ({}, "fp32")],
)
def test_auto_is_bf16_on_a_cpu_with_tiles_alone(
    capabilities: dict[str, bool], expected: str, stripes: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, **capabilities)
    assert resolved_precision("auto", CPU) == expected
    assert Setting(width=0.05).resolved_precision == expected
    assert has_bfloat16(CPU) == bool(capabilities)
    if expected == "bf16":
        chosen, told = (train(replace(SMALL, precision=name), data=stripes) for name in ("auto", expected))
        assert chosen.result["precision"] == expected
        assert equal(chosen, told)


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_that_has_it(
    hardware: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: hardware)
    assert resolved_precision("auto", torch.device("cuda")) == expected


def test_auto_is_fp32_on_mps_and_what_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved_precision("auto", torch.device("mps")) == "fp32"
    have(monkeypatch, amx_bf16=True)
    assert [resolved_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="received 'fp8'"):
        resolved_precision("fp8", CPU)


def equal(one: Run, other: Run) -> bool:
    tensors = other.network.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.network.state_dict().items())


def stopped(config: RunConfig, data: ImageData, out: Path) -> None:
    trainer = Trainer(replace(config, data=None), folder=RunFolder(out), data=data, callbacks=[StopAt(3)])
    with pytest.raises(Interrupted):
        finish(trainer)


def test_a_resumed_run_keeps_its_precision(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, amx_bf16=True)
    stopped(SMALL, stripes, tmp_path / "run")
    # Another processor, which would not choose it.
    have(monkeypatch, avx512_bf16=True)
    resumed = resume(tmp_path / "run", data=stripes)
    assert resumed.result["precision"] == "bf16"
    assert equal(resumed, train(replace(SMALL, precision="bf16"), data=stripes))
    used = [
        load(tmp_path / "run", device="cpu", precision=name).precision for name in (None, "auto", "fp32")
    ]
    assert used == ["bf16", "bf16", "fp32"]
    with pytest.raises(ValueError, match="received 'fp8'"):
        load(tmp_path / "run", precision="fp8")


def test_bf16_goes_on_in_fp32_with_a_warning_where_there_is_none(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, amx_bf16=True)
    stopped(SMALL, stripes, tmp_path / "run")
    have(monkeypatch)
    with pytest.warns(UserWarning, match="trained in bf16, which this device"):
        assert load(tmp_path / "run", device="cpu").precision == "fp32"
    with pytest.warns(UserWarning, match="trained in bf16, which this device"):
        trainer = resumed_trainer(tmp_path / "run", data=stripes)
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
