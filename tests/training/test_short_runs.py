"""Runs of few steps: batch normalisations predict by what the training images are, not by a start."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trifecta import RunConfig, TrifectaClassifier, from_module, get_method, resume, train
from trifecta.data import ImageData, ImageSet
from trifecta.statistics import estimate_statistics
from trifecta.training import Run, RunFolder, load
from trifecta.training.trainer import statistics_batches

SMALL = RunConfig(width=0.05, epochs=2, batch_size=60, precision="fp32")


def few_images(count: int = 300, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Colour images 32×32 of so many classes: a disc whose hue and place tell them, in noise."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    images = torch.rand(count, 3, 32, 32, generator=draw) * 120
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for k in range(count):
        place = torch.randint(8, 24, (2,), generator=draw)
        disc = (rows - place[0]).square() + (columns - place[1]).square() < 36
        colour = torch.tensor([[9, 1, 1], [1, 9, 1], [1, 1, 9], [9, 9, 1], [1, 9, 9]])[labels[k]]
        images[k] += disc * colour.view(3, 1, 1) * 15
    return images.to(torch.uint8), labels


def model(channels: int = 3) -> nn.Sequential:
    """A stranger's network, the same each time."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "epochs", "least"), [pytest.param(False, 5, 0.9, marks=pytest.mark.slow), (True, 4, 0.9)]
)
def test_a_few_images_in_a_few_epochs_are_learnt(own: bool, epochs: int, least: float) -> None:
    config = RunConfig(width=0.1, epochs=epochs, batch_size=64, precision="fp32", keep="last")
    network = from_module(model()) if own else None
    run = train(config, data=few_images(), network=network)
    assert run.trainer.learner.steps == 3 * epochs
    assert run.test_accuracy >= least
    network = from_module(model()) if own else None
    stale = train(replace(config, statistics="running"), data=few_images(), network=network)
    assert stale.test_accuracy < least - 0.2


def test_the_statistics_are_those_of_training_images(stripes: ImageData, tmp_path: Path) -> None:
    run = train(SMALL, data=stripes, out=tmp_path)
    expected = run.network.state_dict()
    saved = RunFolder(tmp_path).read_model()
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    # Once more, from the running averages that the checkpoint has.
    checkpoint = RunFolder(tmp_path).read_checkpoint(torch.device("cpu"))["network"]
    moved = {name for name, value in expected.items() if not torch.equal(value, checkpoint[name])}
    assert moved
    assert all(name.endswith(("running_mean", "running_var", "temperature")) for name in moved)
    run.network.load_state_dict(checkpoint | {"temperature": saved["temperature"]})
    estimate_statistics(run.network, statistics_batches(run.trainer.data))
    assert all(torch.equal(value, saved[name]) for name, value in run.network.state_dict().items())


def untimed(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if "second" not in k} for record in run.trainer.history]


@pytest.mark.parametrize("method", ["superfecta", pytest.param("rec-lra", marks=pytest.mark.slow)])
def test_a_long_run_is_what_it_was(method: str, stripes: ImageData) -> None:
    """Also where predictions are part of training, as by rec-lra."""
    config = replace(SMALL, method=get_method(method), epochs=3, batch_size=8, keep="last")
    run = train(config, data=stripes, network=from_module(model(1)[:6]))
    before = train(replace(config, statistics="running"), data=stripes, network=from_module(model(1)[:6]))
    assert run.trainer.learner.steps == 90
    weights = before.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in run.network.state_dict().items())
    assert [record["loss"] for record in untimed(run)] == [record["loss"] for record in untimed(before)]
    assert untimed(run)[-1] == untimed(before)[-1]
    assert run.test_accuracy == before.test_accuracy


class Jittered(Dataset[tuple[Tensor, int]]):
    """Draws from every global generator, as transforms do."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.randn(()) + random.gauss(0, 1) + float(np.random.randn())
        return self.images[index] + 0.01 * noise, int(self.labels[index])


def loader(stripes: ImageData) -> DataLoader[Any]:
    images = stripes.train.images.float() / 128 - 1
    return DataLoader(Jittered(images, stripes.train.labels), 60, shuffle=True)


def test_a_loader_is_not_asked_for_more(stripes: ImageData) -> None:
    """Its transforms and its order stay what they would have been."""
    test = (stripes.test.images.float() / 128 - 1, stripes.test.labels)
    runs = []
    for statistics in ("estimated", "running"):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        config = replace(SMALL, epochs=3, statistics=statistics)
        runs.append(train(config, data=loader(stripes), validation=test, test=test))
    estimated, running = runs
    assert [r["loss"] for r in untimed(estimated)] == [r["loss"] for r in untimed(running)]
    assert estimated.test_accuracy > running.test_accuracy + 0.2


def test_a_finished_run_of_a_loader_is_resumed(stripes: ImageData, tmp_path: Path) -> None:
    test = (stripes.test.images.float() / 128 - 1, stripes.test.labels)
    images: dict[str, Any] = {"data": loader(stripes), "test": test, "validation": test}
    run = train(SMALL, out=tmp_path, **images)
    saved = RunFolder(tmp_path).read_model()
    again = resume(tmp_path, **images)
    assert untimed(again) == untimed(run)
    assert again.test_accuracy == pytest.approx(run.test_accuracy, abs=0.1)
    longer = resume(tmp_path, epochs=3, **images)
    assert longer.result["epochs"] == 3
    assert set(saved) == set(RunFolder(tmp_path).read_model())


def test_a_finished_run_that_is_resumed_predicts_the_same(stripes: ImageData, tmp_path: Path) -> None:
    run = train(SMALL, data=stripes, out=tmp_path)
    saved = RunFolder(tmp_path).read_model()
    RunFolder(tmp_path).model.unlink()  # as if killed behind the checkpoint
    again = resume(tmp_path, data=stripes)
    restored = RunFolder(tmp_path).read_model()
    assert all(torch.equal(value, restored[name]) for name, value in saved.items())
    assert again.test_accuracy == run.test_accuracy
    pixels = run.trainer.data.test.images
    assert torch.equal(load(tmp_path).scores(pixels), load(tmp_path).scores(pixels))


def test_a_pixel_that_training_never_lights_does_not_decide(stripes: ImageData) -> None:
    def dark(images: ImageSet, value: int = 0) -> ImageSet:
        changed = images.images.clone()
        changed[:, :, 0, 0] = value
        return replace(images, images=changed)

    data = replace(
        stripes, train=dark(stripes.train), validation=dark(stripes.test), test=dark(stripes.test)
    )
    config = replace(SMALL, network="mlp", width=0.05, epochs=21, keep="last", method="mono-forward")
    bounded = train(config, data=data)
    plain = train(replace(config, statistics="running"), data=data)
    for name, value in plain.network.named_parameters():
        assert torch.equal(value, bounded.network.get_parameter(name))
    lit = dark(stripes.test, 255)
    assert bounded.trainer.learner.steps > 80
    assert bounded.test_accuracy == plain.test_accuracy == 1
    assert bounded.trainer.evaluate(lit).log_loss < 0.2 < plain.trainer.evaluate(lit).log_loss


def test_rows_in_two_calls_are_learnt() -> None:
    """Three steps of partial_fit, of which running averages know little."""
    draw = np.random.default_rng(0)
    labels = np.arange(192) % 3
    rows = draw.normal(size=(192, 8)) + 8 * np.eye(8)[labels] + 50
    estimator = TrifectaClassifier(batch_size=64, random_state=0, learning_rate=0.02)
    estimator.partial_fit(rows[:128], labels[:128], classes=[0, 1, 2])
    estimator.partial_fit(rows[128:], labels[128:])
    assert estimator.score(rows, labels) > 0.9
