"""Plans: layouts, balance, and what crosses between stages."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trifecta.methods import get_method
from trifecta.network import build_network
from trifecta.parallel.plan import Layout, make_plan, parse_layout
from trifecta.parallel.stage import check_network
from trifecta.schedules import END_TO_END, LAYER_WISE, OVERLAPPING, Schedule, Window

COSTS = st.lists(st.integers(0, 20), min_size=1, max_size=8)


def largest(costs: list[int], cuts: tuple[int, ...]) -> int:
    edges = [0, *cuts, len(costs)]
    return max(sum(costs[a:b]) for a, b in pairwise(edges))


@given(costs=COSTS, stages=st.integers(1, 8))
def test_no_other_cuts_balance_better(costs: list[int], stages: int) -> None:
    if stages > len(costs):
        with pytest.raises(ValueError, match="a stage holds one block or more"):
            make_plan(Layout(layers=stages), costs, LAYER_WISE)
        return
    plan = make_plan(Layout(layers=stages), costs, LAYER_WISE)
    assert [k for blocks in plan.stages for k in blocks] == list(range(len(costs)))
    assert all(len(blocks) for blocks in plan.stages)
    cuts = tuple(blocks.start for blocks in plan.stages[1:])
    best = min(largest(costs, other) for other in combinations(range(1, len(costs)), stages - 1))
    assert largest(costs, cuts) == best


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        ("data", 4, Layout(data=4)),
        ("layers", 3, Layout(layers=3)),
        ("2x3", 6, Layout(data=2, layers=3)),
        ("2×2", 4, Layout(data=2, layers=2)),
    ],
)
def test_layouts_are_read(text: str, ranks: int, expected: Layout) -> None:
    layout = parse_layout(text, ranks)
    assert layout == expected
    assert parse_layout(str(layout), ranks) == expected
    for rank in range(ranks):
        replica, stage = layout.place(rank)
        assert layout.peers(stage)[replica] == rank


@pytest.mark.parametrize(
    ("text", "message"),
    [("model", "received 'model'"), ("0x2", "received '0x2'"), ("2x2", "needs 4 processes: received 2")],
)
def test_wrong_layouts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layout(text, 2)


def test_strict_blocks_cross_nothing_and_overlapping_ones_a_window_at_a_boundary() -> None:
    layout = Layout(layers=2)
    assert make_plan(layout, [1] * 6, LAYER_WISE).crossings == ()
    plan = make_plan(layout, [1] * 6, OVERLAPPING)
    assert plan.stages == (range(3), range(3, 6))
    (crossing,) = plan.crossings
    assert crossing == (0, Window(2, 3), range(2))
    # An even boundary crosses at the other steps.
    (crossing,) = make_plan(layout, [1] * 4, OVERLAPPING).crossings
    assert crossing == (1, Window(1, 2), range(2))


def test_a_wide_window_crosses_several_stages() -> None:
    plan = make_plan(Layout(layers=4), [1] * 4, Schedule(size=4))
    assert plan.crossings == ((0, Window(0, 3), range(4)),)


def test_balance_is_the_share_of_time_that_processes_work() -> None:
    assert make_plan(Layout(layers=2), [1, 1, 2], LAYER_WISE).balance == pytest.approx(1)
    plan = make_plan(Layout(layers=2), [3, 1], LAYER_WISE)
    assert (plan.share(0), plan.share(1)) == (0.75, 0.25)
    assert plan.balance == pytest.approx(2 / 3)


def test_one_loss_for_all_blocks_has_no_stages() -> None:
    with pytest.raises(ValueError, match="use parallel=data"):
        make_plan(Layout(layers=2), [1, 1], END_TO_END)
    assert make_plan(Layout(data=2), [1, 1], END_TO_END).stages == (range(2),)


def test_replicas_refuse_weights_of_classes_whose_mean_each_would_take_for_itself() -> None:
    network = build_network(get_method("pred"), sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    plan = make_plan(Layout(data=2), [1] * 6, LAYER_WISE)
    check_network(network, plan, on_nan="stop")
    network.weigh_classes(torch.ones(3))
    with pytest.raises(ValueError, match="received class_weights; use parallel=layers"):
        check_network(network, plan, on_nan="stop")
    check_network(network, make_plan(Layout(layers=2), [1] * 6, LAYER_WISE), on_nan="stop")
