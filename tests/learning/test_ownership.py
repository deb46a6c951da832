"""Which weights of a block are matrices of hidden layers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from trifecta import build_network, get_method
from trifecta.learner import _matrices
from trifecta.nn.networks import NETWORKS


def test_matrices_map_features_to_features() -> None:
    block = nn.Sequential(
        nn.Embedding(9, 6), nn.Linear(6, 2), nn.BatchNorm1d(2), nn.Conv1d(2, 4, 3), nn.Linear(4, 1)
    )
    found = _matrices(block)
    expected = [block.get_parameter("1.weight"), block.get_parameter("3.weight")]
    assert [id(p) for p in found] == [id(p) for p in expected]
    assert all(torch.is_tensor(p) for p in found)


class Scaled(nn.Linear):
    """Has a gain with "weight" in its name, and a layer with matrices of its own."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.weight_scale = nn.Parameter(torch.ones(8))
        self.inner = nn.MultiheadAttention(8, 2)


class Positions(nn.Module):
    """Adds a learned picture, and attends."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.normed = nn.LayerNorm((5, 8)), weight_norm(nn.Linear(8, 8))
        self.out, self.embedding = nn.Linear(8, 9, bias=False), nn.Embedding(9, 8)
        self.out.weight, self.scaled = self.embedding.weight, Scaled()

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_only_weights_of_layers_are_matrices() -> None:
    """No positions, gains, parts of a weight that is computed, or embeddings that a layer shares."""
    block = Positions()
    names = {id(p): name for name, p in block.named_parameters()}
    found = [names[id(p)] for p in _matrices(block)]
    attention = ["in_proj_weight", "out_proj.weight"]
    expected = [f"{part}.{name}" for part in ("attention", "scaled.inner") for name in attention]
    assert sorted(found) == [*expected, "scaled.weight"]


@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_of_the_librarys_networks_are_their_weights_of_two_or_more_dimensions(name: str) -> None:
    network = build_network(
        get_method("superfecta"), name, sample_shape=(3, 32, 32), num_classes=3, width=0.05
    )
    for block in network.blocks:
        expected = [id(p) for p in block.parameters() if p.ndim > 1 and len(p) > 1]
        assert [id(p) for p in _matrices(block)] == expected
