"""One local step: the only place that detaches, runs backward and steps optimizers.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_memory_format
from trifecta._utils.precision import autocast, resolved_precision
from trifecta.inputs.image_pairs import draw_offsets
from trifecta.learning.first_input import check_batch, first_input
from trifecta.learning.learner_state import restore, state_of
from trifecta.learning.lone_samples import normalized_by_running_statistics
from trifecta.learning.ownership import build_optimizers, owners
from trifecta.learning.skipping import KeptBuffers, is_finite
from trifecta.learning.step import LocalStep
from trifecta.learning.window_loss import window_loss
from trifecta.network import LocalNetwork
from trifecta.nn.blocks import Dropout, seeded_dropout
from trifecta.nn.carried import map_tensors
from trifecta.schedules import Window


class Learner:
    """Trains a :class:`LocalNetwork`, one batch a step, window by window.

    A window's graph lives from its own forward pass to its own backward pass; what goes on to the next
    window is detached. All updates of a step follow from the weights before that step, because a
    window's output is computed before its weights move.

    Args:
        network: the network, already on its device.
        generator: draws the wrong labels; on the network's device. PyTorch's own where None.
        precision: ``fp32`` (the dtype of weights and images as they are), ``bf16``, or ``auto``: what the
            device is made for, see :func:`trifecta._utils.precision.resolved_precision`.
        total_steps: of the run; without it the learning rate stays constant and no block freezes.
        steps_per_epoch: for schedules that restart in every epoch and settings that change by epoch;
            without it the whole run counts as the first epoch.
        fused: whether windows run by :mod:`trifecta.fused` where their blocks allow, which takes less
            memory, or by the plain graph. By default where it is faster, on a CPU: convolutions with enough
            work, and losses that skip samples, which would gain nothing otherwise.
        on_nan: ``stop`` leaves it to the caller to look at the losses; ``skip`` leaves a window's weights,
            optimizer and running statistics as they were where its loss or a gradient is not finite, and
            its loss None. On a GPU that waits for every window.
        step_optimizer: called with every optimizer in place of its own ``step``, such as to clip gradients
            first, or by a library that has steps of its own.

    Raises:
        ValueError: no weight of the network, its label input and its heads can learn.
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
        on_nan: str = "stop",
        step_optimizer: Callable[[torch.optim.Optimizer], object] | None = None,
    ) -> None:
        self.total_steps, self.steps_per_epoch, self.fused = total_steps, steps_per_epoch, fused
        self.network, self.generator = network, generator
        self.device = network.device
        self.asked_precision = precision
        self.precision = resolved_precision(precision, self.device)
        self.on_nan = on_nan
        self.steps = 0
        # Steps in which some window was skipped.
        self.skipped: set[int] = set()
        self.optimizers = build_optimizers(network, self.blocks)
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError(
                "nothing can learn: all blocks are frozen, and the heads of the method have no weights; "
                "let a block learn (requires_grad), or use a method with classifiers, such as superfecta"
            )
        self._said: set[str] = set()
        # Blocks whose gradients have been looked at.
        self._reached: set[int] = set()
        self._step_optimizer = step_optimizer
        self._dropout = [[m for m in block.modules() if isinstance(m, Dropout)] for block in network.blocks]

    @property
    def blocks(self) -> range:
        """Those that learn here: all of them."""
        return range(len(self.network.blocks))

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch; return the loss of each block that closed a window, L × (), else None.

        Losses stay on the device, detached.

        Raises:
            ValueError: images of another shape than the network's, or labels that are not (B,) int64 or,
                checked on CPU only, not below K.
        """
        step = self.begin(images, labels)
        while not step.is_done:
            self.learn(step)
        return step.losses

    def begin(self, images: Tensor, labels: Tensor) -> LocalStep:
        """Start a step, of which :meth:`learn` then does one window at a time; raises as :meth:`step`.

        Two steps may be under way at once where every block does them in order, see
        :class:`trifecta.learning.Pipeline`.
        """
        images = check_batch(self.network, images, labels)
        self.network.train()
        if len(labels) == 1 and self.network.image_pairs is not None:
            self._warn_once("a batch of one has no other image to make a negative of: it teaches nothing")
        rows = self._rows(len(labels))
        with autocast(self.precision, self.device):
            # A label's picture beside an image would leave the layout that convolutions like.
            x = in_memory_format(first_input(self.network, images, labels, self.generator, rows))
        labels = labels[rows]
        return self._new_step(x, labels, self._draw_offsets(len(labels)))

    @property
    def _replica(self) -> int:
        """The number of this process among those that learn from other images of a batch: 0."""
        return 0

    def _rows(self, images: int) -> slice:
        """The images of a batch of so many that are learnt from here: all of them."""
        return slice(None)

    def _new_step(self, x: Tensor, labels: Tensor, offsets: Tensor | None) -> LocalStep:
        """Count a step, whose first block to learn here receives ``x``."""
        step = LocalStep(
            number=self.steps,
            progress=self._progress,
            frozen=self._frozen,
            windows=self._next_windows(),
            x=x,
            labels=labels,
            losses=[None] * len(self.network.blocks),
            offsets=offsets,
        )
        self.steps += 1
        return step

    def learn(self, step: LocalStep) -> None:
        """Let the step's next window learn."""
        window = step.windows[step.windows_done]
        if step.windows_done == 0:
            step.x = self._pass(step, range(step.frozen))
        self._learn_window(step, window)
        step.windows_done += 1
        idle = range(window.last + 1, len(self.network.blocks)) if step.is_done else range(0)
        if idle:
            # Blocks that idle are run all the same: their running statistics follow their input.
            self._pass(step, idle)

    def _learn_window(self, step: LocalStep, window: Window) -> None:
        """Forward, loss, backward and update of ``window``, whose output becomes the step's ``x``."""
        self._set_epoch(window, step.number)
        blocks = range(window.first, window.last + 1)
        kept = self._kept(blocks)
        with self._passing(blocks, step):
            loss, output = self.window_loss(window, step.x, step.labels, step.offsets)
            # All of a window may be frozen, or have no weights.
            if loss.requires_grad:
                torch.autograd.backward(loss)
        self._check_reached(blocks)
        updates = self._updates(window)
        skips = self.on_nan == "skip" and not is_finite(loss, updates)
        if skips:
            kept.restore()
            self.skipped.add(step.number)
        self._update_window(window, step.progress, skips=skips)
        step.losses[window.last] = None if skips else loss.detach()
        step.x = map_tensors(Tensor.detach, output)

    def _check_reached(self, blocks: range) -> None:
        """Say of a block that learns for the first time if its loss reaches none of its weights."""
        for k in (k for k in blocks if k not in self._reached):
            self._reached.add(k)
            own = [p for p in self.network.blocks[k].parameters() if p.requires_grad]
            if own and all(p.grad is None for p in own):
                self._warn_once(
                    f"block {k} has weights to learn, and its loss reaches none of them: is there a "
                    "detach() or no_grad() in it?"
                )

    def _updates(self, window: Window) -> list[torch.optim.Optimizer]:
        """The optimizers that step when ``window`` has learnt."""
        own = owners(self.network, window)
        return [self.optimizers[owner] for owner in own if owner in self.optimizers]

    def _update_window(self, window: Window, progress: float, *, skips: bool = False) -> None:
        """Step the optimizers of ``window``, unless the step ``skips`` it, and drop all its gradients."""
        self._set_learning_rate(window, progress)
        for optimizer in self._updates(window):
            if not skips:
                self._update(optimizer)
            optimizer.zero_grad(set_to_none=True)
        if window.first == 0:
            # The gradient of a label that another objective owns is thrown away.
            for parameter in self.network.label_parameters():
                parameter.grad = None

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return :func:`trifecta.learning.window_loss.window_loss` of this learner's network.

        ``offsets`` are drawn here where every block receives new pairs and none are given.
        """
        offsets = self._draw_offsets(len(labels)) if offsets is None else offsets
        return window_loss(self.network, window, x, labels, offsets, fused=self.fused)

    def _draw_offsets(self, images: int) -> Tensor | None:
        """Draw which of so many images make a pair in each block, (L,); None where pairs stay."""
        if not self.network.renews_pairs:
            return None
        return draw_offsets(len(self.network.blocks), images, self.generator, self.device)

    @property
    def _progress(self) -> float:
        """The share of the run before the next step; 0 where its length is unknown."""
        return self.steps / self.total_steps if self.total_steps else 0.0

    @property
    def _frozen(self) -> int:
        """How many blocks, counted from the first, do not learn in the next step."""
        return self.network.method.optimizer.frozen_blocks(self._progress, len(self.network.blocks))

    def _next_windows(self) -> list[Window]:
        """The windows that learn in the next step, in order."""
        frozen = self._frozen
        return [Window(max(w.first, frozen), w.last) for w in self._windows() if w.last >= frozen]

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
        """Return the output of ``blocks``, which do not learn in this step, for its ``x``."""
        x, kept = step.x, self._kept(blocks)
        with self._passing(blocks, step):
            for k in blocks:
                _, x = self.network.pass_block(
                    k, self.network.renewed(k, x, len(step.labels), step.offsets)
                )
        if self.on_nan == "skip":
            kept.restore_unless_finite()
        return x

    def _kept(self, blocks: range) -> KeptBuffers:
        """Keep running statistics of ``blocks`` and their heads, where a step may be skipped."""
        return KeptBuffers(self._modules(blocks) if self.on_nan == "skip" else [])

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        if self._step_optimizer is None:
            optimizer.step()
        else:
            self._step_optimizer(optimizer)

    @contextmanager
    def _passing(self, blocks: range, step: LocalStep) -> Iterator[None]:
        """Set what ``blocks``, and their heads, need while a batch passes them in training.

        What they draw follows from the seed, the step, the block and the replica.
        """
        layers = [layer for k in blocks for layer in self._dropout[k]]
        with ExitStack() as stack:
            stack.enter_context(autocast(self.precision, self.device))
            if self.generator is not None:
                seed = self.generator.initial_seed()
                # The first replica draws what one process does.
                replica = [self._replica] if self._replica else []
                numbers = [seed, step.number, blocks.start, *replica]
                stack.enter_context(seeded_dropout(layers, self.device, numbers))
                stack.enter_context(self.network.drawing(blocks, [seed, step.number, *replica]))
            if len(step.labels) == 1:
                modules = self._modules(blocks)
                stack.enter_context(normalized_by_running_statistics(modules, self._meet_lone_sample))
            yield

    def _modules(self, blocks: range) -> list[nn.Module]:
        """Return ``blocks`` and their heads."""
        heads = [self.network.head(k) for k in blocks if k in self.network.scored_blocks]
        return [*(self.network.blocks[k] for k in blocks), *heads]

    def _meet_lone_sample(self) -> None:
        self._warn_once(
            "a batch of one has no statistics: batch normalisation uses its running ones there, as "
            "normalization running does everywhere; a DataLoader leaves a last batch of one out with "
            "drop_last=True"
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=2)

    def _set_learning_rate(self, window: Window, progress: float) -> None:
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        if config.decay == "constant" or self.total_steps is None:
            return
        for owner in owners(self.network, window):
            if owner not in self.optimizers:
                continue
            rate = config.rate(progress, end=config.end(owner, num_blocks))
            for group in self.optimizers[owner].param_groups:
                if "initial_lr" in group:
                    raise ValueError(
                        "a scheduler was attached to an optimizer whose learning rate the method decays "
                        f"({config.decay}), which would overwrite the scheduler's: use "
                        "OptimizerConfig(decay='constant')"
                    )
                self._assign_rate(group, rate)

    def _assign_rate(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the network's weights that the next step depends on."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; on a device of another kind with a warning.

        ``auto`` then is the precision that the state was trained in. A state without ``optimizers`` is for
        those whose optimizers somebody else restores.
        """
        restore(self, state)
