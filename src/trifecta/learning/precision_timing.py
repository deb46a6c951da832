"""Which precision is faster here: the first windows of a step, timed in both by turns.

Shapes: B images (B, C, H, W), labels (B,); R rounds.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from trifecta._utils.devices import in_memory_format, synchronize
from trifecta.learning.trial import trial_batch

if TYPE_CHECKING:
    from trifecta.learning.learner import Learner
    from trifecta.learning.step import LocalStep

# The first call sets things up: that is done with this share of the batch, and not timed.
WARM_UP_SHARE = 1 / 8
LEAST_WARM_UP_IMAGES = 16
# As many windows as a pass does in this time are timed; at least the first.
PASS_SECONDS = 0.08
# A pass that would take longer is timed on fewer images, at least those of the warm-up.
LONGEST_PASS_SECONDS = 0.15
# A round is a pass in fp32 and one in bf16. After this time two rounds are enough, or three where two are
# not clear.
ROUNDS_SECONDS = 0.4
MOST_ROUNDS = 15
# Times that are so close do not matter.
CLOSE = 1.05


@dataclass(frozen=True, kw_only=True)
class PrecisionTimes:
    """Milliseconds of one pass, medians over the rounds; None where memory was not enough to tell.

    Attributes:
        fp32_ms: in float32.
        bf16_ms: in bfloat16.
        is_clear: whether all rounds had the same precision ahead, or the two are close.
    """

    fp32_ms: float | None
    bf16_ms: float | None
    is_clear: bool = True

    @property
    def faster(self) -> str:
        """``fp32`` or ``bf16``; where memory was not enough bf16, which needs less."""
        if self.fp32_ms is None or self.bf16_ms is None:
            return "bf16"
        return "bf16" if self.bf16_ms < self.fp32_ms else "fp32"


def time_precisions(learner: "Learner", batch_size: int) -> PrecisionTimes:
    """Time windows of step 0, forward and backward, in fp32 and bf16 by turns.

    The first window, and those after it where they take little time, on fewer images where it takes long:
    half a second in all, more only on machines where an eighth of a batch takes that long. What is timed
    is a copy of the network on random images, with a generator of its own: neither ``learner`` nor
    PyTorch's random numbers change. On CUDA the peak of the memory statistics is counted from here on.

    Args:
        learner: whose network, method, device and ``fused`` setting to time.
        batch_size: B.
    """
    device = learner.device
    with warnings.catch_warnings(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        warnings.simplefilter("ignore")
        try:
            times = _time(_Trial(learner, batch_size))
        except torch.OutOfMemoryError:
            times = PrecisionTimes(fp32_ms=None, bf16_ms=None, is_clear=False)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return times


class _Still(torch.optim.Optimizer):
    """Keeps nothing, and leaves the weights where they are."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Do nothing."""


class _Trial:
    """A learner's twin that can take the same step again and again."""

    def __init__(self, learner: "Learner", batch_size: int) -> None:
        network, device = copy.deepcopy(learner.network), learner.device
        # Hard negatives would cost a prediction of the batch, and the windows are no different.
        network.method = replace(network.method, negatives="uniform")
        draw = torch.Generator(device).manual_seed(0)
        self.learner = learner.twin(network, draw)
        # Without a state, the trial needs no more memory than training does.
        self.learner.optimizers = {
            owner: _Still(optimizer.param_groups, {})
            for owner, optimizer in self.learner.optimizers.items()
        }
        images, self.labels = trial_batch(network, batch_size)
        self.images = in_memory_format(images)
        self.timed_images = batch_size

    def warm_up(self) -> int:
        """Run what is to be timed once, on few images, and return how many windows that is."""
        size = len(self.labels)
        images = min(size, max(LEAST_WARM_UP_IMAGES, round(size * WARM_UP_SHARE)))
        self.seconds("bf16", 1, images)
        windows = self.windows_within(PASS_SECONDS * images / size, images)
        if windows > 1:
            self.seconds("bf16", windows, images)
        took = self.seconds("fp32", windows, images)
        self.timed_images = min(size, max(images, round(images * LONGEST_PASS_SECONDS / took)))
        return windows

    def windows_within(self, seconds: float, images: int) -> int:
        """Count the windows that a pass in fp32 does in so much time; 1 where the first takes longer."""
        began = self._now()
        step = self._begin("fp32", images)
        within = 1
        while not step.is_done:
            self.learner.learn(step)
            if self._now() - began > seconds:
                break
            within = step.windows_done
        return within

    def seconds(self, precision: str, windows: int, images: int | None = None) -> float:
        """Time a pass: what a step does from its beginning until so many windows have learnt."""
        began = self._now()
        step = self._begin(precision, images or self.timed_images)
        for _ in range(windows):
            self.learner.learn(step)
        return self._now() - began

    def _begin(self, precision: str, images: int) -> "LocalStep":
        self.learner.steps, self.learner.precision = 0, precision
        return self.learner.begin(self.images[:images], self.labels[:images])

    def _now(self) -> float:
        synchronize(self.learner.device)
        return perf_counter()


def _time(trial: _Trial) -> PrecisionTimes:
    windows = trial.warm_up()
    rounds: list[tuple[float, float]] = []
    began = perf_counter()
    while _goes_on(rounds, perf_counter() - began):
        rounds.append((trial.seconds("fp32", windows), trial.seconds("bf16", windows)))
    fp32, bf16 = _medians(rounds)
    return PrecisionTimes(fp32_ms=1000 * fp32, bf16_ms=1000 * bf16, is_clear=_is_clear(rounds))


def _goes_on(rounds: Sequence[tuple[float, float]], seconds: float) -> bool:
    """Whether to take another round after R, (fp32, bf16) in seconds, that took so long together."""
    if len(rounds) < 2:
        return True
    if seconds < ROUNDS_SECONDS:
        return len(rounds) < MOST_ROUNDS
    return not _is_clear(rounds) and len(rounds) < 3


def _is_clear(rounds: Sequence[tuple[float, float]]) -> bool:
    """Whether the same precision was ahead in all rounds, or the two are close."""
    fp32, bf16 = _medians(rounds)
    return len({b < a for a, b in rounds}) == 1 or max(fp32, bf16) <= CLOSE * min(fp32, bf16)


def _medians(rounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return median(fp32 for fp32, _ in rounds), median(bf16 for _, bf16 in rounds)
