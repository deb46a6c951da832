"""Batches of one: every method learns from them, and a loader's last one ends no run."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from matrix import methods
from trifecta import METHODS, Learner, LocalNetwork, RunConfig, build_network, get_method, train
from trifecta.nn.norms import RunningNorm, normalized_by_running_statistics

IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def network_of(method: str, network: str = "mlp", **changes: str) -> LocalNetwork:
    return build_network(
        replace(get_method(method), **changes),  # type: ignore[arg-type]
        network,
        sample_shape=(1, 8, 8),
        num_classes=3,
        width=0.02 if network == "mlp" else 0.05,
    )


@pytest.mark.parametrize("method", methods(METHODS, quick=("superfecta", "dgl", "auglocal", "hcl-ff")))
@pytest.mark.parametrize("normalization", ["batch", "running"])
@pytest.mark.filterwarnings("ignore:a batch of one")
def test_every_method_learns_from_batches_of_one(method: str, normalization: str) -> None:
    network = network_of(method, normalization=normalization)
    learner = Learner(network, generator=torch.Generator().manual_seed(0))
    before = [p.detach().clone() for p in network.blocks.parameters()]
    for k in range(4):
        losses = learner.step(IMAGES[k : k + 1], LABELS[k : k + 1])
        assert all(loss.isfinite() for loss in losses if loss is not None)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.blocks.parameters(), strict=True))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert all(module.training for module in network.modules())


def test_the_warning_comes_once_and_only_where_a_normalisation_sees_one_value() -> None:
    learner = Learner(network_of("superfecta"))
    with pytest.warns(UserWarning, match="drop_last=True"):
        learner.step(IMAGES[:1], LABELS[:1])
    # Here warnings are errors. Pairs are two samples, and a map has many values a channel.
    learner.step(IMAGES[1:2], LABELS[1:2])
    Learner(network_of("trifecta")).step(IMAGES[:1], LABELS[:1])
    conv = LocalNetwork(
        [nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())],
        get_method("mono-forward"),
        sample_shape=(1, 8, 8),
        num_classes=3,
    )
    Learner(conv).step(IMAGES[:1], LABELS[:1])


def statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None
    assert variance is not None
    assert count is not None
    return mean, variance, count


def test_single_values_are_normalised_as_by_running_norm() -> None:
    torch.manual_seed(0)
    norm, running = nn.BatchNorm1d(5), RunningNorm(5)
    used: list[None] = []
    for sample in torch.randn(30, 1, 5) * 3 + 1:
        with normalized_by_running_statistics([norm], lambda: used.append(None)):
            found = norm(sample)
        assert norm.training
        assert torch.allclose(found, running(sample), atol=1e-6)
    assert len(used) == 30
    mean, variance, count = (value.clone() for value in statistics(norm))
    assert torch.allclose(mean, running.running_mean, atol=1e-6)
    assert torch.allclose(variance, running.running_var, atol=1e-6)
    assert int(count) == 30
    # A batch of two has statistics of its own, and moves them by the norm's momentum.
    two = torch.randn(2, 5)
    with normalized_by_running_statistics([norm], lambda: used.append(None)):
        norm(two)
    assert torch.allclose(statistics(norm)[0], mean.lerp(two.mean(0), 0.1), atol=1e-6)
    assert len(used) == 30


def test_later_values_move_statistics_as_over_two_thousand_samples() -> None:
    norm = nn.BatchNorm1d(2)
    statistics(norm)[2].fill_(10**6)
    with normalized_by_running_statistics([norm], lambda: None):
        norm(torch.full((1, 2), 2.0))
    share = 1 - math.exp(-1 / 2048)
    mean, variance, _ = statistics(norm)
    assert torch.allclose(mean, torch.full((2,), 2 * share))
    assert torch.allclose(variance, torch.full((2,), (1 - share) * (1 + share * 4)))


def test_a_normalisation_without_running_statistics_refuses_a_batch_of_one() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    network = LocalNetwork([block], get_method("mono-forward"), sample_shape=(4,), num_classes=2)
    with pytest.raises(ValueError, match="needs 2 values a channel: received a batch of one"):
        Learner(network).step(torch.randn(1, 4), torch.zeros(1, dtype=torch.int64))


def test_pairs_of_images_say_that_one_image_makes_none() -> None:
    with pytest.warns(UserWarning, match="no other image"):
        Learner(network_of("scff")).step(IMAGES[:1], LABELS[:1])


class Own(nn.Module):
    """A block of one's own with PyTorch's batch normalisation."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, 12), nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.linear(x.flatten(1))).relu()
        return y


@pytest.mark.filterwarnings("ignore:a batch of one")
@pytest.mark.parametrize("own", [False, True])
def test_a_loaders_last_batch_of_one_ends_no_run(own: bool) -> None:
    loader = DataLoader(TensorDataset(IMAGES[:33], LABELS[:33]), 8)
    config = RunConfig(method=get_method("superfecta"), network="mlp", width=0.02, epochs=2)
    blocks = [Own(64), Own(12)] if own else None
    run = train(config, data=loader, test=(IMAGES[33:], LABELS[33:]), network=blocks)
    assert run.trainer.learner.steps == 10
    assert run.trainer.learner.skipped == set()


@pytest.mark.filterwarnings("ignore:a batch of one")
def test_batches_of_one_teach_a_network_with_batch_normalisation() -> None:
    """Two groups of points that nobody could mix up."""
    labels = torch.arange(150) % 2
    points = torch.randn(150, 6, generator=torch.Generator().manual_seed(0)) / 2 + labels.unsqueeze(1)
    config = RunConfig(method=get_method("superfecta"), network="mlp", width=0.005, epochs=1, batch_size=1)
    assert train(config, data=(points, labels)).test_accuracy > 0.85
