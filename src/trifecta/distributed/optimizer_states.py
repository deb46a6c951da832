"""States of optimizers by the names of parameters, so that any number of stages can share them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from trifecta.distributed.faults import waiting_for
from trifecta.distributed.plan import Layout
from trifecta.learning import Learner
from trifecta.learning.ownership import build_optimizers
from trifecta.network import LocalNetwork

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
