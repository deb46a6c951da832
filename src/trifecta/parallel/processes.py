"""A run's processes, as one of them sees them: what it holds, and what all of them do together.

:class:`Alone` is a run of one process, in which nothing has to be shared.
"""

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from trifecta.counts import block_costs
from trifecta.cuda_graphs import fastest_learner
from trifecta.learner import Learner, build_optimizers
from trifecta.network import LocalNetwork
from trifecta.parallel.faults import ProcessError, waiting_for
from trifecta.parallel.plan import Layout, Plan, make_plan
from trifecta.parallel.stage import Replicas, StageLearner, synchronize_statistics

State = dict[str, Any]
Names = Sequence[Sequence[str]]


class _Group(NamedTuple):
    """A parameter group: the names of its parameters, and its other settings."""

    names: list[str]
    settings: dict[str, Any]


class _Held(NamedTuple):
    """What a stage holds of an optimizer: its groups, and states by the names of parameters."""

    groups: list[_Group]
    states: dict[str, Any]


@dataclass(frozen=True)
class OptimizerLayout:
    """The parameters of every optimizer of a whole network.

    Attributes:
        names: by owner, the names of each parameter group's parameters, in order.
    """

    names: Mapping[int, Names] = field(default_factory=dict)

    @classmethod
    def of(cls, network: LocalNetwork) -> "OptimizerLayout":
        """Find them: of a network whose blocks are all here."""
        optimizers = build_optimizers(network, range(len(network.blocks)))
        return cls(
            {
                owner: [group.names for group in _held(network, optimizer).groups]
                for owner, optimizer in optimizers.items()
            }
        )


def gather_states(optimizers: OptimizerLayout, learner: Learner, layout: Layout) -> dict[int, State] | None:
    """Gather the states of a replica's stages in the first process; None elsewhere. All have to ask."""
    rank = dist.get_rank()
    own = {owner: _held(learner.network, optimizer) for owner, optimizer in learner.optimizers.items()}
    found: list[dict[int, _Held]] = [{} for _ in range(layout.ranks)]
    # Replicas have equal states: those of the first are sent.
    with waiting_for():
        dist.gather_object(own if layout.replica(rank) == 0 else {}, found if rank == 0 else None, dst=0)
    if rank:
        return None
    return {
        owner: _state(names, [held[owner] for held in found if owner in held])
        for owner, names in optimizers.names.items()
    }


def own_states(
    optimizers: OptimizerLayout, learner: Learner, whole: Mapping[int, State]
) -> dict[int, State]:
    """Pick from the states of a whole network those of the learner's own parameters."""
    own = {}
    for owner, optimizer in learner.optimizers.items():
        names, state = optimizers.names[owner], whole[owner]
        flat = [name for group in names for name in group]
        held = _Held(
            groups=[
                _Group(list(group), {k: v for k, v in settings.items() if k != "params"})
                for group, settings in zip(names, state["param_groups"], strict=True)
            ],
            states={flat[int(index)]: entries for index, entries in state["state"].items()},
        )
        own[owner] = _state([g.names for g in _held(learner.network, optimizer).groups], [held])
    return own


def _held(network: LocalNetwork, optimizer: torch.optim.Optimizer) -> _Held:
    names = {id(p): name for name, p in network.named_parameters()}
    groups = [
        _Group([names[id(p)] for p in g["params"]], {k: v for k, v in g.items() if k != "params"})
        for g in optimizer.param_groups
    ]
    flat = [name for group in groups for name in group.names]
    states = optimizer.state_dict()["state"]
    return _Held(groups, {flat[index]: entries for index, entries in states.items()})


def _state(names: Names, holders: Sequence[_Held]) -> State:
    """Return the state of an optimizer of these groups, of what the ``holders`` have."""
    flat = [name for group in names for name in group]
    states = {name: entries for held in holders for name, entries in held.states.items()}
    settings = {name: g.settings for held in holders for g in held.groups for name in g.names}
    groups, first = [], 0
    for group in names:
        groups.append({**settings[group[0]], "params": list(range(first, first + len(group)))})
        first += len(group)
    return {
        "state": {index: states[name] for index, name in enumerate(flat) if name in states},
        "param_groups": groups,
    }


FIRST = 0
# Seconds.
TIMEOUT = 60.0
# Seconds in which the first process, once it listens, answers.
ANSWER = 10.0


class Alone:
    """One process, which holds all blocks and sees all images.

    Attributes:
        rank: of this process, from 0.
    """

    rank: int = FIRST

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files and says what happens."""
        return self.rank == FIRST

    @property
    def draws_batches(self) -> bool:
        """Whether batches begin here, and do not come from another process."""
        return True

    def learner(self, network: LocalNetwork, **options: Any) -> Learner:
        """Build the learner of the blocks that this process holds."""
        return fastest_learner(network, **options)

    def agreed(self, value: Any) -> Any:
        """Return the first process's ``value``."""
        return value

    def is_true_of_any(self, fact: bool) -> bool:
        """Whether ``fact`` holds in any process; all have to ask."""
        return fact

    def require_equal(self, plain: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all processes have the same ``plain()`` values; all have to ask.

        Raises:
            ValueError: they have not, in every process; names the first field that differs.
        """

    def require_shares(self, batch_size: int) -> None:
        """Check that all processes can have equal shares of a batch.

        Raises:
            ValueError: they cannot.
        """

    def follow(self, facts: Mapping[str, Any]) -> None:
        """Take over such facts of a run that goes on; warn where it had other replicas."""
        before, now = facts.get("replicas"), self.facts()["replicas"]
        if before is not None and before != now:
            warnings.warn(
                f"the run so far shared the images of a batch among {before} replicas, and goes on with "
                f"{now}: its figures will not be those of a run that was never stopped",
                stacklevel=3,
            )

    def facts(self) -> dict[str, Any]:
        """Return what the weights depend on beside a run's settings."""
        return {"replicas": 1, "sync_batch_norm": False}

    @contextmanager
    def whole(self, network: LocalNetwork) -> Iterator[LocalNetwork]:
        """Hold all of the network's blocks for a while."""
        yield network

    def settle(self, learner: Learner) -> None:
        """Finish every update of the steps so far."""

    def announce_stop(self, learner: Learner, requested: bool) -> None:
        """Let all processes know, before a step, whether it is the last one."""

    def stops(self, learner: Learner, requested: bool) -> bool:
        """Say, after a step, whether it was the last one."""
        return requested

    def share(self, count: int) -> range:
        """Return which of so many images this process evaluates."""
        return range(count)

    def collected(self, scores: list[Tensor | None]) -> list[Tensor | None]:
        """Join the scores of every process's share, L × (n, K) → L × (N, K)."""
        return scores

    def total(self, values: Tensor) -> Tensor:
        """Add up values over the processes, replicas counted once."""
        return values

    def learner_state(self, learner: Learner) -> dict[str, Any]:
        """Return the state of all processes' learners as that of one: complete in the first process."""
        return learner.state_dict()

    def own_learner_state(self, learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
        """Return what of such a state is this process's."""
        return state


class Together(Alone):
    """One of several processes.

    Args:
        layout: how blocks and images are shared among them.
        synchronized: whether batch normalisations use the statistics of all replicas.
        timeout: seconds after which a process that does not answer ends the run.

    Raises:
        ValueError: another number of processes than the layout has.
    """

    def __init__(self, layout: Layout, *, synchronized: bool = False, timeout: float = TIMEOUT) -> None:
        self.rank, self.layout, self.synchronized = dist.get_rank(), layout, synchronized
        own = {"parallel": str(layout), "sync_batch_norm": synchronized, "torch": torch.__version__}
        self.require_equal(lambda: own)
        if dist.get_world_size() != layout.ranks:
            raise ValueError(
                f"layout {layout} needs {layout.ranks} processes: received {dist.get_world_size()}"
            )
        # Every process has to take part in the making of every group.
        groups = [
            dist.new_group(
                [layout.rank(replica, stage) for replica in range(layout.data)],
                timeout=timedelta(seconds=timeout),
            )
            for stage in range(layout.layers)
        ]
        self.replica, self.stage = layout.replica(self.rank), layout.stage(self.rank)
        self.group = groups[self.stage]
        self.plan: Plan | None = None
        self._optimizers = OptimizerLayout()

    def require_equal(self, plain: Callable[[], Mapping[str, Any]]) -> None:
        """Compare what every process has with what the first one has."""
        own = json.loads(json.dumps(plain(), default=str))
        everybody: list[Any] = [None] * dist.get_world_size()
        with waiting_for():
            dist.all_gather_object(everybody, own)
        for rank, theirs in enumerate(everybody):
            if difference := _first_difference(everybody[FIRST], theirs):
                name, first, other = difference
                raise ValueError(
                    f"the processes of a run have the same settings and data: {name} is {first!r:.80} in "
                    f"process {FIRST} and {other!r:.80} in process {rank}; start all of them alike"
                )

    def require_shares(self, batch_size: int) -> None:
        """Ask the replicas."""
        if self.layout.data > 1:
            Replicas(self.group, self.layout.data, self.replica).rows(batch_size)

    def follow(self, facts: Mapping[str, Any]) -> None:
        """Share the statistics of replicas as the run did so far; warn where it had other replicas."""
        replicas = facts.get("replicas", self.layout.data)
        if self.layout.data > 1 and replicas > 1:
            self.synchronized = bool(facts.get("sync_batch_norm", self.synchronized))
        super().follow(facts)

    def facts(self) -> dict[str, Any]:
        """Say how many processes share the images of a batch, and whether they share its statistics."""
        return {"replicas": self.layout.data, "sync_batch_norm": self.synchronized}

    @property
    def draws_batches(self) -> bool:
        """Whether this is a first stage."""
        return self.stage == 0

    def learner(self, network: LocalNetwork, **options: Any) -> Learner:
        """Place the blocks by their work, and give up those of other stages."""
        self.plan = make_plan(self.layout, block_costs(network), network.method.schedule)
        self._optimizers = OptimizerLayout.of(network)
        if self.synchronized:
            synchronize_statistics(network, self.group)
        replicas = None
        if self.layout.data > 1:
            replicas = Replicas(self.group, self.layout.data, self.replica)
        learner = StageLearner(network, self.plan, self.rank, replicas=replicas, **options)
        self._release(network)
        return learner

    def agreed(self, value: Any) -> Any:
        """Return the first process's ``value``; all of them have to ask."""
        values = [value]
        with waiting_for():
            dist.broadcast_object_list(values, src=FIRST)
        return values[0]

    def is_true_of_any(self, fact: bool) -> bool:
        """Whether ``fact`` holds in any process; all have to ask."""
        facts: list[Any] = [None] * self.layout.ranks
        with waiting_for():
            dist.all_gather_object(facts, fact)
        return any(facts)

    @contextmanager
    def whole(self, network: LocalNetwork) -> Iterator[LocalNetwork]:
        """Bring all blocks here, as their stage in the first replica has them; all have to ask."""
        assert self.plan is not None
        device = next(p for k in self.plan.stages[self.stage] for p in network.own_parameters(k)).device
        for stage, modules in enumerate(self._by_stage(network)):
            for module in modules:
                if stage != self.stage:
                    module.to_empty(device=device)
                with waiting_for():
                    for tensor in (*module.parameters(), *module.buffers()):
                        dist.broadcast(tensor.data, src=self.layout.rank(0, stage))
        try:
            yield network
        finally:
            self._release(network)

    def settle(self, learner: Learner) -> None:
        """Wait for the last gradient of a window on two stages, and until everything is sent."""
        assert isinstance(learner, StageLearner)
        learner.finish()

    def announce_stop(self, learner: Learner, requested: bool) -> None:
        """Agree with the other first stages, whose batches then say so to the stages behind them."""
        assert isinstance(learner, StageLearner)
        if not self.draws_batches:
            return
        wanted = torch.tensor(int(requested), device=learner.device)
        if self.layout.data > 1:
            with waiting_for():
                dist.all_reduce(wanted, dist.ReduceOp.MAX, group=self.group)
        learner.is_last_step = bool(wanted)

    def stops(self, learner: Learner, requested: bool) -> bool:
        """Say what was agreed."""
        assert isinstance(learner, StageLearner)
        return learner.is_last_step

    def share(self, count: int) -> range:
        """Return an equal part, but for a remainder."""
        each, more = divmod(count, self.layout.ranks)
        first = self.rank * each + min(self.rank, more)
        return range(first, first + each + (self.rank < more))

    def collected(self, scores: list[Tensor | None]) -> list[Tensor | None]:
        """Join the scores in the order of ranks."""
        parts: list[Any] = [None] * self.layout.ranks
        with waiting_for():
            dist.all_gather_object(parts, [None if s is None else s.cpu() for s in scores])
        joined_scores: list[Tensor | None] = []
        for k in range(len(scores)):
            # A process that had no images has no scores.
            given = [part[k] for part in parts if part[k] is not None]
            joined_scores.append(torch.cat(given) if given else None)
        return joined_scores

    def total(self, values: Tensor) -> Tensor:
        """Add up over stages, and take the mean over replicas."""
        total = values.double().clone()
        with waiting_for():
            dist.all_reduce(total)
        return (total / self.layout.data).to(values.dtype)

    def learner_state(self, learner: Learner) -> dict[str, Any]:
        """Gather optimizer states in the first process; elsewhere they are this process's own."""
        state = learner.state_dict()
        gathered = gather_states(self._optimizers, learner, self.layout)
        return state if gathered is None else {**state, "optimizers": gathered}

    def own_learner_state(self, learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
        """Pick the states of this stage's parameters."""
        if "optimizers" not in state:
            return state
        return {**state, "optimizers": own_states(self._optimizers, learner, state["optimizers"])}

    def _by_stage(self, network: LocalNetwork) -> list[list[nn.Module]]:
        """Blocks and heads of every stage; a label learns with the first block."""
        assert self.plan is not None
        modules: list[list[nn.Module]] = []
        for blocks in self.plan.stages:
            modules.append([network.blocks[k] for k in blocks])
            modules[-1] += [network.head(k) for k in blocks if k in network.scored_blocks]
        if network.label_input is not None:
            modules[0].append(network.label_input)
        return modules

    def _release(self, network: LocalNetwork) -> None:
        """Give up the memory of other stages' parameters and buffers."""
        for stage, modules in enumerate(self._by_stage(network)):
            for module in modules if stage != self.stage else ():
                module.to("meta")


def _first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the first name at which two plain values differ, and both values; None where nowhere."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            found = _first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else key)
            if found is not None:
                return found
        return None
    return None if one == other else (name, one, other)


@contextmanager
def joined(device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, by gloo on CPUs and nccl on GPUs.

    Args:
        device: of this process.
        timeout: seconds after which a process that does not answer ends the run.

    Raises:
        ProcessError: they do not meet in time.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        _find_first(timeout)
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        # A launcher that starts processes again may keep the addresses of those that have ended.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"attempt-{attempt}", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ProcessError(f"the processes of this run did not meet ({reason:.160})") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def _find_first(timeout: float) -> None:
    """Wait until the first process listens; whoever else does so would let the others wait in vain.

    Raises:
        RuntimeError: nobody listens in time, or another program does.
    """
    is_first = int(os.environ.get("RANK", "0")) == FIRST
    if is_first or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    host, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT") or 0)
    if not host or not port:
        return  # PyTorch says what is missing.
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"nobody listens at {host}:{port}: {error}") from None
            time.sleep(0.1)
    # PyTorch waits without end for a listener that says nothing.
    answered = threading.Event()
    threading.Thread(target=_ask, args=(host, port, answered), daemon=True).start()
    if not answered.wait(ANSWER):
        raise RuntimeError(
            f"what listens at {host}:{port} is not process {FIRST}: choose another MASTER_PORT"
        )


def _ask(host: str, port: int, answered: threading.Event) -> None:
    """Set ``answered`` when a store of PyTorch's answers."""
    with suppress(RuntimeError):
        store: Any = dist.TCPStore  # type: ignore[attr-defined]
        store(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=ANSWER))
        answered.set()
