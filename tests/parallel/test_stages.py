"""Stages in processes of their own against one process, to the bit."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from processes import in_processes
from trifecta import LocalNetwork, build_network, get_method
from trifecta.learner import Learner
from trifecta.method import Method
from trifecta.parallel.batch_norm import synchronize_statistics
from trifecta.parallel.plan import Layout, make_plan
from trifecta.parallel.stage import StageLearner
from trifecta.schedules import Schedule

STEPS, IMAGES = 20, 12
METHODS: dict[str, Method] = {
    "strict": get_method("superfecta"),
    "overlapping": get_method("class-groups"),
    "pairs": get_method("trifecta"),
    "published": get_method("trifecta"),
    "new pairs in every block": get_method("scff"),
    "wide windows": replace(get_method("mono-forward"), schedule=Schedule(size=5)),
    "freezing": replace(
        get_method("mono-forward"),
        optimizer=replace(get_method("mono-forward").optimizer, freeze_from=0.4),
    ),
    "backprop": get_method("backprop"),
    "dropout": replace(get_method("trifecta"), dropout=0.2),
}
METHODS["published"] = replace(
    METHODS["published"],
    schedule=replace(METHODS["published"].schedule, trains_remainder=False, restarts=True),
    optimizer=replace(METHODS["published"].optimizer, ownership="objective"),
)
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
        "steps_per_epoch": 7,
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As every process has: the order of sums depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STAGED = [name for name in METHODS if name != "backprop"]


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        (["pairs"], 2),
        pytest.param([name for name in STAGED if name != "pairs"], 2, marks=pytest.mark.slow),
        pytest.param(STAGED, 4, marks=pytest.mark.slow),
    ],
    ids=["pairs-2", "others-2", "all-4"],
)
def test_stages_equal_one_process_to_the_bit(names: list[str], stages: int, tmp_path: Path) -> None:
    found = in_processes(stages, tmp_path, stage, names, stages)
    for name in names:
        assert_equal_one_process(name, [own[name] for own in found])


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


def replica(rank: int, layouts: Mapping[str, Layout]) -> dict[str, State]:
    states = {}
    for name, layout in layouts.items():
        network = network_for(METHODS[name])
        plan = make_plan(layout, [1.0] * len(network.blocks), METHODS[name].schedule)
        groups = [
            dist.new_group([layout.rank(k, s) for k in range(layout.data)]) for s in range(layout.layers)
        ]
        group = groups[layout.stage(rank)]
        synchronize_statistics(network, group)
        states[name] = trained(StageLearner(network, plan, rank, group=group, **options()))
    return states


REPLICATED = ("strict", "overlapping", "pairs", "backprop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "layouts"),
    [
        (2, dict.fromkeys(REPLICATED, Layout(data=2))),
        # Backprop has one stage.
        (4, {**dict.fromkeys(REPLICATED, Layout(data=2, layers=2)), "backprop": Layout(data=4)}),
    ],
    ids=["2", "4"],
)
def test_replicas_equal_one_process_to_rounding(
    processes: int, layouts: dict[str, Layout], tmp_path: Path
) -> None:
    found = in_processes(processes, tmp_path, replica, layouts)
    for name in layouts:
        assert_replicas_equal_one_process(name, [own[name] for own in found])


def assert_replicas_equal_one_process(name: str, found: Sequence[State]) -> None:
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


def copied_outputs(rank: int) -> Tensor | None:
    network = network_for(METHODS["strict"])
    synchronize_statistics(network, dist.new_group([0, 1]))
    if rank:
        return None
    # The other process takes no part in this.
    copied = copy.deepcopy(network).train()
    output: Tensor = copied.blocks[0](batches()[0][0])
    return output.detach()


@pytest.mark.slow
def test_a_copy_of_a_replica_has_statistics_of_its_own(tmp_path: Path) -> None:
    plain = network_for(METHODS["strict"]).train().blocks[0](batches()[0][0])
    found = in_processes(2, tmp_path, copied_outputs)
    torch.testing.assert_close(found[0], plain.detach(), rtol=0, atol=0)


def assert_equal_states(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for index, entries in one.items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other[index][k])) for k, v in entries.items()
        )
