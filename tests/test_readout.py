"""Read-out: which blocks a name chooses, and per-label prediction against a plain loop."""

import pytest
import torch

from trifecta import build_network, get_method
from trifecta.losses.goodness import mean_square
from trifecta.readout import fuse, select_blocks


def test_names_and_numbers_choose_blocks() -> None:
    scored = (0, 1, 2, 5)
    assert select_blocks("last", scored) == (5,)
    assert select_blocks("all", scored) == scored
    assert select_blocks("all-but-first", scored) == (1, 2, 5)
    assert select_blocks("all-but-first", (0,)) == (0,)
    assert select_blocks("last-half", scored) == (2, 5)
    assert select_blocks("last-half", (0, 1, 2)) == (1, 2)
    assert select_blocks("5, 1", scored) == (1, 5)


@pytest.mark.parametrize(
    ("readout", "message"), [("3", r"received \[3\]; choose from"), ("lats", "received 'lats'"), ("", "''")]
)
def test_other_read_outs_are_refused(readout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_blocks(readout, (0, 1))


def test_fusion_sums_the_chosen_blocks() -> None:
    scores = [torch.full((2, 3), value) for value in (1.0, 10.0, 100.0)]
    assert fuse([scores[0], None, scores[2]], (0, 2)).tolist() == [[101.0] * 3] * 2


def test_prediction_tries_every_label_as_a_plain_loop_does() -> None:
    network = build_network(
        get_method("trifecta"), sample_shape=(2, 8, 8), num_classes=4, width=0.05
    ).double()
    images = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    network.eval()
    scores = network.block_scores(images)
    for i in range(5):
        for label in range(4):
            x = network.labelled(images[i : i + 1], torch.tensor([label]))
            for k, block in enumerate(network.blocks):
                x = block(x)
                block_scores = scores[k]
                assert block_scores is not None
                torch.testing.assert_close(block_scores[i, label], mean_square(x)[0])
    last = scores[-1]
    assert last is not None
    assert torch.equal(network(images), last)
