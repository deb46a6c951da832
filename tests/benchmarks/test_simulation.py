"""Simulated layouts against schedules that were worked out by hand."""

import pytest
import torch

from block_times import block_times
from simulation import BlockTimes, Link, Tasks, local_seconds, pipeline_seconds
from trifecta import get_method
from trifecta.bench import Setting
from trifecta.parallel.plan import Layout
from trifecta.schedules import LAYER_WISE, Schedule

INSTANT = Link(bandwidth=float("inf"), latency=0.0)
PAIRS = Schedule(size=2, overlapping=True)
# Forward 1, backward 2, both with the own loss 4, update 0.5.
BLOCK = BlockTimes(forward=1, backward=2, local=4, update=0.5, sends=8, gradients=6)


def test_a_task_begins_when_all_it_needs_is_done() -> None:
    tasks = Tasks()
    first = tasks.add("a", 2)
    other = tasks.add("b", 3)
    last = tasks.add("a", 1, [first, other])
    assert tasks.finish()[last] == 4


def test_a_message_takes_its_size_over_the_bandwidth_and_the_latency() -> None:
    tasks = Tasks()
    link = Link(bandwidth=4, latency=0.5)
    first = tasks.send(link, (0, 1), 8, tasks.add(0, 1))
    second = tasks.send(link, (0, 1), 8, tasks.add(0, 0))
    done = tasks.finish()
    # The second waits for the link, and not for the first one's latency.
    assert (done[first], done[second]) == (3.5, 5.5)


def test_tasks_that_wait_for_each_other_are_refused() -> None:
    tasks = Tasks()
    tasks.add("a", 1, [1])
    tasks.add("b", 1, [0])
    with pytest.raises(ValueError, match="wait for each other"):
        tasks.finish()


def test_one_device_does_all_work_in_turn() -> None:
    assert local_seconds([BLOCK] * 3, Layout(), LAYER_WISE, INSTANT, batches=2) == 2 * 3 * 4.5
    assert pipeline_seconds([BLOCK] * 3, 1, INSTANT, micro_batches=4, batches=2) == 2 * 3 * 3.5


def test_stages_work_at_once_but_for_the_time_until_the_first_batch_is_there() -> None:
    seconds = local_seconds([BLOCK] * 4, Layout(layers=4), LAYER_WISE, INSTANT, batches=10)
    assert seconds == 3 * 4.5 + 10 * 4.5


def test_a_stage_waits_for_what_it_receives() -> None:
    link = Link(bandwidth=1, latency=1)
    # A link of 8 seconds a message is slower than the blocks: it sets the pace.
    seconds = local_seconds([BLOCK] * 2, Layout(layers=2), LAYER_WISE, link, batches=3)
    assert seconds == 4.5 + 3 * 8 + 1 + 4.5


def test_a_window_on_two_stages_makes_the_first_wait_for_its_gradient() -> None:
    # Blocks 0 and 1 learn together in even steps; block 1 has the loss: 1 more than both passes.
    seconds = local_seconds([BLOCK] * 2, Layout(layers=2), PAIRS, INSTANT, batches=1)
    forward, loss_and_passes, backward, update = 1, 1 + 3, 2, 0.5
    assert seconds == forward + loss_and_passes + backward + update


def test_replicas_share_images_and_add_up_gradients() -> None:
    link = Link(bandwidth=3, latency=0)
    seconds = local_seconds([BLOCK] * 2, Layout(data=2), LAYER_WISE, link, batches=1)
    # Half of 4 for each block; a sum of 2 · 6 / 2 bytes at 3 a second, the first beside the second block.
    assert seconds == 2 + 2 + 0.5 + 2 + 0.5


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_pipelines_idle_until_they_are_full(schedule: str) -> None:
    """So many turns of a forward and a backward pass: the number of micro-batches, and of stages less 1."""
    found = pipeline_seconds([BLOCK] * 3, 3, INSTANT, micro_batches=4, batches=2, schedule=schedule)
    assert found == 2 * ((4 + 3 - 1) * (1 + 2) / 4 + BLOCK.update)


def test_another_pipeline_is_refused() -> None:
    with pytest.raises(ValueError, match="gpipe or 1f1b: received 'dual'"):
        pipeline_seconds([BLOCK], 1, INSTANT, micro_batches=1, batches=1, schedule="dual")


def test_blocks_are_measured_one_by_one_for_a_whole_batch() -> None:
    setting = Setting(network="equal:3:4", image_shape=(3, 8, 8), batch_size=6, precision="fp32")
    threads = torch.get_num_threads()
    whole, thirds = (block_times(setting, get_method("mono-forward"), pieces=n) for n in (1, 3))
    assert torch.get_num_threads() == threads
    assert [block.sends for block in whole] == [6 * 4 * 8 * 8 * 4] * 3
    assert [block.sends for block in thirds] == [block.sends for block in whole]
    assert [block.gradients for block in thirds] == [block.gradients for block in whole]
    for block in (*whole, *thirds):
        assert min(block.forward, block.backward, block.local, block.update) > 0


def test_a_batch_is_measured_in_equal_pieces() -> None:
    setting = Setting(network="equal:2:4", image_shape=(1, 8, 8), batch_size=6, precision="fp32")
    with pytest.raises(ValueError, match="received 6 images for 4; use 4"):
        block_times(setting, get_method("mono-forward"), pieces=4)
