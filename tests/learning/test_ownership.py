"""Which weights of a block are matrices of hidden layers."""

import torch
from torch import nn

from trifecta.learning.ownership import _matrices


def test_matrices_map_features_to_features() -> None:
    block = nn.Sequential(
        nn.Embedding(9, 6), nn.Linear(6, 2), nn.BatchNorm1d(2), nn.Conv1d(2, 4, 3), nn.Linear(4, 1)
    )
    found = _matrices(block)
    expected = [block.get_parameter("1.weight"), block.get_parameter("3.weight")]
    assert [id(p) for p in found] == [id(p) for p in expected]
    assert all(torch.is_tensor(p) for p in found)
