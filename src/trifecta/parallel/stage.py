"""A learner that trains the blocks of one stage.

A stage sends its output on as soon as it is known, and starts on the next batch while later stages still
learn from this one. The exception is a window on several stages: the last of them computes the loss and
sends the gradient of its input back, for which the blocks of the earlier ones wait.

Every block sees the batches in order, with the weights that it would have in a single process. Results are
equal to the bit, except that a window on several stages always runs as a plain graph, which differs by
rounding where a single process would use kernels.

Shapes: B images, of which each of D replicas has B / D.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trifecta.learner import Learner, LocalStep, build_optimizers
from trifecta.network import LocalNetwork
from trifecta.parallel.links import Link, waiting_for
from trifecta.parallel.plan import Plan
from trifecta.schedules import Window
from trifecta.window import plain_window_loss


class StageLearner(Learner):
    """Trains the blocks of one stage of ``plan``; ``options`` are those of :class:`trifecta.Learner`.

    Every process calls :meth:`step` for every batch. Processes behind the first stage ignore its arguments
    and use what the stage before sends. All processes call :meth:`state_dict` and :meth:`whole` together.

    Attributes:
        group: replicas of this stage, if there are several.
        is_last_step: whether training stops after this step; first stages set it, and send it on.
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
        self.plan, self.rank, self.group = plan, rank, group
        self.replica, self.stage = plan.layout.place(rank)
        check_network(network, plan, on_nan=options.get("on_nan", "stop"))
        super().__init__(network, **options)
        self._whole = _parameter_names(network, build_optimizers(network, range(len(network.blocks))))
        self._own = _parameter_names(network, self.optimizers)
        self._before, self._after = Link(rank - 1, self.device), Link(rank + 1, self.device)
        # The part of a window that waits for its gradient from the next stage, and what it then does.
        self._open: tuple[Window, Callable[[], None]] | None = None
        # An update that waits until its gradients are averaged over the replicas.
        self._pending: Callable[[], None] | None = None
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
        step = self._receive() if self.stage else self.begin(images, labels)
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
        self._before.flush()
        self._after.flush()

    def _receive(self) -> LocalStep:
        """Begin a step with the output of the stage before."""
        self.network.train()
        x, labels, is_last, *offsets = self._before.receive()
        self.is_last_step = bool(is_last)
        step = self._new_step(x, labels, offsets[0] if offsets else None)
        if self.total_steps is not None and self.steps < self.total_steps and not self.is_last_step:
            self._before.expect()
        return step

    def _send(self, x: Tensor, step: LocalStep) -> None:
        if self.stage < self.plan.layout.layers - 1:
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
        begins_here, progress = part.first == window.first, step.progress
        x = output = step.x if begins_here else step.x.requires_grad_()
        # Masks depend on a layer's place in the whole window.
        with self._passing(window.blocks, step):
            for k in part.blocks:
                _, output = self.network.pass_block(k, output, step.offsets)
        self._send(output, step)
        self._after.expect()

        def close() -> None:
            (gradient,) = self._after.receive()
            if output.requires_grad:
                torch.autograd.backward(output, gradient)
            if not begins_here:
                self._send_gradient(x)
            # The objective of a later block may own an optimizer here.
            self._update_window(Window(part.first, window.last), progress)
            self._finish_update()

        self._open = part, close
        if not begins_here:
            # The stage before waits for its gradient too, maybe before it sends the next batch.
            self._close_part(part)

    def _close_part(self, window: Window) -> None:
        """Update the part of a window that waits for its gradient, if it shares blocks with ``window``."""
        if self._open is None:
            return
        part, close = self._open
        if part.first <= window.last and window.first <= part.last:
            self._open = None
            close()

    def _send_gradient(self, x: Tensor) -> None:
        assert x.grad is not None
        self._before.send([x.grad])

    def _rows(self, images: int) -> slice:
        return self.plan.layout.rows(self.replica, images)

    def _update_window(self, window: Window, progress: float) -> None:
        """Update at once, or with several replicas as soon as their gradients are averaged.

        Averaging overlaps with the computation of the next window, which does not use the new weights.
        """
        groups = [group for optimizer in self._updates(window).values() for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        update = super()._update_window
        if self.group is None or not gradients:
            update(window, progress)
            return
        self._finish_update()
        total = torch.cat([gradient.flatten() for gradient in gradients])
        with waiting_for():
            work = dist.all_reduce(total, group=self.group, async_op=True)
        assert work is not None

        def finish() -> None:
            with waiting_for():
                work.wait()
            pieces = torch.split(total / self.plan.layout.data, [g.numel() for g in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))
            update(window, progress)

        self._pending = finish

    def _finish_update(self) -> None:
        """Make the update that waits for averaged gradients."""
        finish, self._pending = self._pending, None
        if finish is not None:
            finish()

    @contextmanager
    def whole(self) -> Iterator[LocalNetwork]:
        """Hold all blocks in this process for a while, as the first replica has them."""
        for stage, module in self._staged_modules():
            if stage != self.stage:
                module.to_empty(device=self.device)
            with waiting_for():
                for tensor in (*module.parameters(), *module.buffers()):
                    dist.broadcast(tensor.data, src=stage)
        try:
            yield self.network
        finally:
            self.release()

    def release(self) -> None:
        """Free the memory of other stages' parameters and buffers."""
        for stage, module in self._staged_modules():
            if stage != self.stage:
                module.to("meta")

    def _staged_modules(self) -> Iterator[tuple[int, nn.Module]]:
        """Return every block and head, with its stage; the label input is on the first."""
        for stage, blocks in enumerate(self.plan.stages):
            yield from ((stage, module) for module in self._modules(blocks))
        if self.network.label_input is not None:
            yield 0, self.network.label_input

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all stages as that of one learner; complete in the first process only."""
        state = super().state_dict()
        own = {k: _by_name(names, state["optimizers"][k]) for k, names in self._own.items()}
        parts: list[dict[int, _ByName]] = [{} for _ in range(self.plan.layout.ranks)]
        # Replicas have equal states: those of the first are sent.
        with waiting_for():
            dist.gather_object({} if self.replica else own, None if self.rank else parts, dst=0)
        if self.rank == 0:
            joined = {k: {n: v for part in parts for n, v in part.get(k, {}).items()} for k in self._whole}
            state["optimizers"] = {k: _in_groups(names, joined[k]) for k, names in self._whole.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore this stage's part of what :meth:`state_dict` returned in the first process."""
        whole = {k: _by_name(self._whole[k], state["optimizers"][k]) for k in self._own}
        own = {k: _in_groups(names, whole[k]) for k, names in self._own.items()}
        super().load_state_dict({**state, "optimizers": own})


def check_network(network: LocalNetwork, plan: Plan, *, on_nan: str) -> None:
    """Raise ``ValueError`` if training needs something that the processes of a plan cannot do."""
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
    optimizer = network.method.optimizer
    if layers > 1 and optimizer.clip_norm is not None and optimizer.ownership == "objective":
        raise ValueError(
            "the gradients of one objective may lie on several stages, where none knows their norm: "
            f"received clip_norm {optimizer.clip_norm}; use ownership=weight or parallel=data"
        )
    if layers > 1 and network.has_side_values:
        raise ValueError(
            "stages pass on features alone, and these blocks pass on other values too: use parallel=data"
        )


# The parameters in each of an optimizer's groups, by name.
_Groups = list[list[str]]
# Of each parameter by name: its entries in an optimizer's state, if any, and the settings of its group.
_ByName = dict[str, tuple[Any, dict[str, Any]]]


def _parameter_names(
    network: LocalNetwork, optimizers: Mapping[int, torch.optim.Optimizer]
) -> dict[int, _Groups]:
    """Return the parameters of optimizers, by owner."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        owner: [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
        for owner, optimizer in optimizers.items()
    }


def _by_name(groups: _Groups, state: Mapping[str, Any]) -> _ByName:
    """Split the ``state_dict`` of an optimizer with such groups by parameter."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    flat = [(name, own) for names, own in zip(groups, settings, strict=True) for name in names]
    return {name: (state["state"].get(index), own) for index, (name, own) in enumerate(flat)}


def _in_groups(groups: _Groups, by_name: _ByName) -> dict[str, Any]:
    """Build the ``state_dict`` of an optimizer with such groups; reverses :func:`_by_name`."""
    index = {name: k for k, name in enumerate(name for names in groups for name in names)}
    return {
        "state": {k: by_name[name][0] for name, k in index.items() if by_name[name][0] is not None},
        "param_groups": [
            {**by_name[names[0]][1], "params": [index[name] for name in names]} for names in groups
        ],
    }
