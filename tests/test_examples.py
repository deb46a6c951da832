"""The worked examples, as small as they go."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from trifecta import Learner

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_vision_transformer_learns_images() -> None:
    run = example("vit").run(data="digits", method="superfecta", epochs=4, width=32, depth=2, patch=2)
    assert run.test_accuracy > 0.7
    assert run.network.layouts == ("last", "last")


@pytest.mark.slow
def test_a_gpt_learns_a_text() -> None:
    gpt = example("gpt")
    run = gpt.run(method="superfecta", epochs=2, characters=100_000, width=32, depth=2)
    text, vocabulary = gpt.text(100_000)
    most_frequent = Counter(text).most_common(1)[0][1] / len(text)
    assert run.test_accuracy > most_frequent + 0.01
    written = gpt.write(run.network, vocabulary, "The ", count=20)
    assert len(written) == 24
    assert set(written) <= set(vocabulary)


def test_a_gpt_looks_at_no_later_token() -> None:
    gpt = example("gpt")
    torch.manual_seed(0)
    network = gpt.run(method="superfecta", epochs=1, characters=10_000, width=16, depth=2).network.eval()
    tokens = torch.randint(0, network.num_classes, (2, gpt.CONTEXT))
    changed = tokens.clone()
    changed[:, 40:] = 0
    scores = [network(x)[:, :, :40] for x in (tokens, changed)]
    assert torch.equal(*scores)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["superfecta", "trifecta", "backprop"])
def test_a_perceptron_learns_a_table(method: str) -> None:
    assert example("table").run(method).test_accuracy > 0.85


def saved_bytes(learner: Learner, images: Tensor, labels: Tensor) -> int:
    """The most that graphs hold at once in a step: tensors saved for a backward pass, each storage once."""
    held: dict[int, int] = {}
    most = 0

    weights = {p.untyped_storage().data_ptr() for p in learner.network.parameters()}

    def save(tensor: Tensor) -> Tensor:
        nonlocal most
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        most = max(most, sum(held.values()))
        return tensor

    step = learner.begin(images, labels)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        while not step.is_done:
            learner.learn(step)
            held.clear()
    return most


def test_a_resnet_needs_the_memory_of_its_largest_block() -> None:
    resnet = example("resnet18")
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    held = {}
    for method in ("superfecta", "backprop"):
        network = resnet.network(method, size=64, num_classes=10, width=8)
        assert len(network.blocks) == 9
        held[method] = saved_bytes(Learner(network), images, labels)
    assert held["superfecta"] < 0.6 * held["backprop"]
