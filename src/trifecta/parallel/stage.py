"""A learner that holds some of the blocks: one stage of a replica.

A stage receives what the one before passes on, detached, lets its own blocks learn, and sends what they
pass on as soon as it is there. Nothing comes back, and so a stage goes on with the next batch while later
ones still work on this one. A window that stands on two stages is the exception: the later one, which has
its loss, sends back the gradient of what the window's part there received. The blocks of the earlier one
wait for that before they see the next batch; all others go on.

Every block sees the batches in order, with the weights that it would have had in one process, so results
are the same to the bit; but a window on two stages runs by the plain graph, and where one process would
fuse it, its results differ by rounding.

Shapes: B images, of which a replica has b = B / replicas; L blocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta.learner import Learner, LocalStep
from trifecta.network import LocalNetwork
from trifecta.parallel.faults import waiting_for
from trifecta.parallel.links import Receiver, Sender
from trifecta.parallel.plan import Plan
from trifecta.schedules import Window
from trifecta.window import plain_window_loss


@dataclass(frozen=True)
class Replicas:
    """The replicas of one stage.

    Attributes:
        group: their processes.
        count: how many there are.
        index: of this one.
    """

    group: dist.ProcessGroup
    count: int
    index: int

    def rows(self, images: int) -> slice:
        """Return the share of a batch of so many images that is this replica's.

        Raises:
            ValueError: the replicas cannot have equal shares.
        """
        if images % self.count:
            raise ValueError(
                f"replicas have equal shares of a batch: received {images} images for {self.count}; use "
                f"batch_size={max(1, images // self.count) * self.count}"
            )
        share = images // self.count
        return slice(self.index * share, (self.index + 1) * share)

    def average(self, parameters: Iterable[nn.Parameter]) -> "Averaging":
        """Begin to average the gradients of ``parameters`` over the replicas."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        with waiting_for():
            work = dist.all_reduce(together, group=self.group, async_op=True)
        assert work is not None
        return Averaging(work=work, together=together, gradients=gradients, count=self.count)


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Gradients whose average is under way."""

    work: dist.Work
    together: Tensor
    gradients: list[Tensor]
    count: int

    def finish(self) -> None:
        """Wait for the average, which then stands in place of the gradients."""
        with waiting_for():
            self.work.wait()
        pieces = torch.split(self.together / self.count, [g.numel() for g in self.gradients])
        for gradient, piece in zip(self.gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.group = group
        total = x.clone()
        with waiting_for():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        total = gradients[0].clone()
        with waiting_for():
            dist.all_reduce(total, group=ctx.group)
        return total, None


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation by the mean and variance of all replicas' samples.

    The same as :class:`torch.nn.SyncBatchNorm`, which needs a GPU, and in two passes: the variance is that
    around the mean of all. Replicas have equally many samples.
    """

    shared: "_Uncopied"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if not self.training or self.shared.group is None:
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = self._sum(torch.full((), x.numel() // x.shape[1], dtype=wide.dtype, device=x.device))
        mean = self._sum(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = self._sum(centred.square().sum(dims)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(values, self.shared.group)  # type: ignore[no-untyped-call]
        return total

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Take samples of any dimensions."""


@dataclass(frozen=True)
class _Uncopied:
    """Processes; None in a copy of a module, which is not one of the replicas."""

    group: dist.ProcessGroup | None

    def __deepcopy__(self, memo: object) -> "_Uncopied":
        return _Uncopied(None)


def synchronize_statistics(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Let every batch normalisation in ``network`` use the statistics of all replicas."""
    for module in list(network.modules()):
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            # The layer keeps its place, its parameters and its buffers.
            module.__class__ = SynchronizedBatchNorm
            module.shared = _Uncopied(group)  # type: ignore[assignment]


@dataclass(kw_only=True)
class _Waiting:
    """The part of a window that waits for its gradient.

    Attributes:
        window: the blocks of it that are here.
        update: these and those behind them, whose objective may own an optimizer here.
        output: of the last of them, in the graph.
        received: what the first of them received, a leaf; None where the window begins here.
        step: of the batch.
    """

    window: Window
    update: Window
    output: Tensor
    received: Tensor | None
    step: LocalStep


class _LateUpdate(NamedTuple):
    """An update that waits for the average of its gradients over the replicas."""

    averaging: Averaging
    window: Window
    progress: float


class StageLearner(Learner):
    """Trains the blocks of one stage of ``plan``.

    Every process calls :meth:`step` for every batch; those behind the first stage ignore its arguments, and
    take what the stage before sends.

    Args:
        network: whose blocks of this stage are trained; the others are not touched.
        plan: which stage holds which blocks.
        rank: of this process.
        replicas: of this stage, which share the images of every batch; None where there is one.
        options: of :class:`trifecta.Learner`.

    Raises:
        ValueError: a method whose blocks need the whole network's prediction, a network that passes on
            values beside its features, or updates that are skipped, which stages could not agree on.
    """

    def __init__(
        self,
        network: LocalNetwork,
        plan: Plan,
        rank: int,
        *,
        replicas: Replicas | None = None,
        **options: Any,
    ) -> None:
        self.plan, self.rank, self.replicas = plan, rank, replicas
        self.stage = plan.layout.stage(rank)
        check_network(network, plan, options.get("on_nan", "stop"))
        super().__init__(network, **options)
        before, after = self._neighbour(-1), self._neighbour(1)
        self._receives = None if before is None else Receiver(before, self.device)
        self._sends = None if after is None else Sender(after, self.device)
        self._gradients_in = None if after is None else Receiver(after, self.device)
        self._gradients_out = None if before is None else Sender(before, self.device)
        self._waiting: _Waiting | None = None
        self._late: _LateUpdate | None = None
        # Told by the first stage, and passed on with every batch.
        self.is_last_step = False

    @property
    def blocks(self) -> range:
        """Those of this stage."""
        return self.plan.stages[self.stage]

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch; return the losses of this stage's blocks, L × (), None for all others."""
        if self._receives is None and self.network.label_parameters():
            # The first input depends on the labels' pictures, which learn with the first block.
            self._finish_waiting(Window(0, 0))
        if self._receives is not None:
            # What the next batch's first window needs anyway is done while that batch is on its way.
            window = next((w for w in self._next_windows() if w.last >= self.blocks.start), None)
            if window is not None:
                self._finish_waiting(window)
        step = self.begin(images, labels) if self._receives is None else self._received()
        has_sent = False
        for window, learns in self._parts(step):
            self._finish_waiting(window)
            if not learns:
                step.x = self._pass(step, window.blocks)
            elif window in step.windows:
                self._learn_window(step, window)
            else:
                has_sent = self._learn_part(step, window)
        if not has_sent:
            self._send(step.x, step)
        self._finish_late()
        return step.losses

    def finish(self) -> None:
        """Wait for the last gradient, and until everything is sent."""
        self._finish_waiting(Window(self.blocks.start, self.blocks.stop - 1))
        for sender in (self._sends, self._gradients_out):
            if sender is not None:
                sender.flush()

    def _neighbour(self, distance: int) -> int | None:
        stage, layout = self.stage + distance, self.plan.layout
        if not 0 <= stage < layout.layers:
            return None
        return layout.rank(layout.replica(self.rank), stage)

    def _received(self) -> LocalStep:
        """Begin a step with what the stage before sent."""
        assert self._receives is not None
        self.network.train()
        x, labels, is_last, *offsets = self._receives.receive()
        self.is_last_step = bool(is_last)
        step = self._new_step(x, labels, offsets[0] if offsets else None)
        if self.total_steps is not None and self.steps < self.total_steps and not self.is_last_step:
            self._receives.expect()
        return step

    def _parts(self, step: LocalStep) -> list[tuple[Window, bool]]:
        """Parts of windows, which learn, and blocks that only pass a batch on, in order."""
        parts, at = [], self.blocks.start
        for window in step.windows:
            part = Window(max(window.first, self.blocks.start), min(window.last, self.blocks.stop - 1))
            if part.first > part.last:
                continue
            if at < part.first:
                parts.append((Window(at, part.first - 1), False))
            parts.append((part, True))
            at = part.last + 1
        if at < self.blocks.stop:
            parts.append((Window(at, self.blocks.stop - 1), False))
        return parts

    def _learn_part(self, step: LocalStep, part: Window) -> bool:
        """Learn as much of a window as is here; return whether its output has been sent."""
        window = next(w for w in step.windows if w.first <= part.first <= w.last)
        begins_here, ends_here = part.first == window.first, part.last == window.last
        received = step.x if begins_here else step.x.requires_grad_()
        self._set_epoch(part, step.number)
        # Masks depend on a layer's place in its whole window.
        with self._passing(window.blocks, step):
            if ends_here:
                loss, output = plain_window_loss(self.network, part, received, step.labels, step.offsets)
            else:
                output = received
                for k in part.blocks:
                    _, output = self.network.pass_block(k, output, step.offsets)
        if not ends_here:
            self._send(output, step)
            assert self._gradients_in is not None
            self._gradients_in.expect()
            update = Window(part.first, window.last)
            self._waiting = _Waiting(
                window=part,
                update=update,
                output=output,
                received=None if begins_here else received,
                step=step,
            )
            if not begins_here:
                # The stage before waits, too, and may have to before it sends the next batch.
                self._finish_waiting(part)
            return True
        torch.autograd.backward(loss)
        self._send_gradient(received)
        self._update_window(part, step.progress)
        step.losses[part.last] = loss.detach()
        step.x = output.detach()
        return False

    def _finish_waiting(self, window: Window) -> None:
        """Let the part of a window that waits learn, before any of its blocks in ``window`` run again."""
        waiting = self._waiting
        if waiting is None or waiting.window.last < window.first or window.last < waiting.window.first:
            return
        assert self._gradients_in is not None
        (gradient,) = self._gradients_in.receive()
        if waiting.output.requires_grad:
            torch.autograd.backward(waiting.output, gradient)
        self._waiting = None
        if waiting.received is not None:
            self._send_gradient(waiting.received)
        self._update_window(waiting.update, waiting.step.progress)
        self._finish_late()

    @property
    def _replica(self) -> int:
        return 0 if self.replicas is None else self.replicas.index

    def _rows(self, images: int) -> slice:
        return slice(None) if self.replicas is None else self.replicas.rows(images)

    def _update_window(self, window: Window, progress: float, *, skips: bool = False) -> None:
        """Update at once, or where there are replicas when their gradients have been averaged.

        That goes on while the next window is computed, which does not see this one's new weights.
        """
        parameters = [
            p for o in self._updates(window).values() for group in o.param_groups for p in group["params"]
        ]
        if self.replicas is None or all(p.grad is None for p in parameters):
            super()._update_window(window, progress, skips=skips)
            return
        self._finish_late()
        self._late = _LateUpdate(self.replicas.average(parameters), window, progress)

    def _finish_late(self) -> None:
        """Make the update that waits for an average."""
        late, self._late = self._late, None
        if late is not None:
            late.averaging.finish()
            super()._update_window(late.window, late.progress)

    def _send(self, x: Tensor, step: LocalStep) -> None:
        if self._sends is not None:
            is_last = torch.tensor(int(self.is_last_step), device=self.device)
            offsets = [] if step.offsets is None else [step.offsets]
            self._sends.send([x, step.labels, is_last, *offsets])

    def _send_gradient(self, received: Tensor) -> None:
        assert self._gradients_out is not None
        assert received.grad is not None
        self._gradients_out.send([received.grad])


def check_network(network: LocalNetwork, plan: Plan, on_nan: str) -> None:
    """Check that a network can be trained by the processes of a plan.

    Raises:
        ValueError: it needs what they cannot do.
    """
    if plan.layout.ranks == 1:
        return
    if on_nan == "skip":
        raise ValueError("processes cannot agree in time to skip an update: received on_nan skip; use stop")
    if plan.layout.data > 1 and any(
        network.head(k).class_weights is not None for k in network.scored_blocks
    ):
        raise ValueError(
            "each replica would take its own images' mean weight in place of the batch's: received "
            "class_weights; use parallel=layers"
        )
    if plan.layout.layers == 1:
        return
    if network.method.steered_by_later_blocks:
        raise ValueError(
            f"blocks of method {network.method.name} need the whole network's prediction before every "
            "step, so that none could go ahead: use parallel=data"
        )
    if network.has_side_values:
        raise ValueError(
            "stages pass on features alone, and these blocks pass on other values too: use parallel=data"
        )
