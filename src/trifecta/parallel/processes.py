"""The processes of a run: how they meet, and what they do together."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from trifecta.counts import block_costs
from trifecta.cuda_graphs import fastest_learner
from trifecta.learner import Learner
from trifecta.network import LocalNetwork
from trifecta.parallel.links import ProcessError, reason, waiting_for
from trifecta.parallel.plan import Layout, make_plan
from trifecta.parallel.stage import StageLearner

# Seconds to wait for another process, and at most how many more for an address in use to answer.
TIMEOUT, GRACE = 60.0, 10.0


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, by gloo on CPUs and nccl on GPUs.

    Later a process that does not answer within ``timeout`` seconds ends the run.

    Raises:
        ProcessError: they do not meet in time.
    """
    try:
        store, rank, size = _meet(timeout)
        # A launcher that starts processes again may keep the addresses of those that have ended.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"attempt-{attempt}", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, TimeoutError) as error:
        raise ProcessError(f"the processes of this run did not meet ({reason(error)})") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meet(timeout: float) -> tuple[Any, int, int]:
    """Return the common store, this process's rank and the number of processes."""
    found: Future[tuple[Any, int, int]] = Future()

    def meet() -> None:
        try:
            found.set_result(next(rendezvous("env://", timeout=timedelta(seconds=timeout))))
        except Exception as error:
            found.set_exception(error)

    # In a thread, because PyTorch waits forever for a program that accepts connections and says nothing.
    Thread(target=meet, daemon=True).start()
    try:
        return found.result(timeout + min(timeout, GRACE))
    except TimeoutError:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TimeoutError(
            f"what listens at {address} is not process 0: choose another MASTER_PORT"
        ) from None


class Processes:
    """All processes of a run, as one of them uses them: by default a single process.

    Every method that communicates must be called in all processes at the same point of the run. Different
    arguments, or a number of processes other than the layout's, are a ``ValueError``.

    Args:
        layout: replicas and stages; None for a single process.
        synchronized: whether batch normalization uses the statistics of all replicas.
        timeout: seconds after which a process that does not answer ends the run.

    Attributes:
        is_first: whether this process writes the run's files and reports to the user.
        draws_batches: whether this process draws batches, and does not receive them from another stage.
        synchronized: as given, or as a resumed run had it.
    """

    def __init__(
        self, layout: Layout | None = None, *, synchronized: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self.layout, self.synchronized = layout or Layout(), synchronized
        self.rank = 0 if layout is None else dist.get_rank()
        self.is_alone, self.is_first = self.layout.ranks == 1, self.rank == 0
        self._group, (_, stage) = None, self.layout.place(self.rank)
        self.draws_batches = stage == 0
        if layout is None:
            return
        own = {"parallel": str(layout), "sync_batch_norm": synchronized, "torch": torch.__version__}
        self.require_equal(lambda: own)
        if dist.get_world_size() != layout.ranks:
            raise ValueError(
                f"layout {layout} needs {layout.ranks} processes: received {dist.get_world_size()}"
            )
        # Every process must take part in making every group.
        wait = timedelta(seconds=timeout)
        groups = [dist.new_group(layout.peers(k), timeout=wait) for k in range(layout.layers)]
        self._group = groups[stage] if layout.data > 1 else None

    def agreed(self, value: Any) -> Any:
        """Return the first process's ``value``."""
        values = [value]
        if not self.is_alone:
            with waiting_for():
                dist.broadcast_object_list(values, src=0)
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, by rank."""
        values = [value] * self.layout.ranks
        if not self.is_alone:
            with waiting_for():
                dist.all_gather_object(values, value)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum ``values`` over stages, and average them over replicas."""
        if self.is_alone:
            return values
        total = values.double().clone()
        with waiting_for():
            dist.all_reduce(total)
        return (total / self.layout.data).to(values.dtype)

    def require_equal(self, plain: Callable[[], Mapping[str, Any]]) -> None:
        """Check that ``plain()`` returns the same values in all processes.

        Raises:
            ValueError: in every process, with the name of the first value that differs.
        """
        if self.is_alone:
            return
        everybody = self.gathered(json.loads(json.dumps(plain(), default=str)))
        for rank, values in enumerate(everybody):
            for name, first, other in _differences(everybody[0], values):
                raise ValueError(
                    f"the processes of a run have the same settings and data: {name} is {first!r:.80} in "
                    f"process 0 and {other!r:.80} in process {rank}; start all of them alike"
                )

    def facts(self) -> dict[str, Any]:
        """Return what the weights depend on besides the run's configuration."""
        return {"replicas": self.layout.data, "sync_batch_norm": self.synchronized}

    def follow(self, facts: Mapping[str, Any]) -> None:
        """Share statistics as the resumed run did; warn if it had another number of replicas."""
        now = self.layout.data
        before = facts.get("replicas") or now
        if before > 1 and now > 1:
            self.synchronized = bool(facts.get("sync_batch_norm", self.synchronized))
        if before != now:
            warnings.warn(
                f"the run so far shared the images of a batch among {before} replicas, and goes on with "
                f"{now}: its figures will not be those of a run that was never stopped",
                stacklevel=3,
            )

    def learner(self, network: LocalNetwork, **options: Any) -> Learner:
        """Build the learner of this process's blocks, and free the memory of all other blocks."""
        if self.is_alone:
            return fastest_learner(network, **options)
        plan = make_plan(self.layout, block_costs(network), network.method.schedule)
        if self.synchronized and self._group is not None:
            synchronize_statistics(network, self._group)
        learner = StageLearner(network, plan, self.rank, group=self._group, **options)
        learner.release()
        return learner

    def announce_stop(self, learner: Learner, requested: bool) -> None:
        """Tell all processes before a step whether it is the last one.

        First stages agree on it, and the stages behind them receive it with the batch.
        """
        if isinstance(learner, StageLearner) and self.draws_batches:
            wanted = torch.tensor(int(requested), device=learner.device)
            if self._group is not None:
                with waiting_for():
                    dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self._group)
            learner.is_last_step = bool(wanted)

    def stops(self, learner: Learner, requested: bool) -> bool:
        """Return after a step whether it was the last one."""
        return learner.is_last_step if isinstance(learner, StageLearner) else requested

    def share(self, count: int) -> Tensor:
        """Return the numbers of the images, of ``count``, that this process evaluates."""
        return torch.arange(count).tensor_split(self.layout.ranks)[self.rank]

    def collected(self, scores: list[Tensor | None]) -> list[Tensor | None]:
        """Join the scores of all processes' shares, L × (n, K) → L × (N, K)."""
        if self.is_alone:
            return scores
        parts = self.gathered([None if s is None else s.cpu() for s in scores])
        # A process without images has no scores.
        given = [[s for s in block if s is not None] for block in zip(*parts, strict=True)]
        return [torch.cat(block) if block else None for block in given]


def _differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Return every name under which two plain values differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other


def synchronize_statistics(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Let every batch normalization in ``network`` use the statistics of all replicas in ``group``."""
    for module in network.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            # The module keeps its place, parameters and buffers.
            module.__class__ = SynchronizedBatchNorm
            module.__dict__["group"] = group


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalization by the mean and variance over the samples of all replicas in ``group``.

    Like :class:`torch.nn.SyncBatchNorm`, but without a GPU, and with the variance taken around the common
    mean in a second pass. All replicas must have equally many samples.
    """

    group: dist.ProcessGroup | None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the group out: a copied module has statistics of its own."""
        return {**super().__getstate__(), "group": None}  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, …) → (N, C, …)."""
        if not self.training or self.group is None:
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        dims = [d for d in range(x.ndim) if d != 1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = wide.new_tensor(x.numel() // x.shape[1] * dist.get_world_size(self.group))
        mean: Tensor = _Sum.apply(wide.sum(dims), self.group) / count  # type: ignore[no-untyped-call]
        centred = wide - mean.view(shape)
        squares: Tensor = _Sum.apply(centred.square().sum(dims), self.group)  # type: ignore[no-untyped-call]
        variance = squares / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept samples of any dimensions."""


class _Sum(torch.autograd.Function):
    """Sum of a tensor over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, total = group, x.clone()
        with waiting_for():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.group), None  # type: ignore[no-untyped-call]
