"""An exported graph gives the scores of the network that was trained."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from command import run as run_command
from matrix import crossed
from trifecta import (
    METHODS,
    Learner,
    RunConfig,
    TrainedModel,
    build_network,
    from_module,
    get_method,
    load,
    train,
)
from trifecta.integrations.export import WholeNetwork, export
from users_networks import GPT, ViT

pytestmark = pytest.mark.slow
SHAPE, CLASSES = (1, 8, 8), 3


def trained_network(method: str, network: str) -> WholeNetwork:
    built = build_network(get_method(method), network, sample_shape=SHAPE, num_classes=CLASSES, width=0.1)
    draw = torch.Generator().manual_seed(0)
    learner = Learner(built, generator=draw)
    for _ in range(2):
        learner.step(torch.randn(12, *SHAPE, generator=draw), torch.arange(12) % CLASSES)
    built.temperature.fill_(3)
    return WholeNetwork(built)


def bytes_of(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *SHAPE), generator=draw, dtype=torch.uint8)


def run_of(method: str, folder: Path) -> Path:
    labels = torch.arange(60) % CLASSES
    config = RunConfig(method=get_method(method), width=0.1, epochs=1, batch_size=12, precision="fp32")
    train(config, data=(bytes_of(60), labels), classes=["à", "b", "c"], out=folder)
    return folder


def as_trained(model: TrainedModel, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.facts.mean, model.facts.std))
    return (images / 255 - mean) / std


@pytest.mark.parametrize(("method", "network"), crossed(METHODS, ["small", "mlp", "resnet"]))
def test_plain_operations_give_the_scores_of_the_network(method: str, network: str) -> None:
    whole = trained_network(method, network)
    images = torch.randn(5, *SHAPE)
    assert torch.allclose(whole(images), whole.network(images), atol=1e-5)


@pytest.mark.parametrize("method", ["superfecta", "hcl-ff", "scff"])
def test_an_exported_program_gives_them_for_any_number_of_images(method: str, tmp_path: Path) -> None:
    model = load(run_of(method, tmp_path / "run"))
    file = export(model, tmp_path / "model.pt2", format="torch")
    program = torch.export.load(file).module()
    for count in (1, 5):
        images = bytes_of(count)
        scores = program(as_trained(model, images))
        assert torch.allclose(scores, model.scores(images), atol=1e-5)
        assert torch.allclose(scores.double().softmax(1), model.predict_proba(images), atol=1e-5)


@pytest.mark.parametrize("method", ["trifecta", "class-groups"])
def test_onnx_gives_them_from_bytes_and_names_its_classes(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(method, tmp_path / "run")
    file = tmp_path / "deep" / "model.onnx"
    status, printed, _ = run_command(capsys, "export", run, "--out", file, "--preprocess")
    assert (status, printed.strip()) == (0, str(file))
    session = onnxruntime.InferenceSession(file)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["à", "b", "c"]
    assert facts["method"] == method
    assert [each.shape for each in session.get_inputs()] == [["batch", *SHAPE]]
    assert [each.shape for each in session.get_outputs()] == [["batch", CLASSES]]
    for count in (1, 5):
        images = bytes_of(count)
        (scores,) = session.run(None, {"samples": images.numpy()})
        assert np.allclose(scores, load(run).scores(images), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "make", "samples"),
    [
        ("superfecta", ViT, torch.randn(60, 3, 8, 8)),
        ("trifecta", GPT, torch.randint(0, 10, (60, 6))),
        ("superfecta", None, torch.randn(60, 5)),
    ],
    ids=["vit", "gpt", "table"],
)
def test_networks_of_ones_own_are_exported(
    method: str, make: Callable[[], nn.Module] | None, samples: Tensor, tmp_path: Path
) -> None:
    config = RunConfig(
        method=get_method(method), network="mlp", width=0.01, epochs=1, batch_size=12, precision="fp32"
    )
    blocks = None if make is None else from_module(make())
    train(config, data=(samples, torch.arange(60) % CLASSES), network=blocks, out=tmp_path / "run")
    model = load(tmp_path / "run", network=None if make is None else from_module(make()))
    file = export(model, tmp_path / "model.pt2", format="torch")
    scores = torch.export.load(file).module()(samples[:4])
    assert torch.allclose(scores, model.scores(samples[:4]), atol=1e-5)
    if make is None:
        with pytest.raises(ValueError, match="leave it out"):
            export(model, tmp_path / "other.pt2", format="torch", preprocess=True)


@pytest.mark.filterwarnings("ignore:method trifecta tries each of 30 labels")
def test_a_graph_tries_every_label_and_says_so_if_the_network_tries_a_shortlist(tmp_path: Path) -> None:
    config = RunConfig(method=get_method("trifecta"), width=0.05, epochs=1, batch_size=12, precision="fp32")
    train(config, data=(bytes_of(60), torch.arange(60) % 30), out=tmp_path / "run")
    model = load(tmp_path / "run")
    with pytest.warns(UserWarning, match="the graph tries every label, and this network a shortlist"):
        file = export(model, tmp_path / "model.pt2", format="torch")
    images = bytes_of(5)
    scores = torch.export.load(file).module()(as_trained(model, images))
    assert not torch.allclose(scores, model.scores(images), atol=1e-5)
    model.network.keep_labels(0)
    assert torch.allclose(scores, model.scores(images), atol=1e-5)


def test_nothing_is_overwritten_and_formats_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("superfecta", tmp_path / "run")
    file = tmp_path / "model.pt2"
    file.write_text("mine")
    with pytest.raises(ValueError, match="overwrites no file"):
        export(load(run), file, format="torch")
    assert file.read_text() == "mine"
    with pytest.raises(ValueError, match="onnx"):
        export(load(run), tmp_path / "other", format="onx")
    with pytest.raises(ValueError, match=r"a .pt file has format=torch: received .* for format=onnx"):
        export(load(run), tmp_path / "other.pt")
    status, _, error = run_command(capsys, "export", tmp_path, "--out", file)
    assert (status, error.count("\n")) == (2, 1)
