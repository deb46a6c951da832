"""The processes of a run: how they meet, and what they do together."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from trifecta.counts import block_costs
from trifecta.cuda_graphs import fastest_learner
from trifecta.learner import Learner, build_optimizers
from trifecta.network import LocalNetwork
from trifecta.parallel.batch_norm import synchronize_statistics
from trifecta.parallel.faults import ProcessError, waiting_for
from trifecta.parallel.plan import Layout, make_plan
from trifecta.parallel.stage import StageLearner

# Seconds that a process waits for another one, and that it grants an address in use to answer.
TIMEOUT, GRACE = 60.0, 10.0


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, by gloo on CPUs and nccl on GPUs.

    Args:
        device: device of this process.
        timeout: seconds after which a process that does not answer ends the run.

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
        reason = " ".join(str(error).split())
        raise ProcessError(f"the processes of this run did not meet ({reason:.160})") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meet(timeout: float) -> tuple[Any, int, int]:
    """Return the common store, this process's rank and the number of processes.

    Raises:
        RuntimeError, TimeoutError: the first process is not there in time, or another program has its port.
    """
    found: Future[tuple[Any, int, int]] = Future()

    def meet() -> None:
        try:
            found.set_result(next(rendezvous("env://", timeout=timedelta(seconds=timeout))))
        except Exception as error:
            found.set_exception(error)

    # In a thread, because PyTorch waits forever for a program that accepts connections and says nothing.
    Thread(target=meet, daemon=True).start()
    try:
        return found.result(timeout + GRACE)
    except TimeoutError:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TimeoutError(
            f"what listens at {address} is not process 0: choose another MASTER_PORT"
        ) from None


class Processes:
    """All processes of a run, as one of them uses them: by default a single process.

    Every method that communicates must be called in all processes at the same point of the run.

    Args:
        layout: replicas and stages; None for a single process.
        synchronized: whether batch normalization uses the statistics of all replicas.
        timeout: seconds after which a process that does not answer ends the run.

    Attributes:
        rank: rank of this process, counted from 0.
        layout: replicas and stages.
        synchronized: as given, or as a resumed run had it.

    Raises:
        ValueError: the processes have different arguments, or their number is not the layout's.
    """

    def __init__(
        self, layout: Layout | None = None, *, synchronized: bool = False, timeout: float = TIMEOUT
    ) -> None:
        self.layout, self.synchronized = layout or Layout(), synchronized
        self.rank, self.stage = 0, 0
        self._group: dist.ProcessGroup | None = None
        if layout is None:
            return
        self.rank = dist.get_rank()
        own = {"parallel": str(layout), "sync_batch_norm": synchronized, "torch": torch.__version__}
        self.require_equal(lambda: own)
        if dist.get_world_size() != layout.ranks:
            raise ValueError(
                f"layout {layout} needs {layout.ranks} processes: received {dist.get_world_size()}"
            )
        self.stage = layout.stage(self.rank)
        # Every process must take part in making every group.
        for stage in range(layout.layers):
            ranks = [layout.rank(replica, stage) for replica in range(layout.data)]
            group = dist.new_group(ranks, timeout=timedelta(seconds=timeout))
            if stage == self.stage and layout.data > 1:
                self._group = group

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.layout.ranks == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files and reports to the user."""
        return self.rank == 0

    @property
    def draws_batches(self) -> bool:
        """Whether this process draws batches, and does not receive them from another stage."""
        return self.stage == 0

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

    def is_true_of_any(self, fact: bool) -> bool:
        """Return whether ``fact`` holds in any process."""
        return any(self.gathered(fact))

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
            if difference := _first_difference(everybody[0], values):
                name, first, other = difference
                raise ValueError(
                    f"the processes of a run have the same settings and data: {name} is {first!r:.80} in "
                    f"process 0 and {other!r:.80} in process {rank}; start all of them alike"
                )

    def require_shares(self, batch_size: int) -> None:
        """Check that all replicas can have equal shares of a batch.

        Raises:
            ValueError: they cannot.
        """
        self.layout.rows(0, batch_size)

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
        self._device = network.device
        self._plan = make_plan(self.layout, block_costs(network), network.method.schedule)
        # By owner, in the whole network.
        optimizers = build_optimizers(network, range(len(network.blocks)))
        self._groups = {owner: _group_names(network, o) for owner, o in optimizers.items()}
        if self.synchronized and self._group is not None:
            synchronize_statistics(network, self._group)
        learner = StageLearner(network, self._plan, self.rank, group=self._group, **options)
        self._release(network)
        return learner

    @contextmanager
    def whole(self, network: LocalNetwork) -> Iterator[LocalNetwork]:
        """Hold all blocks in this process for a while, as the first replica has them."""
        if self.is_alone:
            yield network
            return
        for stage, modules in enumerate(self._modules_by_stage(network)):
            for module in modules:
                if stage != self.stage:
                    module.to_empty(device=self._device)
                with waiting_for():
                    for tensor in (*module.parameters(), *module.buffers()):
                        dist.broadcast(tensor.data, src=self.layout.rank(0, stage))
        try:
            yield network
        finally:
            self._release(network)

    def settle(self, learner: Learner) -> None:
        """Finish every update of the steps so far."""
        if isinstance(learner, StageLearner):
            learner.finish()

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

    def share(self, count: int) -> range:
        """Return the images, of ``count``, that this process evaluates."""
        each, more = divmod(count, self.layout.ranks)
        first = self.rank * each + min(self.rank, more)
        return range(first, first + each + (self.rank < more))

    def collected(self, scores: list[Tensor | None]) -> list[Tensor | None]:
        """Join the scores of all processes' shares, L × (n, K) → L × (N, K)."""
        if self.is_alone:
            return scores
        parts = self.gathered([None if s is None else s.cpu() for s in scores])
        # A process without images has no scores.
        given = [[s for s in block if s is not None] for block in zip(*parts, strict=True)]
        return [torch.cat(block) if block else None for block in given]

    def learner_state(self, learner: Learner) -> dict[str, Any]:
        """Return the state of all learners as that of one; complete in the first process only."""
        state = learner.state_dict()
        if self.is_alone:
            return state
        own = {
            owner: _by_name(_group_names(learner.network, o), state["optimizers"][owner])
            for owner, o in learner.optimizers.items()
        }
        parts: list[dict[int, _ByName]] = [{} for _ in range(self.layout.ranks)]
        # Replicas have equal states: those of the first are sent.
        is_sent = self.layout.replica(self.rank) == 0
        with waiting_for():
            dist.gather_object(own if is_sent else {}, parts if self.is_first else None, dst=0)
        if not self.is_first:
            return state
        whole = {
            owner: _in_groups(names, {k: v for part in parts for k, v in part.get(owner, {}).items()})
            for owner, names in self._groups.items()
        }
        return {**state, "optimizers": whole}

    def own_learner_state(self, learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
        """Return the part of such a state that this process's learner needs."""
        if self.is_alone or "optimizers" not in state:
            return state
        own = {
            owner: _in_groups(
                _group_names(learner.network, o), _by_name(self._groups[owner], state["optimizers"][owner])
            )
            for owner, o in learner.optimizers.items()
        }
        return {**state, "optimizers": own}

    def _modules_by_stage(self, network: LocalNetwork) -> list[list[nn.Module]]:
        """Return the blocks and heads of every stage; the label input belongs to the first."""
        modules: list[list[nn.Module]] = [
            [network.blocks[k] for k in blocks]
            + [network.head(k) for k in blocks if k in network.scored_blocks]
            for blocks in self._plan.stages
        ]
        if network.label_input is not None:
            modules[0].append(network.label_input)
        return modules

    def _release(self, network: LocalNetwork) -> None:
        """Free the memory of other stages' parameters and buffers."""
        for stage, modules in enumerate(self._modules_by_stage(network)):
            for module in modules if stage != self.stage else ():
                module.to("meta")


def _first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the first name under which two plain values differ, and both values."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else (name, one, other)
    found = (
        _first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else key)
        for key in [*one, *other]
    )
    return next((difference for difference in found if difference is not None), None)


# Of each parameter by name: its entries in an optimizer's state, if any, and the settings of its group.
_ByName = dict[str, tuple[Any, dict[str, Any]]]
_Groups = Sequence[Sequence[str]]


def _group_names(network: LocalNetwork, optimizer: torch.optim.Optimizer) -> _Groups:
    """Return the names of the parameters in each of an optimizer's groups."""
    names = {id(p): name for name, p in network.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


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
