"""What every method promises; learning and locality are in test_learner.py, resuming in training/."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from matrix import FEW, crossed, methods
from trifecta import METHODS, NETWORKS, Learner, LocalNetwork, build_network, get_method

SHAPE = (3, 16, 16)


def network_of(
    method: str, *, network: str = "small", classes: int = 3, width: float = 0.03
) -> LocalNetwork:
    return build_network(get_method(method), network, sample_shape=SHAPE, num_classes=classes, width=width)


def batch(classes: int = 3, size: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(size, *SHAPE, generator=draw), torch.arange(size) * 13 % classes


def take_steps(network: LocalNetwork, images: Tensor, labels: Tensor, steps: int = 2) -> None:
    learner = Learner(network, generator=torch.Generator().manual_seed(1), total_steps=10)
    for _ in range(steps):
        learner.step(images, labels)


@pytest.mark.parametrize(("method", "network"), crossed(METHODS, list(NETWORKS)))
def test_every_network(method: str, network: str) -> None:
    built = network_of(method, network=network, width=0.05)
    before = [parameter.clone() for parameter in built.parameters()]
    take_steps(built, *batch())
    moved = [not torch.equal(a, b) for a, b in zip(before, built.parameters(), strict=True)]
    trained = [parameter.requires_grad for parameter in built.parameters()]
    assert moved == trained


@pytest.mark.parametrize(("method", "classes"), crossed(METHODS, [2, 32]))
def test_a_seed_decides_everything_for_any_classes_and_double_precision_stays_double(
    method: str, classes: int
) -> None:
    images, labels = batch(classes, size=4)
    networks = []
    for noise in range(2):
        torch.manual_seed(noise)
        networks.append(network_of(method, classes=classes, width=0.25 if classes == 32 else 0.03).double())
        take_steps(networks[-1], images.double(), labels)
    states = [network.state_dict().values() for network in networks]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert all(p.dtype == torch.float64 for p in networks[0].parameters())
    scores = networks[0].eval()(images.double())
    assert (scores.dtype, scores.shape) == (torch.float64, (4, classes))
    # A method that tries labels goes on with the 20 likeliest.
    kept = 20 if networks[0].method.tries_labels and classes == 32 else classes
    assert scores.isfinite().sum(1).tolist() == [kept] * 4


@pytest.mark.parametrize("method", methods(quick=FEW[:2]))
def test_a_method_learns(method: str) -> None:
    """A fully connected net, where the overlaid label of plain FF can be seen too."""
    base = get_method(method)
    faster = replace(base, optimizer=replace(base.optimizer, learning_rate=1e-2))
    network = build_network(faster, "mlp", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    learner = Learner(network, generator=torch.Generator().manual_seed(4))
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randn(3, 1, 8, 8, generator=draw)[labels] * 2
    images = images + torch.randn(images.shape, generator=draw) / 2
    accuracy = 0.0
    for _ in range(12):
        for _ in range(10):
            learner.step(images, labels)
        with torch.no_grad():
            accuracy = (network.eval()(images).argmax(1) == labels).double().mean().item()
        if accuracy > 0.6:
            break
    assert accuracy > 0.6  # chance is 0.33; plain FF is the slow one


@pytest.mark.parametrize("method", methods())
def test_a_prediction_is_as_many_passes_as_the_method_says(method: str) -> None:
    """Blocks of one's own, so that their calls can be counted."""
    seen: list[int] = []

    class Counted(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weights = nn.Conv2d(channels, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return torch.relu(self.weights(x))

    built = get_method(method)
    channels, _, _ = built.input_shape(SHAPE, 3)
    network = LocalNetwork([Counted(channels), Counted(6)], built, sample_shape=SHAPE, num_classes=3)
    images, _ = batch()
    seen.clear()
    with torch.no_grad():
        network.eval()(images)
    passes = 3 if built.tries_labels else 1
    assert seen == [passes * len(images)] * 2


@pytest.mark.parametrize("method", methods())
def test_a_method_cites_its_paper_and_says_what_differs(method: str) -> None:
    description = inspect.getdoc(sys.modules[METHODS[method].__module__]) or ""
    assert get_method(method).name == method
    assert (
        "Departures" in description
        if "Paper: " in description
        else ("Ours" in description or "Source" in description)
    )


def test_methods_have_files_of_their_own() -> None:
    folder = Path(inspect.getfile(METHODS["trifecta"])).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {METHODS[name].__module__.rpartition(".")[2] for name in METHODS}
