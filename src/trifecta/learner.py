"""One local step: the only place that detaches, runs backward and steps optimizers.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks.
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trifecta.blocks import Dropout, seeded_dropout
from trifecta.first_input import check_batch, first_input
from trifecta.fused import (
    EAGER,
    Stage,
    compiled_kernels,
    compiled_windows,
    largest_response_bytes,
    run_window,
    stages_of,
)
from trifecta.image_pairs import draw_offsets
from trifecta.local_network import LocalNetwork
from trifecta.ownership import build_optimizers, owners, reset_heads
from trifecta.precision import autocast, kept_precision, narrow_precision
from trifecta.precision_timing import time_precisions
from trifecta.schedules import Window

# A window whose largest response is smaller is a single piece anyway, and costs more calls than the graph.
LEAST_FUSED_BYTES = 4 * 2**20
# A block alone is worth it earlier: the plain graph makes the gradient of its input, which nobody reads.
GAIN_ALONE = 4


@dataclass(kw_only=True)
class LocalStep:
    """One batch on its way through the blocks.

    Attributes:
        number: of the step, counted from 0.
        progress: the share of the run before it; 0 where the run's length is unknown.
        frozen: how many blocks, counted from the first, learn no more.
        windows: those that learn, in order.
        x: what the next of them receives.
        labels: (B,).
        losses: of each block that has closed a window, L × ().
        windows_done: how many have learnt.
        offsets: (L,) which images make a pair in each block, where every block receives new ones.
    """

    number: int
    progress: float
    frozen: int
    windows: list[Window]
    x: Tensor
    labels: Tensor
    losses: list[Tensor | None]
    windows_done: int = 0
    offsets: Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether every window has learnt."""
        return self.windows_done == len(self.windows)


class Learner:
    """Trains a :class:`LocalNetwork`, one batch a step, window by window.

    A window's graph lives from its own forward pass to its own backward pass; what goes on to the next
    window is detached. All updates of a step follow from the weights before that step, because a
    window's output is computed before its weights move.

    Args:
        network: the network, already on its device.
        generator: draws the wrong labels; on the network's device. PyTorch's own where None.
        precision: ``fp32`` (the dtype of weights and images as they are), ``bf16``, or ``auto``: the faster
            of the two, which is found out on a device that has both when the first step begins.
        total_steps: of the run; without it the learning rate stays constant and no block freezes.
        steps_per_epoch: for schedules that restart in every epoch and settings that change by epoch;
            without it the whole run counts as the first epoch.
        fused: whether windows run by :mod:`trifecta.fused` where their blocks allow, which takes less
            memory, or by the plain graph. By default where it is faster, convolutions with enough work, and
            where ``recompute``, ``compiled`` or a loss that skips samples would do nothing otherwise.
        recompute: keep less of a fused window and make the rest again: a third of its memory less, for
            some of its speed. Not exact to the bit where pieces differ in size, as rounding then may.
        compiled: on CPU compile the elementwise work of fused windows; on CUDA compile the plain graph of
            every window and replay it as a CUDA graph. With a warning, neither where no compiler works.
    """

    def __init__(
        self,
        network: LocalNetwork,
        *,
        generator: torch.Generator | None = None,
        precision: str = "fp32",
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        fused: bool | None = None,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.fused, self.recompute = fused, recompute
        self.kernels = EAGER
        self.network, self.generator = network, generator
        self.device = next(network.parameters()).device
        self._asked_precision = precision
        self.precision = narrow_precision(precision, self.device)
        self.steps = 0
        self.optimizers = build_optimizers(network)
        self._dropout = [[m for m in block.modules() if isinstance(m, Dropout)] for block in network.blocks]
        if recompute and (fused is False or stages_of(network.blocks) is None):
            warnings.warn("--recompute is ignored: only fused windows can recompute", stacklevel=2)
        resets = network.method.optimizer.head_resets
        heads = (network.head(block) for block in network.scored_blocks)
        if resets and not (total_steps and any(any(True for _ in h.parameters()) for h in heads)):
            warnings.warn(
                "--head-resets is ignored: it needs heads with weights, and total_steps", stacklevel=2
            )
        if compiled and self.device.type == "cuda":
            self.window_loss = compiled_windows(  # type: ignore[assignment]
                self.plain_window_loss, self.device, mode="reduce-overhead"
            )
        elif compiled:
            self.kernels = compiled_kernels(self.device)

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch; the loss of each block that closed a window, L × (), else None.

        Losses stay on the device, detached. Raises ValueError for images of another shape than the
        network's, and for labels that are not (B,) int64 or, seen on CPU only, not below K.
        """
        step = self.begin(images, labels)
        while not step.is_done:
            self.learn(step)
        return step.losses

    def begin(self, images: Tensor, labels: Tensor) -> LocalStep:
        """Start a step, of which :meth:`learn` then does one window at a time; raises as :meth:`step`.

        Two steps may be under way at once where every block does them in order (:mod:`trifecta.pipeline`).
        """
        check_batch(self.network, images, labels)
        if self.precision == "auto":
            self.precision = time_precisions(self, len(images)).faster
        self.network.train()
        if self.resets_heads:
            seed = int(torch.randint(2**31, (), generator=self.generator, device=self.device))
            reset_heads(self.network, self.optimizers, seed)
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        progress = self.steps / self.total_steps if self.total_steps else 0.0
        frozen = config.frozen_blocks(progress, num_blocks)
        with autocast(self.precision, self.device):
            x = self.first_input(images, labels)
        windows = self._windows()
        step = LocalStep(
            number=self.steps,
            progress=progress,
            frozen=frozen,
            windows=[Window(max(w.first, frozen), w.last) for w in windows if w.last >= frozen],
            x=x,
            labels=labels,
            losses=[None] * num_blocks,
            offsets=self.draw_offsets(len(labels)),
        )
        self.steps += 1
        return step

    def learn(self, step: LocalStep) -> None:
        """Let the step's next window learn."""
        window = step.windows[step.windows_done]
        self._set_epoch(window, step.number)
        if step.windows_done == 0:
            step.x = self._pass(step, range(step.frozen))
        blocks = range(window.first, window.last + 1)
        with autocast(self.precision, self.device), self._masks(blocks, step.number):
            loss, output = self.window_loss(window, step.x, step.labels, step.offsets)
            torch.autograd.backward(loss)
        self._set_learning_rate(window, step.progress)
        for owner in owners(self.network, window):
            self.optimizers[owner].step()
            self.optimizers[owner].zero_grad(set_to_none=True)
        if window.first == 0:
            # The gradient of a label that another objective owns is thrown away.
            for parameter in self.network.label_parameters():
                parameter.grad = None
        step.losses[window.last], step.x = loss.detach(), output.detach()
        step.windows_done += 1
        idle = range(window.last + 1, len(self.network.blocks)) if step.is_done else range(0)
        if idle:
            # Blocks that idle are run all the same: their running statistics follow their input.
            self._pass(step, idle)

    @property
    def resets_heads(self) -> bool:
        """Whether the next step begins with fresh heads."""
        config = self.network.method.optimizer
        return bool(self.total_steps) and config.resets_heads(self.steps, self.total_steps or 0)

    def first_input(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the first block receives: (B, …), or for pairs (2B, …), positives first."""
        return first_input(self.network, images, labels, self.generator)

    def draw_offsets(self, images: int) -> Tensor | None:
        """Which of so many images make a pair in each block, (L,); None where pairs stay what they are."""
        if not self.network.renews_pairs:
            return None
        return draw_offsets(len(self.network.blocks), images, self.generator, self.device)

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The local loss at the window's last block, and that block's output, both in the graph.

        ``offsets`` as :meth:`draw_offsets` returns them, or None to draw them here.
        """
        network, head = self.network, self.network.head(window.last)
        stages = self._stages(window, x)
        if stages is None:
            return self.plain_window_loss(window, x, labels, offsets)
        constant = network.image_shape[0] if window.first == 0 else 0
        output, moments = run_window(
            stages,
            x,
            constant_channels=constant,
            skip_zero_rows=head.skips_samples,
            recompute=self.recompute,
            patches=head.reads_patches,
            sums_up=head.reads_moments,
            kernels=self.kernels,
        )
        return head.loss(moments if head.reads_moments or head.reads_patches else output, labels), output

    def _stages(self, window: Window, x: Tensor) -> tuple[Stage, ...] | None:
        """The window's blocks for a fused pass over ``x``; None for a plain one."""
        network = self.network
        if self.fused is False or network.method.schedule.every_block:
            return None
        if network.reads != "output" or network.renews_pairs:
            return None
        stages = stages_of(network.blocks[window.first : window.last + 1])
        skips = network.head(window.last).skips_samples
        if stages is None or self.fused or self.recompute or skips or self.kernels != EAGER:
            return stages
        gains = all(stage.linear.gains for stage in stages)
        least = LEAST_FUSED_BYTES // (GAIN_ALONE if len(stages) == 1 else 1)
        return stages if gains and largest_response_bytes(stages, x) >= least else None

    def plain_window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same by the blocks' own modules; a sum over blocks where each has a loss."""
        network, losses = self.network, []
        offsets = self.draw_offsets(len(labels)) if offsets is None else offsets
        for k in range(window.first, window.last + 1):
            seen, x = network.pass_block(k, network.renewed(k, x, len(labels), offsets))
            if k == window.last or network.method.schedule.every_block:
                losses.append(network.head(k).loss(seen, labels))
        return torch.stack(losses).sum(), x

    def _windows(self) -> tuple[Window, ...]:
        schedule, step = self.network.method.schedule, self.steps
        if schedule.restarts and self.steps_per_epoch:
            step %= self.steps_per_epoch
        return schedule.windows(step, len(self.network.blocks))

    def _set_epoch(self, window: Window, step: int) -> None:
        """Tell the heads of a window which epoch it is."""
        length = self.steps_per_epoch
        epoch, epochs = (step // length, (self.total_steps or 0) // length) if length else (0, 0)
        for block in range(window.first, window.last + 1):
            if block in self.network.scored_blocks:
                self.network.head(block).set_epoch(epoch, max(epochs, epoch + 1))

    @torch.no_grad()
    def _pass(self, step: LocalStep, blocks: range) -> Tensor:
        """What ``blocks``, which do not learn in this step, make of its ``x``."""
        x = step.x
        with autocast(self.precision, self.device), self._masks(blocks, step.number):
            for k in blocks:
                x = self.network.blocks[k](self.network.renewed(k, x, len(step.labels), step.offsets))
        return x

    def _masks(self, blocks: range, step: int) -> AbstractContextManager[None]:
        """Dropout in ``blocks`` draws from numbers that follow from the seed, the step and the block."""
        layers = [layer for k in blocks for layer in self._dropout[k]]
        seed = None if self.generator is None else self.generator.initial_seed()
        return seeded_dropout(layers, self.device, None if seed is None else [seed, step, blocks.start])

    def _set_learning_rate(self, window: Window, progress: float) -> None:
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        for owner in owners(self.network, window):
            rate = config.rate(progress, end=config.end(owner, num_blocks))
            for group in self.optimizers[owner].param_groups:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network's weights that the next step depends on."""
        return {
            "steps": self.steps,
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "generator": None if self.generator is None else self.generator.get_state(),
            "device": self.device.type,
            "precision": self.precision,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; on a device of another kind with a warning.

        ``auto`` then is the precision that the state was trained in.
        """
        self.steps = state["steps"]
        self.precision = kept_precision(self._asked_precision, state.get("precision"), self.device)
        for owner, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][owner])
        if self.generator is None or state["generator"] is None:
            return
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"].cpu())
        else:
            warnings.warn(
                f"random numbers of {state['device']} do not continue on {self.device.type}: the run goes "
                "on, with other wrong labels and augmentation than it would have had",
                stacklevel=2,
            )
