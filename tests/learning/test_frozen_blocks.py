"""Blocks that have nothing to learn, or parts that were frozen, beside those that learn."""

import copy

import pytest
import torch
from torch import Tensor, nn

from matrix import methods
from trifecta import METHODS, Learner, LocalNetwork, get_method
from trifecta.nn import conv_block

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
# With every kind of ownership, schedule, optimizer, label input and head.
QUICK = ("trifecta", "superfecta", "backprop", "asge", "scff", "rec-lra")


def conv(inputs: int, outputs: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def modes(block: nn.Module) -> list[bool]:
    return [module.training for module in block.children()]


def network_of(method: str, blocks: list[nn.Module]) -> LocalNetwork:
    return LocalNetwork(blocks, get_method(method), sample_shape=(1, 8, 8), num_classes=3)


def learner_of(network: LocalNetwork) -> Learner:
    return Learner(network, generator=torch.Generator().manual_seed(0), total_steps=8, steps_per_epoch=4)


def blocks_with(kind: str) -> list[nn.Module]:
    torch.manual_seed(0)
    if kind == "frozen first":
        return [conv(1).requires_grad_(False), conv(12), conv(12)]
    if kind == "frozen last":
        return [conv(1), conv(12), conv(12).requires_grad_(False)]
    return [conv(1), nn.MaxPool2d(2), conv(12)]


@pytest.mark.parametrize("kind", ["frozen first", "frozen last", "pools"])
@pytest.mark.parametrize("method", methods(METHODS, quick=QUICK))
def test_every_method_trains_around_a_block_without_weights_to_learn(method: str, kind: str) -> None:
    network = network_of(method, blocks_with(kind))
    before = copy.deepcopy(network.blocks)
    learner = learner_of(network)
    for _ in range(4):
        assert all(loss.isfinite() for loss in learner.step(IMAGES, LABELS) if loss is not None)
    for own, old in zip(network.blocks, before, strict=True):
        for p, q in zip(own.parameters(), old.parameters(), strict=True):
            assert torch.equal(p, q) != p.requires_grad
    state = learner.state_dict()
    learner_of(network).load_state_dict(state)


def test_heads_learn_on_blocks_that_are_all_frozen() -> None:
    network = network_of("superfecta", [conv(1).requires_grad_(False), conv(12).requires_grad_(False)])
    heads = copy.deepcopy(network._heads)
    learner_of(network).step(IMAGES, LABELS)
    moved = [
        not torch.equal(p, q) for p, q in zip(network._heads.parameters(), heads.parameters(), strict=True)
    ]
    assert any(moved)


def test_a_network_in_which_nothing_can_learn_is_refused_when_it_is_to_train() -> None:
    network = network_of("class-groups", [conv(1).requires_grad_(False)])
    assert network(IMAGES).shape == (12, 3)
    with pytest.raises(ValueError, match="nothing can learn: all blocks are frozen"):
        Learner(network)


def running_mean(block: nn.Module) -> Tensor:
    norm = next(m for m in block.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    return norm.running_mean.clone()


@pytest.mark.parametrize("method", ["superfecta", "trifecta", "backprop"])
def test_a_normalisation_that_was_frozen_in_evaluation_mode_stays_as_it_is(method: str) -> None:
    frozen, free = conv(1).requires_grad_(False).eval(), conv(12)
    only_norm = conv(12)
    only_norm[1].requires_grad_(False).eval()
    network = network_of(method, [frozen, free, only_norm])
    before = [running_mean(block) for block in network.blocks]
    learner_of(network).step(IMAGES, LABELS)
    kept = [torch.equal(running_mean(b), old) for b, old in zip(network.blocks, before, strict=True)]
    assert kept == [True, False, True]
    assert modes(network.blocks[2]) == [True, False, True]
    copied = copy.deepcopy(network).train()
    assert modes(copied.blocks[2]) == [True, False, True]
    frozen[0].train()
    network = network_of(method, [frozen, free])
    assert modes(network.train().blocks[0]) == [True, False, False]
    assert not any(module.training for module in network.eval().modules())


def test_statistics_follow_in_a_frozen_block_that_was_left_in_training_mode() -> None:
    network = network_of("superfecta", [conv(1).requires_grad_(False), conv(12)])
    before = running_mean(network.blocks[0])
    learner_of(network).step(IMAGES, LABELS)
    assert not torch.equal(running_mean(network.blocks[0]), before)


def test_a_model_that_was_only_loaded_in_evaluation_mode_trains() -> None:
    model = nn.Sequential(conv(1), nn.Dropout(), conv(12)).eval()
    network = network_of("superfecta", [*model]).train()
    assert all(m.training for m in network.modules())
    # One part of a block that trains was put there on purpose.
    model.train()
    model.get_submodule("0.1").eval()
    network = network_of("superfecta", [*model]).train()
    assert modes(network.blocks[0]) == [True, False, True]


def test_fused_windows_learn_as_the_plain_graph_where_parts_are_frozen() -> None:
    torch.manual_seed(0)
    first, second = conv_block((1, 8, 8), 8, first=True), conv_block((8, 8, 8), 8)
    first[0].requires_grad_(False).eval()
    second.get_submodule("weights").requires_grad_(False)
    network = network_of("mono-forward", [first, second])
    both = [copy.deepcopy(network) for _ in range(2)]
    for fused, own in enumerate(both):
        learner = Learner(own, generator=torch.Generator().manual_seed(0), kernels=bool(fused))
        for _ in range(2):
            learner.step(IMAGES, LABELS)
    for (name, a), b in zip(both[0].state_dict().items(), both[1].state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    assert torch.equal(running_mean(both[1].blocks[0]), running_mean(network.blocks[0]))


class Detached(nn.Module):
    """Has weights, and lets no gradient reach them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y: Tensor = self.convolution(x)
        return y


@pytest.mark.parametrize("method", ["superfecta", "ff"])
def test_a_block_whose_weights_no_loss_reaches_is_said_once(method: str) -> None:
    learner = learner_of(network_of(method, [conv(1), Detached()]))
    with pytest.warns(UserWarning, match="block 1 has weights to learn, and its loss reaches none of them"):
        learner.step(IMAGES, LABELS)
    # A warning would be an error.
    learner.step(IMAGES, LABELS)
