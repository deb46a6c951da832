"""Simulated devices and links: when each of many tasks is done.

A task runs on a *resource*, a device or a link. A resource does its tasks one at a time and in their order;
a task begins when all that it needs is there.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trifecta.parallel.plan import Layout, Plan, make_plan
from trifecta.schedules import LAYER_WISE, Schedule, Window


class Link(NamedTuple):
    """What connects devices.

    Attributes:
        bandwidth: bytes a second in each direction.
        latency: seconds until the first byte arrives.
    """

    bandwidth: float
    latency: float

    def ring(self, size: float, devices: int) -> float:
        """Seconds in which ``devices`` add up ``size`` bytes in a ring."""
        steps = 2 * (devices - 1)
        return steps * (size / devices / self.bandwidth + self.latency)


@dataclass
class Tasks:
    """Tasks in the order in which their resources do them.

    Attributes:
        seconds: of each.
        needs: of each, the numbers of those that must be done before.
        queues: of each resource, its tasks.
    """

    seconds: list[float] = field(default_factory=list)
    needs: list[list[int]] = field(default_factory=list)
    queues: dict[Hashable, deque[int]] = field(default_factory=lambda: defaultdict(deque))

    def add(self, resource: Hashable, seconds: float, needs: Iterable[int] = ()) -> int:
        """Append a task of a resource that begins when all it ``needs`` is done; return its number."""
        self.seconds.append(seconds)
        self.needs.append(list(needs))
        self.queues[resource].append(len(self.seconds) - 1)
        return len(self.seconds) - 1

    def send(self, link: Link, ends: tuple[int, int], size: float, need: int) -> int:
        """Append a message of ``size`` bytes, sent when ``need`` is done; its task ends when it arrives."""
        transfer = self.add(("link", *ends), size / link.bandwidth, [need])
        # Latency delays a message, and not those behind it.
        return self.add(("arrival", transfer), link.latency, [transfer])

    def finish(self) -> list[float]:
        """Return the time at which each task is done.

        Raises:
            ValueError: tasks that wait for each other.
        """
        done: dict[int, float] = {}
        queues = {resource: deque(queue) for resource, queue in self.queues.items()}
        free: dict[Hashable, float] = defaultdict(float)
        waiting: dict[int, list[Hashable]] = defaultdict(list)
        ready = deque(queues)
        while ready:
            resource = ready.popleft()
            while queue := queues[resource]:
                number = queue[0]
                missing = next((need for need in self.needs[number] if need not in done), None)
                if missing is not None:
                    waiting[missing].append(resource)
                    break
                began = max([free[resource], *(done[need] for need in self.needs[number])])
                free[resource] = done[number] = began + self.seconds[number]
                queue.popleft()
                ready.extend(waiting.pop(number, ()))
        if len(done) < len(self.seconds):
            raise ValueError("tasks wait for each other")
        return [done[number] for number in range(len(self.seconds))]


FORWARD, BACKWARD = "forward", "backward"


class BlockTimes(NamedTuple):
    """What a block costs for a batch.

    Attributes:
        forward: seconds, of its forward pass.
        backward: seconds, of its backward pass.
        local: seconds of both and of its own loss, where it learns by itself.
        update: seconds of its update, however many images there are.
        sends: bytes of what it passes on.
        gradients: bytes of its parameters' gradients.
    """

    forward: float
    backward: float
    local: float
    update: float
    sends: float
    gradients: float


def local_seconds(
    blocks: Sequence[BlockTimes], layout: Layout, schedule: Schedule, link: Link, *, batches: int
) -> float:
    """Seconds in which so many batches are learnt from by local windows.

    One replica is simulated, as all do the same.

    Raises:
        ValueError: windows on three stages or more; as :func:`trifecta.parallel.plan.make_plan`.
    """
    plan = make_plan(layout, [block.local + block.update for block in blocks], schedule)
    if any(len(crossing.stages) > 2 for crossing in plan.crossings):
        raise ValueError("windows on three stages or more are not simulated")
    return max(_LocalTasks(blocks, plan, link).of(batches).finish())


@dataclass
class _Late:
    """The first part of a window on two stages, which waits for its gradient.

    Attributes:
        part: its blocks.
        message: the task that brings the gradient, once it is known.
    """

    part: range
    message: int | None = None


class _LocalTasks:
    """Builds the tasks of local learning, batch by batch, and for each stage by stage."""

    def __init__(self, blocks: Sequence[BlockTimes], plan: Plan, link: Link) -> None:
        self.blocks, self.plan, self.link, self.tasks = blocks, plan, link, Tasks()
        self.late: dict[int, _Late] = {}
        # Of a stage, the sum over replicas that an update waits for, and that update's seconds.
        self.sums: dict[int, tuple[int, float]] = {}

    def of(self, batches: int) -> Tasks:
        """All tasks."""
        for batch in range(batches):
            windows = self.plan.schedule.windows(batch, len(self.blocks))
            received: int | None = None
            for stage in range(self.plan.layout.layers):
                received = self._stage(stage, windows, received)
        for stage in range(self.plan.layout.layers):
            self._learn_late(stage)
        return self.tasks

    def _stage(self, stage: int, windows: Sequence[Window], received: int | None) -> int | None:
        """Let a stage's blocks learn from the batch that ``received`` brings; the message that it sends."""
        own, sent = self.plan.stages[stage], None
        needs = [] if received is None else [received]
        for window in windows:
            part = range(max(window.first, own.start), min(window.last + 1, own.stop))
            if not part:
                continue
            late = self.late.get(stage)
            if late is not None and late.part.start < part.stop and part.start < late.part.stop:
                self._learn_late(stage)
            ends_here = window.last in own
            task = self._compute(
                stage, self._seconds(window, part) if ends_here else self._forward(part), needs
            )
            needs = []
            if not ends_here:
                self.late[stage] = _Late(part)
            else:
                if window.first not in own:
                    self.late[stage - 1].message = self._message(stage, stage - 1, own.start - 1, task)
                task = self._update(stage, part, task)
            if part.stop == own.stop and stage + 1 < self.plan.layout.layers:
                sent = self._message(stage, stage + 1, own.stop - 1, task)
        self._wait_for_sum(stage)
        return sent

    def _forward(self, part: range) -> float:
        return sum(self.blocks[k].forward for k in part)

    def _seconds(self, window: Window, part: range) -> float:
        """Seconds in which the part of a window that has its loss learns."""
        last = self.blocks[window.last]
        if window.first == window.last:
            return last.local
        head = max(0.0, last.local - last.forward - last.backward)
        return head + sum(self.blocks[k].forward + self.blocks[k].backward for k in part)

    def _learn_late(self, stage: int) -> None:
        """Run the backward pass that waits for its gradient."""
        late = self.late.pop(stage, None)
        if late is None:
            return
        assert late.message is not None
        backward = sum(self.blocks[k].backward for k in late.part)
        self._update(stage, late.part, self._compute(stage, backward, [late.message]))
        self._wait_for_sum(stage)

    def _compute(self, stage: int, seconds: float, needs: Iterable[int]) -> int:
        return self.tasks.add(stage, seconds / self.plan.layout.data, needs)

    def _message(self, sender: int, receiver: int, block: int, task: int) -> int:
        size = self.blocks[block].sends / self.plan.layout.data
        return self.tasks.send(self.link, (sender, receiver), size, task)

    def _update(self, stage: int, part: range, task: int) -> int:
        """Update what learnt in ``task``, at once or when its gradients are summed over the replicas.

        Returns:
            The task that is done when the stage may go on.
        """
        update = sum(self.blocks[k].update for k in part)
        if self.plan.layout.data == 1:
            return self.tasks.add(stage, update, [task])
        before = self._wait_for_sum(stage)
        size = sum(self.blocks[k].gradients for k in part)
        seconds = self.link.ring(size, self.plan.layout.data)
        self.sums[stage] = (self.tasks.add(("ring", stage), seconds, [task, *before]), update)
        return task

    def _wait_for_sum(self, stage: int) -> list[int]:
        """Make the update that waits for its sum, where there is one."""
        if stage not in self.sums:
            return []
        summed, update = self.sums.pop(stage)
        return [self.tasks.add(stage, update, [summed])]


def pipeline_seconds(
    blocks: Sequence[BlockTimes],
    stages: int,
    link: Link,
    *,
    micro_batches: int,
    batches: int,
    schedule: str = "1f1b",
) -> float:
    """Seconds in which backprop learns from so many batches on stages, by ``gpipe`` or ``1f1b``.

    Blocks are placed by their forward and backward passes.
    """
    costs = [block.forward + block.backward for block in blocks]
    plan = make_plan(Layout(layers=stages), costs, LAYER_WISE)
    own = [[blocks[k] for k in stage] for stage in plan.stages]
    seconds = {
        FORWARD: [sum(block.forward for block in stage) / micro_batches for stage in own],
        BACKWARD: [sum(block.backward for block in stage) / micro_batches for stage in own],
    }
    sends = [stage[-1].sends / micro_batches for stage in own]
    tasks = Tasks()
    done: dict[_Pass, int] = {}
    for each in _in_possible_order([_order(stages, k, micro_batches, schedule) for k in range(stages)]):
        before = _before(each, stages)
        needs = []
        if before is not None:
            needs = [done[before]]
            if before.stage != each.stage:
                size = sends[min(before.stage, each.stage)]
                needs = [tasks.send(link, (before.stage, each.stage), size, done[before])]
        done[each] = tasks.add(each.stage, seconds[each.kind][each.stage], needs)
    for number, stage in enumerate(own):
        tasks.add(number, sum(block.update for block in stage))
    # Weights change when a batch is done, so that the next one waits for it.
    return batches * max(tasks.finish())


class _Pass(NamedTuple):
    """A stage's pass of one micro-batch."""

    kind: str
    stage: int
    piece: int


def _order(stages: int, stage: int, micro_batches: int, schedule: str) -> list[_Pass]:
    """A stage's passes of a batch, in its order.

    Raises:
        ValueError: another schedule than ``gpipe`` or ``1f1b``.
    """
    if schedule not in ("gpipe", "1f1b"):
        raise ValueError(f"a pipeline is gpipe or 1f1b: received '{schedule}'")
    ahead = micro_batches if schedule == "gpipe" else min(micro_batches, stages - stage)
    order = [_Pass(FORWARD, stage, piece) for piece in range(ahead)]
    for piece in range(micro_batches):
        order.append(_Pass(BACKWARD, stage, piece))
        if piece + ahead < micro_batches:
            order.append(_Pass(FORWARD, stage, piece + ahead))
    return order


def _before(each: _Pass, stages: int) -> _Pass | None:
    """The pass whose result another one needs."""
    if each.kind == FORWARD:
        return each._replace(stage=each.stage - 1) if each.stage else None
    if each.stage == stages - 1:
        return each._replace(kind=FORWARD)
    return each._replace(stage=each.stage + 1)


def _in_possible_order(orders: Sequence[Sequence[_Pass]]) -> Iterator[_Pass]:
    """All stages' passes, each after the one that it needs; a stage's in its order."""
    done: set[_Pass] = set()
    queues = [deque(order) for order in orders]
    while any(queues):
        for queue in queues:
            while queue and ((needed := _before(queue[0], len(orders))) is None or needed in done):
                done.add(queue[0])
                yield queue.popleft()
