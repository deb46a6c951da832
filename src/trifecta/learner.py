"""One local step: the only place that detaches, runs backward and steps optimizers.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trifecta._utils.checks import require_finite
from trifecta._utils.devices import autocast, in_memory_format, kept_precision, resolved_precision
from trifecta.inputs.image_pairs import draw_offsets
from trifecta.inputs.label_inputs import hard_labels, wrong_labels
from trifecta.network import LocalNetwork
from trifecta.nn.blocks import Dropout, seeded_dropout
from trifecta.nn.cutting import map_tensors
from trifecta.schedules import Window
from trifecta.window import window_loss

# What of them is named a weight is one: ``weight``, ``in_proj_weight``, ``weight_ih_l0``.
_MAPS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)


def build_optimizers(network: LocalNetwork, held: range) -> dict[int, torch.optim.Optimizer]:
    """Optimizers of the blocks ``held``, by owner: a block, or the block whose objective it is."""
    config, num_blocks = network.method.optimizer, len(network.blocks)
    if config.ownership == "objective":
        schedule = network.method.schedule
        owned = {k: schedule.trained_by(k, num_blocks) for k in network.scored_blocks}
    else:
        owned = {k: range(k, k + 1) for k in range(num_blocks)}
    # A label has one state, that of the first objective which reaches it.
    label = set(network.label_parameters())
    optimizers = {}
    for owner, all_blocks in owned.items():
        blocks = [k for k in all_blocks if k in held]
        if not blocks:
            continue
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

    Neither gains, biases, positions and embeddings, nor what a weight is computed from, such as by
    ``weight_norm``.
    """
    embeddings = [m.weight for m in block.modules() if isinstance(m, nn.Embedding)]
    return [
        p
        for module in block.modules()
        if isinstance(module, _MAPS)
        for name, p in module.named_parameters(recurse=False)
        if "weight" in name.split("_")
        and p.ndim > 1
        and p.shape[0] > 1
        and not any(p is weight for weight in embeddings)
    ]


def owners(network: LocalNetwork, window: Window) -> range:
    """Return the owners whose optimizers step when ``window`` has learnt."""
    if network.method.optimizer.ownership == "objective":
        return range(window.last, window.last + 1)
    return range(window.first, window.last + 1)


def is_finite(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether ``loss``, (), and every gradient that the optimizers would use are finite."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    return bool(torch.stack([value.isfinite().all() for value in (loss, *gradients)]).all())


class KeptBuffers:
    """Buffers of modules as they were before a pass, such as running statistics."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]

    def restore(self) -> None:
        """Set the buffers back."""
        for buffer, before in self._kept:
            buffer.copy_(before)

    def restore_unless_finite(self) -> None:
        """Set them back where the pass has left a number in them that is not finite."""
        if not all(bool(buffer.isfinite().all()) for buffer, _ in self._kept):
            self.restore()


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


def first_input(
    network: LocalNetwork,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    rows: slice = slice(None),
) -> Tensor:
    """The images (B, …), or for pairs (2B, …), positives first; tells the error where it feeds back.

    Of a batch only the images in ``rows`` are wanted; everything random is drawn for all of them.
    """
    if network.method.objective.uses_feedback:
        _feed_back(network, images[rows], labels[rows])
    return entering(network, images, labels, generator, rows)


def entering(
    network: LocalNetwork,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    rows: slice = slice(None),
) -> Tensor:
    """Return the input of :func:`first_input`, and tell no head an error."""
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


def check_batch(network: LocalNetwork, images: Tensor, labels: Tensor) -> Tensor:
    """Refuse a batch that the network cannot learn from; return its samples in the blocks' precision.

    Raises:
        ValueError: samples of another shape or kind, labels that are not (B,) int64 ((B, …) where each
            position has one), or, seen on CPU only, not below K.
    """
    fits = images.dtype == torch.int64 if network.integer else images.is_floating_point()
    if images.shape[1:] != network.sample_shape or not fits:
        raise ValueError(
            f"images must be {'int64' if network.integer else 'float'} "
            f"(B, {', '.join(map(str, network.sample_shape))}): "
            f"received {images.dtype} {tuple(images.shape)}"
        )
    expected = (len(images), *network.label_shape)
    if labels.shape != expected or labels.dtype != torch.int64:
        each = "position" if network.label_shape else "image"
        raise ValueError(
            f"labels must be int64 ({', '.join(map(str, expected))}{'' if expected[1:] else ','}), one per "
            f"{each}: received {labels.dtype} {tuple(labels.shape)}"
        )
    # Checking values on another device would synchronise with it.
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < network.num_classes)).all()):
        raise ValueError(
            f"labels must be 0 … {network.num_classes - 1}: "
            f"received {int(labels.min())} … {int(labels.max())}"
        )
    return network.as_samples(images)


def _feed_back(network: LocalNetwork, images: Tensor, labels: Tensor) -> None:
    """Tell every head the network's error."""
    scores = _predict(network, images)
    error = scores.softmax(1) - F.one_hot(labels, scores.shape[1])
    for block in network.scored_blocks:
        network.head(block).receive(error)


@torch.no_grad()
def _predict(network: LocalNetwork, images: Tensor) -> Tensor:
    """Class scores (B, K) as for new images, of every label; leaves running statistics alone."""
    with network.every_label():
        scores = network.fused_scores(images)
    return scores.float() if scores.dtype.itemsize < 4 else scores


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# As of :class:`trifecta.nn.norms.RunningNorm`.
HORIZON = 2048


@contextmanager
def normalized_by_running_statistics(
    modules: Iterable[nn.Module], on_use: Callable[[], None]
) -> Iterator[None]:
    """Let batch normalisations that see one value a channel use their running statistics for a while.

    These follow the value first, as those of :class:`trifecta.nn.norms.RunningNorm` do.

    Args:
        modules: whose parts are meant.
        on_use: called whenever it happens.

    Raises:
        ValueError: such a normalisation keeps no running statistics.
    """
    norms = [m for module in modules for m in module.modules() if isinstance(m, _NORMS)]
    changed: list[nn.Module] = []

    def before(norm: Any, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if not norm.training or x.ndim < 2 or x.numel() != x.shape[1]:
            return
        if norm.running_mean is None:
            raise ValueError(
                "batch normalisation without running statistics needs 2 values a channel: received a batch "
                "of one; use larger batches, and drop_last=True in a DataLoader"
            )
        on_use()
        _follow(norm, x.flatten())
        norm.training = False
        changed.append(norm)

    def after(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if norm in changed:
            changed.remove(norm)
            norm.training = True

    handles = [norm.register_forward_pre_hook(before) for norm in norms]
    handles += [norm.register_forward_hook(after) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm in changed:
            norm.training = True


@torch.no_grad()
def _follow(norm: Any, value: Tensor) -> None:
    """Move running statistics towards the values (C,) of one sample."""
    norm.num_batches_tracked += 1
    mean, variance = norm.running_mean, norm.running_var
    share = norm.num_batches_tracked.to(mean.dtype).reciprocal().clamp(min=1 - math.exp(-1 / HORIZON))
    step = value.to(mean.dtype) - mean
    # Around the new mean, as one value has no variance of its own.
    variance.lerp_((1 - share) * step.square(), share)
    mean.add_(share * step)


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], places: dict[int, str] | None = None
) -> None:
    """Restore what ``optimizer.state_dict()`` returned.

    Args:
        optimizer: of the same parameters.
        state: what it returned.
        places: where the tensors of other optimizers lie, by address; those of this one are added.

    Raises:
        ValueError: settings of other types than the optimizer's own, numbers that are not finite, or, for
            PyTorch's optimizers and ours, tensors of another shape than the parameter's.
    """
    _check_groups(optimizer, state)
    is_known = type(optimizer).__module__.split(".")[0] in ("torch", "trifecta")
    if is_known:
        _check_values(optimizer, state, {} if places is None else places)
    optimizer.load_state_dict(dict(state))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            if is_known and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(value.shape)} for a weight {tuple(parameter.shape)}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has values that are not finite")


def whole_number(value: Any) -> int:
    """Return ``value``, a count.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"a count is a whole number, 0 or more: received {value!r:.80}")
    return value


def _check_values(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], places: dict[int, str]
) -> None:
    """Refuse what PyTorch's optimizers and ours never keep: other types of number, and shared memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        parameter = parameters[index]
        for name, value in values.items():
            if value is None:
                continue
            where = f"{name} of a weight {tuple(parameter.shape)}, number {index}"
            if isinstance(value, Tensor):
                if value.data_ptr() in places:
                    raise ValueError(f"{where} lies in the memory of {places[value.data_ptr()]}")
                places[value.data_ptr()] = where
            if name == "step":
                if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.numel() != 1:
                    raise ValueError(f"step is {_kind(value)} in place of () float32")
                if not bool(value >= 0):
                    raise ValueError(f"step is {value.item()}")
            elif not isinstance(value, Tensor) or value.dtype != parameter.dtype:
                raise ValueError(f"{name} is {_kind(value)} for a weight of {parameter.dtype}")


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.40}"


def _check_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    for own, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for name, value in own.items():
            if name != "params" and _sort(stored[name]) != _sort(value):
                raise ValueError(f"{name} is {stored[name]!r:.80} in place of {value!r:.80}")
            if name != "params":
                require_finite(stored[name], name)


def _sort(value: Any) -> Any:
    """Return what two settings of the same name have in common."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float
    if isinstance(value, tuple | list):
        return [_sort(part) for part in value]
    return type(value)


def state_of(learner: "Learner") -> dict[str, Any]:
    """Return the state of ``learner`` as plain values and tensors."""
    generator = learner.generator
    return {
        "steps": learner.steps,
        "skipped": sorted(learner.skipped),
        "optimizers": {k: o.state_dict() for k, o in learner.optimizers.items()},
        "generator": None if generator is None else generator.get_state(),
        "device": learner.device.type,
        "precision": learner.precision,
    }


def restore(learner: "Learner", state: Mapping[str, Any]) -> None:
    """Set ``learner`` to what :func:`state_of` returned; on a device of another kind with a warning."""
    learner.steps = whole_number(state["steps"])
    learner.skipped = {whole_number(step) for step in state["skipped"]}
    learner.precision = kept_precision(learner.asked_precision, state["precision"], learner.device)
    if "optimizers" in state:
        places: dict[int, str] = {}
        for owner, optimizer in learner.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][owner], places)
    if learner.generator is None or state["generator"] is None:
        return
    if state["device"] == learner.device.type:
        learner.generator.set_state(state["generator"].cpu())
    else:
        warnings.warn(
            f"random numbers of {state['device']} do not continue on {learner.device.type}: the run goes "
            "on, with other wrong labels and augmentation than it would have had",
            stacklevel=3,
        )


class Learner:
    """Trains a :class:`LocalNetwork`, one batch a step, window by window.

    A window's graph lives from its own forward pass to its own backward pass; what goes on to the next
    window is detached. All updates of a step follow from the weights before that step, because a
    window's output is computed before its weights move.

    Args:
        network: the network, already on its device.
        generator: draws the wrong labels; on the network's device. PyTorch's own where None.
        precision: ``fp32`` (the dtype of weights and images as they are), ``bf16``, or ``auto``: what the
            device is made for, see :func:`trifecta._utils.devices.resolved_precision`.
        total_steps: of the run; without it the learning rate stays constant and no block freezes.
        steps_per_epoch: for schedules that restart in every epoch and settings that change by epoch;
            without it the whole run counts as the first epoch.
        fused: whether windows run by :mod:`trifecta.kernels` where their blocks allow, which takes less
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
        :class:`trifecta.pipeline.Pipeline`.
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
        """Return :func:`trifecta.window.window_loss` of this learner's network.

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
