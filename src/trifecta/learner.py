"""One local step: the only place that detaches, runs backward and steps optimizers.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
from trifecta.local_network import LocalNetwork
from trifecta.precision import autocast, resolve_precision
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
    """

    number: int
    progress: float
    frozen: int
    windows: list[Window]
    x: Tensor
    labels: Tensor
    losses: list[Tensor | None]
    windows_done: int = 0

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
        precision: ``fp32`` (the dtype of weights and images as they are), ``bf16`` or ``auto``.
        total_steps: of the run; without it the learning rate cannot decay and stays constant.
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
        fused: bool | None = None,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        self.total_steps, self.fused, self.recompute = total_steps, fused, recompute
        self.kernels = EAGER
        self.network, self.generator = network, generator
        self.device = next(network.parameters()).device
        self.precision = resolve_precision(precision, self.device)
        self.steps = 0
        self.optimizers = self._build_optimizers()
        if recompute and (fused is False or stages_of(network.blocks) is None):
            warnings.warn("--recompute is ignored: only fused windows can recompute", stacklevel=2)
        resets = network.method.optimizer.head_resets
        heads = (network.head(block) for block in network.scored_blocks)
        if resets and not (total_steps and any(any(True for _ in h.parameters()) for h in heads)):
            warnings.warn(
                "--head-resets is ignored: it needs heads with weights, and total_steps", stacklevel=2
            )
        if network.method.optimizer.freeze_from < 1 and not total_steps:
            warnings.warn("--freeze-from is ignored: it needs total_steps", stacklevel=2)
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
        self.network.train()
        if self.resets_heads:
            self._reset_heads()
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        progress = self.steps / self.total_steps if self.total_steps else 0.0
        frozen = config.frozen_blocks(progress, num_blocks)
        with autocast(self.precision, self.device):
            x = self.first_input(images, labels)
        windows = self.network.method.schedule.windows(self.steps, num_blocks)
        step = LocalStep(
            number=self.steps,
            progress=progress,
            frozen=frozen,
            windows=[Window(max(w.first, frozen), w.last) for w in windows if w.last >= frozen],
            x=x,
            labels=labels,
            losses=[None] * num_blocks,
        )
        self.steps += 1
        return step

    def learn(self, step: LocalStep) -> None:
        """Let the step's next window learn."""
        window = step.windows[step.windows_done]
        with autocast(self.precision, self.device):
            if step.windows_done == 0:
                step.x = self._pass_frozen(step.x, step.frozen)
            loss, output = self.window_loss(window, step.x, step.labels)
            torch.autograd.backward(loss)
        self._set_learning_rate(window, step.progress)
        for owner in self._owners(window):
            self.optimizers[owner].step()
            self.optimizers[owner].zero_grad(set_to_none=True)
        step.losses[window.last], step.x = loss.detach(), output.detach()
        step.windows_done += 1

    @property
    def resets_heads(self) -> bool:
        """Whether the next step begins with fresh heads."""
        config = self.network.method.optimizer
        return bool(self.total_steps) and config.resets_heads(self.steps, self.total_steps or 0)

    def first_input(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the first block receives: (B, …), or for pairs (2B, …), positives first."""
        return first_input(self.network, images, labels, self.generator)

    def window_loss(self, window: Window, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The local loss at the window's last block, and that block's output, both in the graph."""
        network, head = self.network, self.network.head(window.last)
        stages = self._stages(window, x)
        if stages is None:
            return self.plain_window_loss(window, x, labels)
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
        if self.fused is False or self.network.method.schedule.every_block:
            return None
        stages = stages_of(self.network.blocks[window.first : window.last + 1])
        skips = self.network.head(window.last).skips_samples
        if stages is None or self.fused or self.recompute or skips or self.kernels != EAGER:
            return stages
        gains = all(stage.linear.gains for stage in stages)
        least = LEAST_FUSED_BYTES // (GAIN_ALONE if len(stages) == 1 else 1)
        return stages if gains and largest_response_bytes(stages, x) >= least else None

    def plain_window_loss(self, window: Window, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the blocks' own modules; a sum over blocks where each has a loss."""
        network, losses = self.network, []
        for k in range(window.first, window.last + 1):
            x = network.blocks[k](x)
            if k == window.last or network.method.schedule.every_block:
                losses.append(network.head(k).loss(x, labels))
        return torch.stack(losses).sum(), x

    @torch.no_grad()
    def _pass_frozen(self, x: Tensor, frozen: int) -> Tensor:
        """What the first blocks, which learn no more, make of their input."""
        for block in self.network.blocks[:frozen]:
            x = block(x)
        return x

    def _set_learning_rate(self, window: Window, progress: float) -> None:
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        for owner in self._owners(window):
            rate = config.rate(progress, end=config.end(owner, num_blocks))
            for group in self.optimizers[owner].param_groups:
                group["lr"] = rate

    def _reset_heads(self) -> None:
        """Draw the heads' weights anew and forget their optimizer states."""
        seed = int(torch.randint(2**31, (), generator=self.generator, device=self.device))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for block in self.network.scored_blocks:
                for module in self.network.head(block).modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
                for parameter in self.network.head(block).parameters():
                    for optimizer in self.optimizers.values():
                        optimizer.state.pop(parameter, None)

    def _owners(self, window: Window) -> range:
        if self.network.method.optimizer.ownership == "objective":
            return range(window.last, window.last + 1)
        return range(window.first, window.last + 1)

    def _build_optimizers(self) -> dict[int, torch.optim.Optimizer]:
        """Optimizers by owner: a block, or the block whose objective it is."""
        network, config = self.network, self.network.method.optimizer
        num_blocks = len(network.blocks)
        if config.ownership == "objective":
            reach = network.method.schedule.reach
            owned = {k: reach(k, num_blocks) for k in network.scored_blocks}
        else:
            owned = {k: range(k, k + 1) for k in range(num_blocks)}
        return {
            owner: config.build(
                [p for k in blocks for p in network.own_parameters(k)],
                hidden=[p for k in blocks for p in network.blocks[k].parameters() if p.ndim > 1],
            )
            for owner, blocks in owned.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the network's weights that the next step depends on."""
        return {
            "steps": self.steps,
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "generator": None if self.generator is None else self.generator.get_state(),
            "device": self.device.type,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; on a device of another kind with a warning."""
        self.steps = state["steps"]
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
