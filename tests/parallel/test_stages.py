"""Stages and replicas in processes of their own against a single process."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from processes import asked_once, in_processes
from trifecta import LocalNetwork, build_network, get_method
from trifecta.learner import Learner
from trifecta.method import Method
from trifecta.parallel.plan import Layout, make_plan
from trifecta.parallel.processes import synchronize_statistics
from trifecta.parallel.stage import StageLearner
from trifecta.schedules import Schedule

STEPS, IMAGES = 12, 12
PUBLISHED, MONO = get_method("trifecta"), get_method("mono-forward")
METHODS: dict[str, Method] = {
    "strict": get_method("superfecta"),
    "overlapping": get_method("class-groups"),
    "pairs": get_method("trifecta"),
    "published": replace(
        PUBLISHED,
        schedule=replace(PUBLISHED.schedule, trains_remainder=False, restarts=True),
        optimizer=replace(PUBLISHED.optimizer, ownership="objective"),
    ),
    "new pairs in every block": get_method("scff"),
    "wide windows": replace(MONO, schedule=Schedule(size=5)),
    "freezing": replace(MONO, optimizer=replace(MONO.optimizer, freeze_from=0.4)),
    "backprop": get_method("backprop"),
    "dropout": replace(get_method("trifecta"), dropout=0.2),
}
STAGED = [name for name in METHODS if name != "backprop"]
# Of four processes; backprop has a single stage.
REPLICATED = {
    **dict.fromkeys(("strict", "overlapping", "pairs"), Layout(data=2, layers=2)),
    "backprop": Layout(data=4),
}
State = tuple[dict[str, Tensor], dict[int, Any], list[list[float | None]]]


def network_for(method: Method) -> LocalNetwork:
    torch.manual_seed(0)
    return build_network(method, "small", sample_shape=(3, 8, 8), num_classes=4, width=0.05).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(IMAGES, 3, 8, 8, generator=draw, dtype=torch.float64),
            torch.randint(0, 4, (IMAGES,), generator=draw),
        )
        for _ in range(STEPS)
    ]


def options() -> dict[str, Any]:
    return {
        "generator": torch.Generator().manual_seed(2),
        "total_steps": STEPS,
        "steps_per_epoch": 5,
        "kernels": False,
    }


def trained(learner: Learner) -> State:
    """What is left after all steps of the blocks that learnt here."""
    losses = [
        [None if loss is None else loss.item() for loss in learner.step(images, labels)]
        for images, labels in batches()
    ]
    if isinstance(learner, StageLearner):
        learner.finish()
    network = learner.network
    tensors = {
        f"{k}.{name}": tensor
        for k in learner.blocks
        for module in (network.blocks[k], *([network.head(k)] if k in network.scored_blocks else []))
        for name, tensor in module.state_dict().items()
    }
    return tensors, {k: o.state_dict()["state"] for k, o in learner.optimizers.items()}, losses


def stage(rank: int, names: Sequence[str], stages: int) -> dict[str, State]:
    """Every method in turn: processes take longer to start than to train."""
    states = {}
    for name in names:
        network = network_for(METHODS[name])
        plan = make_plan(Layout(layers=stages), [1.0] * len(network.blocks), METHODS[name].schedule)
        states[name] = trained(StageLearner(network, plan, rank, **options()))
    return states


def replica(rank: int) -> dict[str, State]:
    states = {}
    for name, layout in REPLICATED.items():
        network = network_for(METHODS[name])
        plan = make_plan(layout, [1.0] * len(network.blocks), METHODS[name].schedule)
        groups = [dist.new_group(layout.peers(stage)) for stage in range(layout.layers)]
        group = groups[layout.place(rank)[1]]
        synchronize_statistics(network, group)
        states[name] = trained(StageLearner(network, plan, rank, group=group, **options()))
    return states


def copied_outputs(rank: int) -> Tensor | None:
    network = network_for(METHODS["strict"])
    synchronize_statistics(network, dist.new_group([0, 1]))
    if rank:
        return None
    # The other processes take no part in this.
    copied = copy.deepcopy(network).train()
    output: Tensor = copied.blocks[0](batches()[0][0])
    return output.detach()


def everything(rank: int, folder: Path) -> dict[str, Any]:
    return {"stages": stage(rank, STAGED, 4), "replicas": replica(rank), "copied": copied_outputs(rank)}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found."""
    return asked_once(tmp_path_factory, 4, everything)[1]


def test_two_stages_equal_one_process_to_the_bit(tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, stage, ["pairs"], 2)
    assert_equal_one_process("pairs", [own["pairs"] for own in found])


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGED)
def test_four_stages_equal_one_process_to_the_bit(name: str, four: list[dict[str, Any]]) -> None:
    assert_equal_one_process(name, [own["stages"][name] for own in four])


def assert_equal_one_process(name: str, found: Sequence[State]) -> None:
    tensors, optimizers, losses = trained(Learner(network_for(METHODS[name]), **options()))
    held: dict[str, Tensor] = {}
    for own, _, _ in found:
        assert not held.keys() & own.keys()
        held |= own
    assert held.keys() == tensors.keys()
    assert [(name, k) for k, tensor in tensors.items() if not torch.equal(tensor, held[k])] == []
    for step in range(STEPS):
        by_stage = [own[step] for _, _, own in found]
        merged = [
            next((v for v in values if v is not None), None) for values in zip(*by_stage, strict=True)
        ]
        assert merged == losses[step], name
    if METHODS[name].optimizer.ownership == "weight":
        for _, states, _ in found:
            for owner, state in states.items():
                assert_equal_states(optimizers[owner], state)


def assert_equal_states(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for index, entries in one.items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other[index][k])) for k, v in entries.items()
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLICATED)
def test_replicas_equal_one_process_to_rounding(name: str, four: list[dict[str, Any]]) -> None:
    found = [own["replicas"][name] for own in four]
    tensors, _, losses = trained(Learner(network_for(METHODS[name]), **options()))
    for own, _, _ in found:
        for k, tensor in own.items():
            torch.testing.assert_close(tensor, tensors[k], rtol=1e-9, atol=1e-11)
    assert {k for own, _, _ in found for k in own} == tensors.keys()
    # Shares of a batch differ, so that their mean loss is the batch's.
    for block in range(6):
        for step in range(STEPS):
            shares = [share for _, _, own in found if (share := own[step][block]) is not None]
            if losses[step][block] is not None:
                assert sum(shares) / len(shares) == pytest.approx(losses[step][block], rel=1e-9)


@pytest.mark.slow
def test_a_copy_of_a_replica_has_statistics_of_its_own(four: list[dict[str, Any]]) -> None:
    plain = network_for(METHODS["strict"]).train().blocks[0](batches()[0][0])
    torch.testing.assert_close(four[0]["copied"], plain.detach(), rtol=0, atol=0)
