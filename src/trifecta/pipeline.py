"""Blocks that learn at the same time: one from a batch, the block before it from the next one.

A local update needs nothing from later blocks, so several threads, each with a block, keep more cores busy
than one operation split among them. Every block sees the batches in order, with the weights that it would
have had alone.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise, starmap
from threading import Condition, Semaphore

import torch
from torch import Tensor

from trifecta.learner import Learner, LocalStep

Losses = list[Tensor | None]


class Pipeline:
    """Runs a learner's steps, up to ``workers`` windows at once.

    A step waits for weights that its input depends on: those of the first block if a label's picture learns
    with it, those of all blocks if negatives are hard or the network's error feeds back.

    Args:
        learner: on the CPU; other devices order their work themselves.
        workers: number of windows at once, at least 1; PyTorch's own threads are shared out among them.
        depth: number of batches under way, at most; by default one more than there are workers.
    """

    def __init__(self, learner: Learner, workers: int, *, depth: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a pipeline has 1 worker or more: received {workers}")
        self.learner, self.workers = learner, workers
        self.depth = workers + 1 if depth is None else depth

    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Generator[Losses, None, None]:
        """Yield the losses of :meth:`Learner.step` for each of ``batches``, in their order.

        A batch is drawn when there is room for it: before the losses of those ahead of it are yielded.
        """
        threads = torch.get_num_threads()
        share = max(1, threads // self.workers)
        torch.set_num_threads(share)
        run, under_way = _Run(self.learner, self.workers), deque[Future[Losses]]()
        try:
            # A thread a step. PyTorch counts its own threads separately in each of them.
            with ThreadPoolExecutor(
                self.depth, initializer=torch.set_num_threads, initargs=(share,)
            ) as pool:
                for images, labels in batches:
                    if len(under_way) >= self.depth:
                        yield under_way.popleft().result()
                    if not run.may_begin():
                        break
                    under_way.append(pool.submit(run.learn, self.learner.begin(images, labels)))
                while under_way:
                    yield under_way.popleft().result()
        finally:
            torch.set_num_threads(threads)


class _Run:
    """Steps under way: the number of each block's next step, and of the first step that failed."""

    def __init__(self, learner: Learner, workers: int) -> None:
        self.learner, self.slots, self.changed = learner, Semaphore(workers), Condition()
        self.next_steps = [learner.steps] * len(learner.network.blocks)
        self.failed = math.inf

    def may_begin(self) -> bool:
        """Wait for the blocks that the next step's input depends on; return whether no step has failed."""
        network = self.learner.network
        label_learns = network.label_input is not None and list(network.label_input.parameters())
        first = slice(1 if label_learns else 0)
        return self._wait(first if network.method.pipelines else slice(None), self.learner.steps)

    def learn(self, step: LocalStep) -> Losses:
        """Learn from a batch, each window as soon as its blocks have learned from the batch before."""
        # With frozen blocks before the first window and idle ones behind the last, which pass the batch on.
        ends = [*(window.last + 1 for window in step.windows[:-1]), len(self.next_steps)]
        try:
            for blocks in starmap(slice, pairwise([0, *ends])):
                if not self._wait(blocks, step.number):
                    break
                if not step.is_done:
                    with self.slots:
                        self.learner.learn(step)
                with self.changed:
                    self.next_steps[blocks] = [step.number + 1] * len(self.next_steps[blocks])
                    self.changed.notify_all()
        except BaseException:
            with self.changed:
                self.failed = min(self.failed, step.number)
                self.changed.notify_all()
            raise
        return step.losses

    def _wait(self, blocks: slice, step: int) -> bool:
        """Wait until ``blocks`` have learned in all steps before ``step``; False if one of these failed."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.failed < step or all(number == step for number in self.next_steps[blocks])
            )
            return self.failed >= step
