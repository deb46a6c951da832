"""Networks take any input and any number of classes, and predict the same in any mode."""

import pytest
import torch

from matrix import methods
from trifecta import NETWORKS, build_network, get_method


@pytest.mark.parametrize(
    ("name", "shape", "num_classes"),
    [
        *((name, (3, 17, 20), 26) for name in NETWORKS),
        *(("small", shape, 2) for shape in ((1, 16, 16), (1, 28, 28), (2, 32, 32))),
    ],
)
def test_any_size_channels_and_classes(name: str, shape: tuple[int, int, int], num_classes: int) -> None:
    network = build_network(
        get_method("trifecta"), name, sample_shape=shape, num_classes=num_classes, width=0.02
    )
    assert network(torch.randn(3, *shape)).shape == (3, num_classes)


@pytest.mark.parametrize("method", methods())
def test_a_prediction_in_train_mode_is_that_of_evaluation_mode_and_changes_nothing(method: str) -> None:
    network = build_network(get_method(method), sample_shape=(3, 8, 8), num_classes=3, width=0.05)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(4, 3, 8, 8)
    scores = network(images)
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(scores, network.eval()(images))


def test_weights_follow_their_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first, again, other = (
        build_network(get_method("trifecta"), sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(
        first.get_parameter("blocks.0.weights.weight"), other.get_parameter("blocks.0.weights.weight")
    )
