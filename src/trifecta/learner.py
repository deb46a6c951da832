"""One local step: the only place that detaches, runs backward and steps optimizers.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trifecta._utils.devices import autocast, in_memory_format, kept_precision, resolved_precision
from trifecta.inputs import draw_offsets, hard_labels, wrong_labels
from trifecta.network import LocalNetwork
from trifecta.nn.blocks import Dropout, seeded_dropout
from trifecta.nn.cutting import map_tensors
from trifecta.nn.norms import normalized_by_running_statistics
from trifecta.schedules import Window
from trifecta.window import window_loss

_BATCH_OF_ONE = (
    "a batch of one has no statistics: batch normalisation uses its running ones there, as normalization "
    "running does everywhere; a DataLoader leaves a last batch of one out with drop_last=True"
)


@dataclass(kw_only=True)
class LocalStep:
    """One batch on its way through the blocks."""

    number: int  #: of the step, from 0
    progress: float  #: share of the run before it; 0 if the run's length is unknown
    windows: list[Window]  #: that learn, in order; blocks before the first one are frozen
    x: Tensor  #: input of the next window
    labels: Tensor  #: (B,)
    offsets: Tensor | None  #: (L,), which images make a pair in each block, if blocks receive new pairs
    losses: list[Tensor | None]  #: L × (); None for a block that has closed no window
    windows_done: int = 0  #: number of windows that have learned

    @property
    def is_done(self) -> bool:
        """Whether every window has learned."""
        return self.windows_done == len(self.windows)


class Learner:
    """Trains a :class:`LocalNetwork`, one batch a step, window by window.

    A window's graph lives from its own forward pass to its own backward pass; the next window receives its
    output detached. All updates of a step follow from the weights before that step, because a window's
    output is computed before its weights move.

    Attributes:
        steps: number of steps so far.
        skipped: numbers of the steps in which a window was skipped.
        optimizers: by owner, see :func:`build_optimizers`.

    Args:
        network: on its device.
        generator: of wrong labels, on the network's device; None for PyTorch's own.
        precision: ``fp32`` (the dtype of weights and images as they are), ``bf16``, or ``auto``, see
            :func:`trifecta._utils.devices.resolved_precision`.
        total_steps: length of the run; without it the learning rate stays constant and no block freezes.
        steps_per_epoch: length of an epoch, for schedules and losses that change by epoch; without it the
            whole run counts as the first.
        kernels: whether windows run by :mod:`trifecta.kernels` where their blocks allow, in less memory, or
            by the plain graph; None chooses kernels where they are faster, on a CPU: convolutions with
            enough work, and losses that skip samples.
        on_nan: ``stop`` leaves it to the caller to look at the losses; ``skip`` undoes a window whose loss
            or gradient is not finite: weights, optimizer and running statistics stay, and its loss is None.
            On a GPU that waits for every window.
        step_optimizer: called with every optimizer in place of its ``step``.

    Raises:
        ValueError: all weights are frozen.
    """

    # Number of this process among those that learn from other images of the same batch.
    replica = 0

    def __init__(
        self,
        network: LocalNetwork,
        *,
        generator: torch.Generator | None = None,
        precision: str = "fp32",
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        kernels: bool | None = None,
        on_nan: str = "stop",
        step_optimizer: Callable[[torch.optim.Optimizer], object] | None = None,
    ) -> None:
        self.network, self.generator, self.device = network, generator, network.device
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.kernels, self.on_nan, self._step_optimizer = kernels, on_nan, step_optimizer
        self.asked_precision = precision
        self.precision = resolved_precision(precision, self.device)
        self.steps, self.skipped = 0, set[int]()
        self.optimizers = build_optimizers(network, self.blocks)
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError(
                "nothing can learn: all blocks are frozen, and the heads of the method have no weights; "
                "let a block learn (requires_grad), or use a method with classifiers, such as superfecta"
            )
        # Warnings that were given, and blocks whose gradients have not been looked at.
        self._warned, self._unchecked = set[str](), set(self.blocks)
        self._dropout = [[m for m in block.modules() if isinstance(m, Dropout)] for block in network.blocks]

    @property
    def blocks(self) -> range:
        """Blocks that learn in this process."""
        return range(len(self.network.blocks))

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch; return the loss of each block that closed a window, L × (), else None.

        Losses stay on the device, detached. Raises ValueError as :func:`check_batch`.
        """
        step = self.begin(images, labels)
        while not step.is_done:
            self.learn(step)
        return step.losses

    def finish(self) -> None:
        """Wait until every update of the steps so far is made, as some processes' are made later."""

    @contextmanager
    def whole(self) -> Iterator[LocalNetwork]:
        """Hold all blocks in this process for a while, also those that other processes train."""
        yield self.network

    def begin(self, images: Tensor, labels: Tensor) -> LocalStep:
        """Start a step, of which :meth:`learn` then does one window at a time.

        Two steps may be under way at once if each block does them in order, see :class:`trifecta.Pipeline`.
        """
        network = self.network
        images = check_batch(network, images, labels)
        network.train()
        if len(labels) == 1 and network.image_pairs is not None:
            self._warn_once("a batch of one has no other image for a negative: nothing is learned from it")
        rows = self._rows(len(labels))
        with autocast(self.precision, self.device):
            if network.method.objective.uses_feedback:
                scores = _predict(network, images[rows])
                error = scores.softmax(1) - F.one_hot(labels[rows], scores.shape[1])
                for block in network.scored_blocks:
                    network.head(block).receive(error)
            # A label's picture beside an image would leave the layout that convolutions prefer.
            x = in_memory_format(training_input(network, images, labels, self.generator, rows))
        labels = labels[rows]
        return self._new_step(x, labels, self._draw_offsets(len(labels)))

    def _rows(self, images: int) -> slice:
        """Return the images of a batch of so many that this process learns from."""
        return slice(None)

    def _draw_offsets(self, images: int) -> Tensor | None:
        """Draw which of so many images make a pair in each block, (L,), if blocks receive new pairs."""
        if not self.network.renews_pairs:
            return None
        return draw_offsets(len(self.network.blocks), images, self.generator, self.device)

    def _new_step(self, x: Tensor, labels: Tensor, offsets: Tensor | None) -> LocalStep:
        """Count a step, whose first block to learn here receives ``x``."""
        step = LocalStep(
            number=self.steps,
            progress=self._progress,
            windows=self._next_windows(),
            x=x,
            labels=labels,
            offsets=offsets,
            losses=[None] * len(self.network.blocks),
        )
        self.steps += 1
        return step

    @property
    def _progress(self) -> float:
        """Share of the run before the next step; 0 if the run's length is unknown."""
        return self.steps / self.total_steps if self.total_steps else 0.0

    def _next_windows(self) -> list[Window]:
        """Return the windows that learn in the next step, in order, without frozen blocks."""
        method, step, num_blocks = self.network.method, self.steps, len(self.network.blocks)
        if method.schedule.restarts and self.steps_per_epoch:
            step %= self.steps_per_epoch
        frozen = method.optimizer.frozen_blocks(self._progress, num_blocks)
        windows = method.schedule.windows(step, num_blocks)
        return [Window(max(w.first, frozen), w.last) for w in windows if w.last >= frozen]

    def learn(self, step: LocalStep) -> None:
        """Let the next window of ``step`` learn; blocks that learn nothing still pass the batch on."""
        window = step.windows[step.windows_done]
        if window.first and not step.windows_done:
            step.x = self._pass(step, range(window.first))
        self._learn_window(step, window)
        step.windows_done += 1
        idle = range(window.last + 1, len(self.network.blocks))
        if idle and step.is_done:
            # Their running statistics follow their input.
            self._pass(step, idle)

    def _learn_window(self, step: LocalStep, window: Window) -> None:
        """Run forward, loss, backward and update of ``window``, whose output becomes the step's ``x``."""
        self._set_epoch(window, step.number)
        before = self._copied_buffers(window.blocks)
        with self._passing(window.blocks, step):
            loss, output = self.window_loss(window, step.x, step.labels, step.offsets)
            # All of a window may be frozen, or have no weights.
            if loss.requires_grad:
                torch.autograd.backward(loss)
        self._check_reached(window.blocks)
        step.x = map_tensors(Tensor.detach, output)
        if self.on_nan == "skip" and not is_finite(loss, self._updates(window).values()):
            for buffer, value in before.items():
                buffer.copy_(value)
            self.skipped.add(step.number)
            self._drop_gradients(window)
        else:
            self._update_window(window, step.progress)
            step.losses[window.last] = loss.detach()

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return :func:`trifecta.window.window_loss` of the network; missing ``offsets`` are drawn."""
        if offsets is None:
            offsets = self._draw_offsets(len(labels))
        return window_loss(self.network, window, x, labels, offsets, kernels=self.kernels)

    @torch.no_grad()
    def _pass(self, step: LocalStep, blocks: range) -> Tensor:
        """Return the output of ``blocks``, which do not learn in this step, for its ``x``."""
        x, before = step.x, self._copied_buffers(blocks)
        with self._passing(blocks, step):
            for k in blocks:
                _, x = self.network.pass_block(k, x, step.offsets)
        if not all(bool(buffer.isfinite().all()) for buffer in before):
            for buffer, value in before.items():
                buffer.copy_(value)
        return x

    @contextmanager
    def _passing(self, blocks: range, step: LocalStep) -> Iterator[None]:
        """Set the precision and statistics of ``blocks``; seed them by step, block and replica."""
        layers = [layer for k in blocks for layer in self._dropout[k]]
        with ExitStack() as stack:
            stack.enter_context(autocast(self.precision, self.device))
            if self.generator is not None and (layers or self.network.draws):
                seed = self.generator.initial_seed()
                # The first replica draws what a single process does.
                replica = [self.replica] if self.replica else []
                numbers = [seed, step.number, blocks.start, *replica]
                stack.enter_context(seeded_dropout(layers, self.device, numbers))
                stack.enter_context(self.network.drawing(blocks, [seed, step.number, *replica]))
            if len(step.labels) == 1:
                warn = partial(self._warn_once, _BATCH_OF_ONE)
                stack.enter_context(normalized_by_running_statistics(self._modules(blocks), warn))
            yield

    def _modules(self, blocks: range) -> list[nn.Module]:
        """Return ``blocks`` and their heads."""
        heads = [self.network.head(k) for k in blocks if k in self.network.scored_blocks]
        return [*(self.network.blocks[k] for k in blocks), *heads]

    def _copied_buffers(self, blocks: range) -> dict[Tensor, Tensor]:
        """Return buffers of ``blocks`` and their heads, each with a copy, if a window may be skipped."""
        modules = self._modules(blocks) if self.on_nan == "skip" else []
        return {buffer: buffer.clone() for module in modules for buffer in module.buffers()}

    def _set_epoch(self, window: Window, step: int) -> None:
        """Tell the heads of a window which epoch it is, of how many."""
        epoch, epochs = 0, 1
        if self.steps_per_epoch:
            epoch = step // self.steps_per_epoch
            epochs = max((self.total_steps or step) // self.steps_per_epoch, epoch + 1)
        for block in window.blocks:
            if block in self.network.scored_blocks:
                self.network.head(block).set_epoch(epoch, epochs)

    def _updates(self, window: Window) -> dict[int, torch.optim.Optimizer]:
        """Return the optimizers that step when ``window`` has learned, by owner."""
        by_objective = self.network.method.optimizer.ownership == "objective"
        owners = [window.last] if by_objective else window.blocks
        return {owner: self.optimizers[owner] for owner in owners if owner in self.optimizers}

    def _update_window(self, window: Window, progress: float) -> None:
        """Step the optimizers of ``window``, and drop all its gradients."""
        self._set_learning_rates(window, progress)
        for optimizer in self._updates(window).values():
            self.network.method.optimizer.clip(optimizer)
            if self._step_optimizer is None:
                optimizer.step()
            else:
                self._step_optimizer(optimizer)
        self._drop_gradients(window)

    def _drop_gradients(self, window: Window) -> None:
        # Also those that another objective's optimizer owns, which are not used.
        for k in window.blocks:
            for parameter in self.network.own_parameters(k):
                parameter.grad = None

    def _set_learning_rates(self, window: Window, progress: float) -> None:
        config, num_blocks = self.network.method.optimizer, len(self.network.blocks)
        if (config.decay == "constant" and not config.warmup) or self.total_steps is None:
            return
        for owner, optimizer in self._updates(window).items():
            rate = config.rate(progress, end=config.end(owner, num_blocks))
            for group in optimizer.param_groups:
                if "initial_lr" in group:
                    raise ValueError(
                        "a scheduler was attached to an optimizer whose learning rate the method "
                        f"{'warms up' if config.warmup else 'decays'} ({config.decay}), which would "
                        "overwrite the scheduler's: use OptimizerConfig(decay='constant'"
                        f"{', warmup=0' if config.warmup else ''})"
                    )
                group["lr"] = rate

    def _check_reached(self, blocks: range) -> None:
        """Warn of a block that learns for the first time and whose loss reaches none of its weights."""
        for k in self._unchecked.intersection(blocks):
            self._unchecked.remove(k)
            own = [p for p in self.network.blocks[k].parameters() if p.requires_grad]
            if own and all(p.grad is None for p in own):
                self._warn_once(
                    f"block {k} has weights to learn, and its loss reaches none of them: is there a "
                    "detach() or no_grad() in it?"
                )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the network's weights that the next step depends on."""
        return {
            "steps": self.steps,
            "skipped": sorted(self.skipped),
            "optimizers": {owner: o.state_dict() for owner, o in self.optimizers.items()},
            "generator": None if self.generator is None else self.generator.get_state(),
            "device": self.device.type,
            "precision": self.precision,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; without ``optimizers``, these stay as they are.

        A learner whose precision is ``auto`` continues in that of the state.
        """
        self.steps, self.skipped = int(state["steps"]), {int(step) for step in state["skipped"]}
        self.precision = kept_precision(self.asked_precision, state["precision"], self.device)
        for owner, optimizer in self.optimizers.items() if "optimizers" in state else ():
            load_optimizer(optimizer, state["optimizers"][owner])
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


def check_batch(network: LocalNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Validate a batch for training; return its samples in the precision of the blocks.

    Raises:
        ValueError: samples of another shape or kind, labels that are not (B,) int64, or (B, …) of
            positions, or that are not below K, which is checked on CPU only.
    """
    kind = "int64" if network.integer else "float"
    fits = images.dtype == torch.int64 if network.integer else images.is_floating_point()
    if images.shape[1:] != network.sample_shape or not fits:
        raise ValueError(
            f"images must be {kind} (B, {', '.join(map(str, network.sample_shape))}): "
            f"received {images.dtype} {tuple(images.shape)}"
        )
    expected = (len(images), *network.label_shape)
    if labels.shape != expected or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 {expected}, one per {'position' if network.label_shape else 'image'}: "
            f"received {labels.dtype} {tuple(labels.shape)}"
        )
    # Checking values on another device would synchronise with it.
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < network.num_classes)).all()):
        raise ValueError(
            f"labels must be 0 … {network.num_classes - 1}: "
            f"received {int(labels.min())} … {int(labels.max())}"
        )
    return network.as_samples(images)


def training_input(
    network: LocalNetwork,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    rows: slice = slice(None),
) -> Tensor:
    """Return the first block's input for ``rows`` of a batch: (B, …), or (2B, …) with positives first.

    Random numbers are drawn for the whole batch.
    """
    if network.image_pairs is not None:
        positives, negatives = network.image_pairs.pairs(images, generator).chunk(2)
        return torch.cat([positives[rows], negatives[rows]])
    if network.label_input is None:
        return images[rows]
    if network.method.negatives == "hard":
        wrong = hard_labels(labels, _predict(network, images), generator)
    else:
        wrong = wrong_labels(labels, network.num_classes, generator)
    samples = images[rows]
    return network.labelled(torch.cat([samples, samples]), torch.cat([labels[rows], wrong[rows]]))


@torch.no_grad()
def _predict(network: LocalNetwork, images: Tensor) -> Tensor:
    """Return class scores (B, K) of every label, at least in float32; running statistics stay."""
    scores = network.fused_scores(images, every_label=True)
    return scores.float() if scores.dtype.itemsize < 4 else scores


# Layers whose parameters with "weight" in their names are matrices: ``weight``, ``in_proj_weight``,
# ``weight_ih_l0``.
_MAPS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)


def build_optimizers(network: LocalNetwork, held: range) -> dict[int, torch.optim.Optimizer]:
    """Build the optimizers of the blocks ``held``, by owner: the block itself, or that of its objective."""
    config, schedule, num_blocks = network.method.optimizer, network.method.schedule, len(network.blocks)
    owned = {k: range(k, k + 1) for k in range(num_blocks)}
    if config.ownership == "objective":
        owned = {k: schedule.trained_by(k, num_blocks) for k in network.scored_blocks}
    # A label has one state, that of the first objective which reaches it.
    label = set(network.label_parameters())
    optimizers = {}
    for owner, all_blocks in owned.items():
        blocks = [k for k in all_blocks if k in held]
        own = [p for k in blocks for p in network.own_parameters(k)]
        if owner != min(owned):
            own = [p for p in own if p not in label]
        # A block may be frozen, or have no weights.
        if own:
            hidden = [p for k in blocks for p in _matrices(network.blocks[k])]
            optimizers[owner] = config.build(own, hidden=hidden)
    return optimizers


def _matrices(block: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a block that map features to features, by the classes of its layers.

    No gains, biases, positions, embeddings, or parts of a computed weight, such as by ``weight_norm``.
    """
    embeddings = {m.weight for m in block.modules() if isinstance(m, nn.Embedding)}
    return [
        p
        for module in block.modules()
        if isinstance(module, _MAPS)
        for name, p in module.named_parameters(recurse=False)
        if "weight" in name.split("_") and p.ndim > 1 and p.shape[0] > 1 and p not in embeddings
    ]


def is_finite(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Return whether ``loss``, (), and every gradient that the optimizers would use are finite."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    return bool(torch.stack([value.isfinite().all() for value in (loss, *gradients)]).all())


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore an optimizer of the same parameters.

    Raises:
        ValueError: values that are not finite or, for PyTorch's optimizers and Muon, of another shape than
            the parameter's.
    """
    optimizer.load_state_dict(dict(state))
    is_known = type(optimizer).__module__.split(".")[0] in ("torch", "trifecta")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            if is_known and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(value.shape)} for a weight {tuple(parameter.shape)}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has values that are not finite")
