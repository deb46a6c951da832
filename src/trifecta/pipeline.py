"""Blocks that learn at the same time: one from a batch, the block before it already from the next.

A local update needs nothing from later blocks. So a block is free for the next batch as soon as its own
update is done, and several threads, each with a block, keep more cores busy than one operation split
among them. Exact: every block sees the batches in order, with the weights that it would have had.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition

import torch
from torch import Tensor

from trifecta.learner import Learner, LocalStep

Losses = list[Tensor | None]


class Pipeline:
    """Runs a learner's steps, up to ``workers`` windows at once.

    A step waits for weights that its input depends on: for the first block where the label's picture
    learns with it, for all where negatives are hard or the network's error feeds back.

    Args:
        learner: on the CPU; other devices order their work themselves.
        workers: number of threads, at least 1; PyTorch's own threads are shared out among them.
        depth: the most batches under way; by default one more than there are workers.

    Raises:
        ValueError: no workers.
    """

    def __init__(self, learner: Learner, workers: int, *, depth: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a pipeline has 1 worker or more: received {workers}")
        self.learner, self.workers = learner, workers
        self.depth = workers + 1 if depth is None else depth

    @property
    def blocks_read(self) -> int:
        """The number of blocks, from the first, that the next step's input depends on."""
        network = self.learner.network
        if not network.method.pipelines:
            return len(network.blocks)
        return int(network.label_input is not None and any(True for _ in network.label_input.parameters()))

    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Generator[Losses, None, None]:
        """Yield the losses of :meth:`Learner.step` for each of ``batches``, in their order.

        A batch is drawn when there is room for it: before the losses of those ahead of it are given out.
        """
        threads = torch.get_num_threads()
        share = max(1, threads // self.workers)
        torch.set_num_threads(share)
        try:
            # PyTorch counts threads separately in every thread.
            with ThreadPoolExecutor(
                self.workers, initializer=torch.set_num_threads, initargs=(share,)
            ) as pool:
                yield from _Run(self, pool.submit).steps(batches)
        finally:
            torch.set_num_threads(threads)


@dataclass(kw_only=True)
class _Entry:
    """A step under way; ``losses`` come when its last window has learnt."""

    step: LocalStep
    losses: Future[Losses] = field(default_factory=Future)
    is_running: bool = False

    def blocks(self) -> range:
        """Return those that the next window changes, and frozen ones that are passed on the way."""
        window = self.step.windows[self.step.windows_done]
        return range(window.first if self.step.windows_done else 0, window.last + 1)


class _Run:
    """Steps under way, oldest first, and the number of the step that is each block's next."""

    def __init__(self, pipeline: Pipeline, submit: Callable[..., Future[None]]) -> None:
        self.pipeline, self.learner, self.submit = pipeline, pipeline.learner, submit
        self.entries: deque[_Entry] = deque()
        self.next_step = [self.learner.steps] * len(self.learner.network.blocks)
        self.has_failed = False
        self.changed = Condition()

    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Losses]:
        for images, labels in batches:
            if len(self.entries) >= self.pipeline.depth:
                yield self._oldest()
            with self.changed:
                self.changed.wait_for(self._may_begin)
            if self.has_failed:
                break
            entry = _Entry(step=self.learner.begin(images, labels))
            with self.changed:
                self.entries.append(entry)
                self._start_ready_windows()
        while self.entries:
            yield self._oldest()

    def _may_begin(self) -> bool:
        read = self.next_step[: self.pipeline.blocks_read]
        return self.has_failed or all(step == self.learner.steps for step in read)

    def _oldest(self) -> Losses:
        losses = self.entries[0].losses.result()
        with self.changed:
            self.entries.popleft()
        return losses

    def _start_ready_windows(self) -> None:
        """Submit every window whose blocks have all learnt from the steps before."""
        for entry in self.entries:
            if entry.is_running or entry.losses.done():
                continue
            if all(self.next_step[block] == entry.step.number for block in entry.blocks()):
                entry.is_running = True
                self.submit(self._learn, entry)

    def _learn(self, entry: _Entry) -> None:
        blocks, step = entry.blocks(), entry.step
        try:
            self.learner.learn(step)
        except BaseException as error:
            entry.losses.set_exception(error)
            with self.changed:
                self.has_failed = True
                self.changed.notify()
            return
        with self.changed:
            entry.is_running = False
            # The last window also releases blocks that learn nothing in this step.
            for block in range(len(self.next_step)) if step.is_done else blocks:
                self.next_step[block] = max(self.next_step[block], step.number + 1)
            if step.is_done:
                entry.losses.set_result(step.losses)
            self._start_ready_windows()
            self.changed.notify()
