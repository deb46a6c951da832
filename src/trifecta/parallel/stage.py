"""A learner that trains the blocks of one stage.

A stage receives the features that the stage before sends, trains its own blocks on them, and sends its
output on as soon as it is known. Nothing comes back, so it starts on the next batch while later stages
still learn from this one. The exception is a window on several stages: the last of them computes the loss
and sends the gradient of its input back, and the blocks of the earlier ones wait for that gradient before
they see the next batch.

Every block sees the batches in order, with the weights that it would have in a single process. Results are
therefore equal to the bit, except that a window on several stages always runs as a plain graph, which
differs by rounding where a single process would use its own kernels.

Shapes: B images, of which each of D replicas has B / D.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trifecta.learner import Learner, LocalStep
from trifecta.network import LocalNetwork
from trifecta.parallel.faults import waiting_for
from trifecta.parallel.links import Link
from trifecta.parallel.plan import Plan
from trifecta.schedules import Window
from trifecta.window import plain_window_loss


@dataclass(frozen=True, kw_only=True)
class _OpenPart:
    """The part of a window on this stage, whose gradient comes from the next stage.

    Attributes:
        part: blocks of the window on this stage.
        window: these and all later blocks of the window, whose objective may own an optimizer here.
        x: input of the part, a leaf; None if the window begins here.
        output: output of the part, in the graph.
        progress: progress of the run before the step.
    """

    part: Window
    window: Window
    x: Tensor | None
    output: Tensor
    progress: float


class _PendingUpdate(NamedTuple):
    """An update that waits until its gradients are averaged over the replicas."""

    work: dist.Work
    total: Tensor
    gradients: list[Tensor]
    window: Window
    progress: float


class StageLearner(Learner):
    """Trains the blocks of one stage of ``plan``.

    Every process calls :meth:`step` for every batch. Processes behind the first stage ignore its arguments
    and use what the stage before sends.

    Args:
        network: network whose blocks of this stage are trained; the others are not touched.
        plan: assignment of blocks to stages.
        rank: rank of this process.
        group: replicas of this stage, if there are several.
        options: options of :class:`trifecta.Learner`.

    Attributes:
        is_last_step: whether training stops after this step; first stages set it, and send it on.

    Raises:
        ValueError: as :func:`check_network`.
    """

    def __init__(
        self,
        network: LocalNetwork,
        plan: Plan,
        rank: int,
        *,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        layout = plan.layout
        self.plan, self.group = plan, group
        self.replica, self.stage = layout.replica(rank), layout.stage(rank)
        check_network(network, plan, on_nan=options.get("on_nan", "stop"))
        super().__init__(network, **options)
        self._before = Link(rank - 1, self.device) if self.stage > 0 else None
        self._after = Link(rank + 1, self.device) if self.stage < layout.layers - 1 else None
        self._open: _OpenPart | None = None
        self._pending: _PendingUpdate | None = None
        self.is_last_step = False

    @property
    def blocks(self) -> range:
        """Blocks of this stage."""
        return self.plan.stages[self.stage]

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch; return the losses of this stage's blocks, L × (), None for all others."""
        # The next batch must wait for these blocks anyway, whether it is drawn here or on its way.
        window = next((w for w in self._next_windows() if w.last >= self.blocks.start), None)
        if window is not None:
            self._close_part(window)
        step = self.begin(images, labels) if self._before is None else self._receive()
        is_sent = False
        for part, window in self.plan.parts(self.stage, step.windows):
            self._close_part(part)
            if window is None:
                step.x = self._pass(step, part.blocks)
            elif part == window:
                self._learn_window(step, window)
            elif part.last == window.last:
                self._learn_end(step, part, window)
            else:
                self._open_part(step, part, window)
                is_sent = True
        if not is_sent:
            self._send(step.x, step)
        self._finish_update()
        return step.losses

    def finish(self) -> None:
        """Wait for the last gradient, and until everything is sent."""
        self._close_part(Window(self.blocks.start, self.blocks.stop - 1))
        for link in (self._before, self._after):
            if link is not None:
                link.flush()

    def _receive(self) -> LocalStep:
        """Begin a step with the output of the stage before."""
        assert self._before is not None
        self.network.train()
        x, labels, is_last, *offsets = self._before.receive()
        self.is_last_step = bool(is_last)
        step = self._new_step(x, labels, offsets[0] if offsets else None)
        if self.total_steps is not None and self.steps < self.total_steps and not self.is_last_step:
            self._before.expect()
        return step

    def _send(self, x: Tensor, step: LocalStep) -> None:
        if self._after is not None:
            is_last = torch.tensor(int(self.is_last_step), device=self.device)
            self._after.send([x, step.labels, is_last, *([] if step.offsets is None else [step.offsets])])

    def _learn_end(self, step: LocalStep, part: Window, window: Window) -> None:
        """Learn from the loss of a window that began on an earlier stage, and send the gradient back."""
        self._set_epoch(part, step.number)
        x = step.x.requires_grad_()
        with self._passing(window.blocks, step):
            loss, output = plain_window_loss(self.network, part, x, step.labels, step.offsets)
        torch.autograd.backward(loss)
        self._send_gradient(x)
        self._update_window(part, step.progress)
        step.losses[part.last] = loss.detach()
        step.x = output.detach()

    def _open_part(self, step: LocalStep, part: Window, window: Window) -> None:
        """Pass a batch through blocks whose window ends on a later stage."""
        self._set_epoch(part, step.number)
        begins_here = part.first == window.first
        x = output = step.x if begins_here else step.x.requires_grad_()
        # Masks depend on a layer's place in the whole window.
        with self._passing(window.blocks, step):
            for k in part.blocks:
                _, output = self.network.pass_block(k, output, step.offsets)
        self._send(output, step)
        assert self._after is not None
        self._after.expect()
        self._open = _OpenPart(
            part=part,
            window=Window(part.first, window.last),
            x=None if begins_here else x,
            output=output,
            progress=step.progress,
        )
        if not begins_here:
            # The stage before waits for its gradient too, maybe before it sends the next batch.
            self._close_part(part)

    def _close_part(self, window: Window) -> None:
        """Update the part of a window that waits for its gradient, if it shares blocks with ``window``."""
        own = self._open
        if own is None or own.part.last < window.first or window.last < own.part.first:
            return
        assert self._after is not None
        (gradient,) = self._after.receive()
        if own.output.requires_grad:
            torch.autograd.backward(own.output, gradient)
        self._open = None
        if own.x is not None:
            self._send_gradient(own.x)
        self._update_window(own.window, own.progress)
        self._finish_update()

    def _send_gradient(self, x: Tensor) -> None:
        assert self._before is not None
        assert x.grad is not None
        self._before.send([x.grad])

    @property
    def _replica(self) -> int:
        return self.replica

    def _rows(self, images: int) -> slice:
        return self.plan.layout.rows(self.replica, images)

    def _update_window(self, window: Window, progress: float, *, skips: bool = False) -> None:
        """Update at once, or with several replicas as soon as their gradients are averaged.

        Averaging overlaps with the computation of the next window, which does not use the new weights.
        """
        groups = [group for optimizer in self._updates(window).values() for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if self.group is None or not gradients:
            super()._update_window(window, progress, skips=skips)
            return
        self._finish_update()
        total = torch.cat([gradient.flatten() for gradient in gradients])
        with waiting_for():
            work = dist.all_reduce(total, group=self.group, async_op=True)
        assert work is not None
        self._pending = _PendingUpdate(work, total, gradients, window, progress)

    def _finish_update(self) -> None:
        """Make the update that waits for averaged gradients."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        with waiting_for():
            pending.work.wait()
        mean = pending.total / self.plan.layout.data
        pieces = torch.split(mean, [gradient.numel() for gradient in pending.gradients])
        for gradient, piece in zip(pending.gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))
        super()._update_window(pending.window, pending.progress)


def check_network(network: LocalNetwork, plan: Plan, *, on_nan: str) -> None:
    """Check that the processes of a plan can train a network.

    Raises:
        ValueError: it needs something that they cannot do.
    """
    data, layers = plan.layout.data, plan.layout.layers
    if data * layers > 1 and on_nan == "skip":
        raise ValueError("processes cannot agree in time to skip an update: received on_nan skip; use stop")
    if data > 1 and any(network.head(k).class_weights is not None for k in network.scored_blocks):
        raise ValueError(
            "each replica would take its own images' mean weight in place of the batch's: received "
            "class_weights; use parallel=layers"
        )
    if layers > 1 and network.method.steered_by_later_blocks:
        raise ValueError(
            f"blocks of method {network.method.name} need the whole network's prediction before every "
            "step, so that none could go ahead: use parallel=data"
        )
    if layers > 1 and network.has_side_values:
        raise ValueError(
            "stages pass on features alone, and these blocks pass on other values too: use parallel=data"
        )
