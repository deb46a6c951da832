"""Schedules against the published rule, and what must hold of any partition."""

from dataclasses import replace

import pytest

from reference.published import closes
from trifecta.schedules import (
    DEEPLY_SUPERVISED,
    END_TO_END,
    LAYER_WISE,
    OVERLAPPING,
    Schedule,
    Window,
    parse_schedule,
)

SCHEDULES = [
    LAYER_WISE,
    OVERLAPPING,
    Schedule(size=2, overlapping=True, trains_remainder=False),
    Schedule(size=3, overlapping=True),
    Schedule(size=2),
    Schedule(size=5, trains_remainder=False),
    END_TO_END,
]


def test_overlapping_windows_are_those_of_the_paper() -> None:
    assert OVERLAPPING.windows(0, 6) == (Window(0, 1), Window(2, 3), Window(4, 5))
    assert OVERLAPPING.windows(1, 6) == (Window(0, 0), Window(1, 2), Window(3, 4), Window(5, 5))
    assert OVERLAPPING.windows(2, 6) == OVERLAPPING.windows(0, 6)


@pytest.mark.parametrize("num_blocks", [2, 3, 6, 7, 12])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_idling_last_block_closes_exactly_where_the_published_rule_does(num_blocks: int, step: int) -> None:
    schedule = Schedule(size=2, overlapping=True, trains_remainder=False)
    received = [window.last for window in schedule.windows(step, num_blocks)]
    assert received == [k for k in range(num_blocks) if closes(k, step)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 6, 7, 12])
def test_windows_cover_every_block_once_or_leave_a_short_rest(schedule: Schedule, num_blocks: int) -> None:
    for step in range(6):
        windows = schedule.windows(step, num_blocks)
        covered = [k for window in windows for k in range(window.first, window.last + 1)]
        assert covered == list(range(len(covered)))
        idle = num_blocks - len(covered)
        assert idle == 0 or (not schedule.trains_remainder and idle < schedule.size)
        assert all(w.last - w.first + 1 <= (schedule.size or num_blocks) for w in windows)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("num_blocks", [2, 6, 7])
def test_closing_blocks_and_reach_agree_with_the_windows(schedule: Schedule, num_blocks: int) -> None:
    seen: dict[int, int] = {}
    for step in range(12):
        for first, last in schedule.windows(step, num_blocks):
            seen[last] = min(first, seen.get(last, first))
    assert schedule.closing_blocks(num_blocks) == tuple(sorted(seen))
    for last, first in seen.items():
        assert schedule.trained_by(last, num_blocks) == range(first, last + 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_windows_return_after_a_cycle_and_not_before(schedule: Schedule) -> None:
    first = [schedule.windows(step, 12) for step in range(schedule.cycle)]
    assert [schedule.windows(step + schedule.cycle, 12) for step in range(schedule.cycle)] == first
    assert len(set(first)) == schedule.cycle


def test_overlapping_neighbours_all_come_to_share_a_window() -> None:
    for size in (2, 3):
        schedule = Schedule(size=size, overlapping=True)
        for block in range(6):
            assert any(w.first <= block < w.last for step in range(size) for w in schedule.windows(step, 7))


def test_deep_supervision_has_a_loss_at_every_block_of_one_window() -> None:
    assert DEEPLY_SUPERVISED.windows(3, 4) == (Window(0, 3),)
    assert DEEPLY_SUPERVISED.closing_blocks(4) == (0, 1, 2, 3)
    assert DEEPLY_SUPERVISED.locality == "end-to-end"


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Schedule(), "layer-wise"),
        (Schedule(size=2, overlapping=True), "overlapping:2"),
        (Schedule(size=3, overlapping=True), "overlapping:3"),
        (Schedule(size=5), "blockwise:5"),
        (END_TO_END, "end-to-end"),
        (DEEPLY_SUPERVISED, "deeply-supervised"),
    ],
)
def test_a_schedule_reads_what_it_writes(schedule: Schedule, text: str) -> None:
    assert str(schedule) == text
    assert parse_schedule(text) == schedule
    assert replace(schedule) == schedule


@pytest.mark.parametrize(
    "text", ["overlaping", "blockwise:x", "overlapping:1", "blockwise:-1", "blockwise:0", ""]
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"overlapping"):
        parse_schedule(text)


def test_locality_names_what_crosses_a_block() -> None:
    assert [s.locality for s in SCHEDULES] == [
        "strict",
        "overlapping",
        "overlapping",
        "overlapping",
        "blockwise",
        "blockwise",
        "end-to-end",
    ]


def test_a_size_left_out_is_two_and_one_too_many_is_refused() -> None:
    assert parse_schedule("overlapping") == OVERLAPPING
    assert parse_schedule("blockwise") == Schedule(size=2)
    assert str(Schedule(size=2)) == "blockwise:2"
    with pytest.raises(ValueError, match=r"use layer-wise, .* end-to-end or deeply-supervised$"):
        parse_schedule("overlapping:2:3")


@pytest.mark.parametrize(
    ("size", "overlapping", "message"),
    [(-1, False, r"received size -1; try"), (1, True, r"received size 1, overlapping; try")],
)
def test_a_window_has_a_block_and_an_overlapping_one_two(
    size: int, overlapping: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(size=size, overlapping=overlapping)


def test_a_network_shorter_than_a_window_is_no_remainder() -> None:
    assert Schedule(size=5, trains_remainder=False).windows(0, 3) == (Window(0, 2),)
