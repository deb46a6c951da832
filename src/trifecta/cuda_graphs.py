"""Steps on a GPU as CUDA graphs: each recorded once, then launched as one.

A step of local learning is many small kernels, as every block has a loss and an optimizer of its own.
Python takes longer to launch them than a GPU takes to run them.

Shapes: B images (B, C, H, W) float, labels (B,) int64; L blocks, W windows.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trifecta.learner import Learner
from trifecta.losses.head import Head
from trifecta.network import LocalNetwork
from trifecta.optim import Muon
from trifecta.schedules import Window

# A replay runs no Python, in which parts from other packages may decide something in every step.
_PACKAGES = ("torch", "trifecta")
_OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, Muon)
# Steps of a kind that are taken before one is recorded: they set up libraries and optimizer states.
WARM_UP = 3


class Recorded(NamedTuple):
    """The replay of a step, and the memory of its batch and of its windows' losses (W,)."""

    replay: Callable[[], None]
    images: Tensor
    labels: Tensor
    losses: Tensor


def fastest_learner(network: LocalNetwork, **options: Any) -> Learner:
    """Build the :class:`Learner` that takes the same steps in the least time on the network's device."""
    learner = Learner(network, **options)
    return CudaGraphLearner(network, **options) if CudaGraphLearner.takes(learner) else learner


class CudaGraphLearner(Learner):
    """A :class:`Learner` that records a step of each kind once, and then replays it; on CUDA.

    Steps are of one kind if their windows, frozen blocks and shapes of the batch are the same. They
    compute what those of :class:`Learner` do, with ``options`` for which :meth:`takes` is true. If a step
    cannot be recorded, such as with a block that reads a value back to Python, a warning says so and
    kernels are launched one by one.

    Attributes:
        records: whether to record; set it to False to launch every step.
        recordings: number of steps that were recorded.
    """

    def __init__(self, network: LocalNetwork, **options: Any) -> None:
        super().__init__(network, **options)
        self._recorded: dict[Hashable, Recorded] = {}
        self._seen: Counter[Hashable] = Counter()
        self._is_recording, self.records, self.recordings = False, True, 0
        # Number of frozen blocks, and the epoch if heads follow it.
        self._recorded_at = (0, 0)
        heads = [network.head(k) for k in network.scored_blocks]
        self._follows_epochs = any(type(head).set_epoch is not Head.set_epoch for head in heads)
        self._hold_rates()

    @staticmethod
    def takes(learner: Learner) -> bool:
        """Return whether the steps of ``learner`` can be recorded, as far as can be said before one is."""
        return (
            learner.device.type == "cuda"
            and learner.on_nan == "stop"
            and learner._step_optimizer is None
            and not any(learner._dropout)
            and not learner.network.draws
            and all(type(optimizer) in _OPTIMIZERS for optimizer in learner.optimizers.values())
            and all(type(m).__module__.split(".")[0] in _PACKAGES for m in learner.network.modules())
        )

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Learn from one batch, see :meth:`Learner.step`."""
        if not self.records:
            return super().step(images, labels)
        windows = self._next_windows()
        # No step will replay recordings of fewer frozen blocks, or of another epoch.
        epoch = self.steps // self.steps_per_epoch if self._follows_epochs and self.steps_per_epoch else 0
        now = (windows[0].first if windows else len(self.network.blocks), epoch)
        if self._recorded_at != now:
            self._recorded_at = now
            self._recorded.clear()
        layouts = ((batch.shape, batch.stride(), batch.dtype) for batch in (images, labels))
        kind = (tuple(windows), *layouts, self.precision)
        self._seen[kind] += 1
        if self._seen[kind] <= WARM_UP:
            return self._beside(images, labels)
        if kind not in self._recorded:
            recorded = self._record(images, labels)
            if recorded is None:
                return super().step(images, labels)
            self._recorded[kind] = recorded
        return self._replay(self._recorded[kind], images, labels)

    def _replay(self, recorded: Recorded, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        recorded.images.copy_(images)
        recorded.labels.copy_(labels)
        windows = self._next_windows()
        for window in windows:
            self._set_learning_rates(window, self._progress)
        self._follow_rates()
        recorded.replay()
        self.steps += 1
        losses: list[Tensor | None] = [None] * len(self.network.blocks)
        # The next replay overwrites them.
        for window, loss in zip(windows, recorded.losses.clone(), strict=True):
            losses[window.last] = loss
        return losses

    def _beside(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """Take a step outside the default stream, as a recording must be prepared for."""
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            losses = super().step(images, labels)
        current.wait_stream(stream)
        return losses

    def _record(self, images: Tensor, labels: Tensor) -> Recorded | None:
        """Record the next step, which changes nothing; return None if that cannot be done."""
        images, labels, number = images.clone(), labels.clone(), self.steps
        before = None if self.generator is None else self.generator.get_state()

        def step() -> Tensor:
            losses = super(CudaGraphLearner, self).step(images, labels)
            return torch.stack([loss for loss in losses if loss is not None])

        self._is_recording = True
        try:
            replay, losses = self._capture(step)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(
                f"a step of this run cannot be recorded, so its kernels are launched one by one: {reason}",
                stacklevel=3,
            )
            self.records = False
            # Gradients that were recorded were never computed.
            self.network.zero_grad(set_to_none=True)
            if before is not None:
                # The recording that broke off has left it unusable.
                self.generator = torch.Generator(self.device)
                self.generator.set_state(before)
            return None
        finally:
            self._is_recording, self.steps = False, number
        self.recordings += 1
        return Recorded(replay, images, labels, losses)

    def _capture(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return the replay of ``step``, and the memory of its result."""
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            losses = step()
        return graph.replay, losses

    # A recorded step reads learning rates from the same memory in every replay.

    def _set_learning_rates(self, window: Window, progress: float) -> None:
        if not self._is_recording:
            super()._set_learning_rates(window, progress)
            self._follow_rates()

    def _hold_rates(self) -> None:
        """Keep learning rates on the device."""
        self._rates: list[tuple[dict[str, Any], Tensor]] = []
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group |= {"lr": torch.tensor(float(group["lr"]), device=self.device), "capturable": True}
                self._rates.append((group, group["lr"]))

    def _follow_rates(self) -> None:
        """Copy learning rates that were assigned into the tensors that recorded steps read."""
        for group, rate in self._rates:
            if group["lr"] is not rate:
                rate.fill_(float(group["lr"]))
                group["lr"] = rate

    def forget(self) -> None:
        """Drop what was recorded: needed after a change of a network's parts or an optimizer's settings."""
        self._recorded.clear()
        self._seen.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the same as :meth:`Learner.state_dict`."""
        state = super().state_dict()
        for optimizer in state["optimizers"].values():
            for group in optimizer["param_groups"]:
                group |= {"lr": float(group["lr"]), "capturable": False}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, see :meth:`Learner.load_state_dict`."""
        # Recorded steps point to the state that is replaced.
        self.forget()
        for group, rate in self._rates:
            group |= {"lr": float(rate), "capturable": False}
        super().load_state_dict(state)
        self._hold_rates()
