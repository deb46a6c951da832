"""Read-out: which blocks a name chooses, and per-label prediction against a plain loop."""

import math
from typing import Any

import pytest
import torch

from trifecta import build_network, get_method
from trifecta.losses.goodness import mean_square
from trifecta.readout import (
    Shortlist,
    best_rows,
    choose_shortlist,
    fuse,
    select_blocks,
    spread_scores,
)


def test_names_and_numbers_choose_blocks() -> None:
    scored = (0, 1, 2, 5)
    assert select_blocks("last", scored) == (5,)
    assert select_blocks("all", scored) == scored
    assert select_blocks("all-but-first", scored) == (1, 2, 5)
    assert select_blocks("all-but-first", (0,)) == (0,)
    assert select_blocks("last-half", scored) == (2, 5)
    assert select_blocks("last-half", (0, 1, 2)) == (1, 2)
    assert select_blocks("5, 1", scored) == (1, 5)
    assert select_blocks("5,0,1,2", scored) == select_blocks("chosen", scored) == scored


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        ("3", r"such as 2,3: received '3'; choose from \[0, 1\]"),
        ("lats", "^a read-out is last, last-half, all-but-first, all, chosen or numbers .* 'lats'"),
        ("", "''"),
    ],
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


def shortlist(labels: int, **settings: Any) -> Shortlist:
    given: dict[str, Any] = {
        "num_blocks": 6,
        "num_classes": 5,
        "scored": range(6),
        "readout": (5,),
    }
    return choose_shortlist(labels, **(given | settings))


def test_a_shortlist_is_made_after_a_third_of_the_blocks() -> None:
    afters = [
        shortlist(2, num_blocks=count, scored=range(count), readout=(count - 1,)).after
        for count in range(2, 13)
    ]
    assert afters == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    # The first block with scores from there on.
    assert shortlist(2, scored=(0, 3, 5)).after == 3


def test_a_shortlist_leaves_something_out_and_something_in() -> None:
    assert [shortlist(count).labels for count in (1, 4)] == [1, 4]
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"keeps 1 … 4 of 5 labels, or 0 for all: received {count}"):
            shortlist(count)


def test_a_shortlist_comes_before_the_last_block_of_the_read_out() -> None:
    assert shortlist(2, readout=(0, 2)).after == 1
    with pytest.raises(ValueError, match="begins behind block 1, and the read-out ends at block 1"):
        shortlist(2, readout=(0, 1))


def test_the_best_labels_of_every_image_go_on() -> None:
    scores = torch.tensor([[1.0, 9.0, 3.0, 2.0], [8.0, 0.0, 5.0, 6.0]])
    assert best_rows(scores.to("meta"), 2)[0].device.type == "meta"
    rows, kept = best_rows(scores, 2)
    assert kept.tolist() == [[1, 2], [0, 3]]
    assert rows.tolist() == [1, 2, 4, 7]
    spread = spread_scores(torch.tensor([1.0, 2.0, 3.0, 4.0]), kept, 4)
    assert spread.tolist() == [[-math.inf, 1, 2, -math.inf], [3, -math.inf, -math.inf, 4]]
