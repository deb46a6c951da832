"""The library's step against the slow reference of the published rule, in float64."""

import pytest
import torch

from reference.published import ReferenceBlock, train_step
from trifecta import Learner, LocalNetwork, build_network
from trifecta.inputs import wrong_labels
from trifecta.methods import trifecta
from trifecta.recipes import published_trifecta

pytestmark = pytest.mark.usefixtures("window_of_any_size")
CLASSES, BATCH = 5, 6


def published(network: str) -> LocalNetwork:
    return build_network(
        published_trifecta(), network, sample_shape=(3, 8, 8), num_classes=CLASSES, width=0.04
    ).double()


def as_reference(network: LocalNetwork) -> list[ReferenceBlock]:
    tensors = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
    blocks = [
        ReferenceBlock(
            scale=tensors[f"blocks.{k}.normalize.weight"],
            shift=tensors[f"blocks.{k}.normalize.bias"],
            kernel=tensors[f"blocks.{k}.weights.weight"],
            pool="pool" in dict(block.named_children()),
        )
        for k, block in enumerate(network.blocks)
    ]
    blocks[0].label_pictures = tensors["label_input.pictures.weight"]
    return blocks


@pytest.mark.parametrize("name", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_twenty_float64_steps_agree_in_every_parameter(name: str) -> None:
    network = published(name)
    blocks = as_reference(network)
    # The second epoch begins with another even step.
    learner = Learner(network, generator=torch.Generator().manual_seed(7), steps_per_epoch=13)
    draws = torch.Generator().manual_seed(7)
    data = torch.Generator().manual_seed(1)
    before = network.get_parameter("blocks.0.weights.weight").detach().clone()
    for step in range(20):
        images = torch.randn(BATCH, 3, 8, 8, generator=data, dtype=torch.float64)
        labels = torch.randint(0, CLASSES, (BATCH,), generator=data)
        expected = train_step(blocks, step % 13, images, labels, wrong_labels(labels, CLASSES, draws))
        received = {k: v.item() for k, v in enumerate(learner.step(images, labels)) if v is not None}
        assert received == pytest.approx(expected, abs=1e-9)
    for k, block in enumerate(blocks):
        scale, shift, kernel = list(network.blocks[k].parameters())
        torch.testing.assert_close(scale, block.scale, rtol=0, atol=1e-9)
        torch.testing.assert_close(shift, block.shift, rtol=0, atol=1e-9)
        torch.testing.assert_close(kernel, block.kernel, rtol=0, atol=1e-9)
    pictures = network.get_parameter("label_input.pictures.weight")
    torch.testing.assert_close(pictures, blocks[0].label_pictures, rtol=0, atol=1e-9)
    moved = network.get_parameter("blocks.0.weights.weight") - before
    assert moved.abs().max() > 1e-3


def test_optimizer_states_agree_and_shared_weights_have_two() -> None:
    network = published("small")
    blocks = as_reference(network)
    learner = Learner(network, generator=torch.Generator().manual_seed(7))
    draws = torch.Generator().manual_seed(7)
    images = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64, generator=draws.clone_state())
    labels = torch.arange(BATCH) % CLASSES
    for step in range(6):
        train_step(blocks, step, images, labels, wrong_labels(labels, CLASSES, draws))
        learner.step(images, labels)
    pictures = network.label_parameters()[0]
    owners = [k for k, optimizer in learner.optimizers.items() if pictures in optimizer.state]
    assert owners == [0]
    state = learner.optimizers[0].state[pictures]
    assert state["step"] == blocks[0].states[id(blocks[0].label_pictures)].steps == 3
    for k, block in enumerate(blocks):
        kernels = [(k, block)] + ([(k - 1, blocks[k - 1])] if k else [])
        for index, owned in kernels:
            weight = network.get_parameter(f"blocks.{index}.weights.weight")
            ours = learner.optimizers[k].state[weight]
            theirs = block.states[id(owned.kernel)]
            assert ours["step"] == theirs.steps
            torch.testing.assert_close(ours["exp_avg"], theirs.first, rtol=0, atol=1e-9)
            torch.testing.assert_close(ours["exp_avg_sq"], theirs.second, rtol=0, atol=1e-9)


def test_ownership_by_weight_keeps_one_state_a_weight() -> None:
    network = build_network(trifecta.method(), sample_shape=(1, 8, 8), num_classes=3, width=0.02)
    learner = Learner(network)
    for _ in range(2):
        learner.step(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    for parameter in network.parameters():
        assert sum(parameter in optimizer.state for optimizer in learner.optimizers.values()) == 1
