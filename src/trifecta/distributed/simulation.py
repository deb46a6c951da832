"""Simulated devices and links: when each of many tasks is done.

A task runs on a *resource*, a device or a link. A resource does its tasks one at a time and in their order;
a task begins when all that it needs is there.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


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
