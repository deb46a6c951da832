"""What a run says of its locality, over every option that could let a later block steer an earlier one.

The probe replaces the last block by another one and trains both networks for a few steps. A method is
*strict* if and only if nothing of any earlier block differs afterwards, to the bit: weights, running
statistics, heads.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from matrix import KINDS
from trifecta import METHODS, Learner, LocalNetwork, Method, build_network, get_method
from trifecta.data import DataConfig, ImageData
from trifecta.nn.norms import NORMALIZATIONS
from trifecta.schedules import LAYER_WISE
from trifecta.training import RunConfig, Trainer
from trifecta.training.run import finish

SHAPE, CLASSES, STEPS = (3, 8, 8), 3, 4
Option = Callable[[Method], Method]


def with_optimizer(**changes: object) -> Option:
    return lambda method: replace(method, optimizer=replace(method.optimizer, **changes))  # type: ignore[arg-type]


def with_choices(**changes: object) -> Option:
    return lambda method: replace(method, **changes)  # type: ignore[arg-type]


OPTIONS: dict[str, Option] = {
    "default": lambda method: method,
    "hard negatives": with_choices(negatives="hard"),
    "superclasses": with_choices(superclasses=((0, 0, 1),)),
    "freezing": with_optimizer(freeze_from=0.5),
    "states by objective": with_optimizer(ownership="objective"),
    "muon": with_optimizer(algorithm="muon"),
    "chosen read-out": with_choices(readout="chosen"),
    "read-out of all": with_choices(readout="all"),
    "dropout": with_choices(dropout=0.3),
    "triangle": with_choices(activation="triangle"),
    **{f"{name} normalisation": with_choices(normalization=name) for name in NORMALIZATIONS},
}


def varied(method: str, option: str) -> Method | None:
    """The method with one option, every block alone; None where the two contradict each other."""
    try:
        return OPTIONS[option](replace(get_method(method), schedule=LAYER_WISE))
    except ValueError:
        return None


def network_of(method: Method) -> LocalNetwork:
    return build_network(method, "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.05)


def trained(network: LocalNetwork) -> dict[str, torch.Tensor]:
    """What a few steps leave of all blocks but the last, their heads and the label's input."""
    learner = Learner(network, generator=torch.Generator().manual_seed(4), total_steps=STEPS + 1)
    draw = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        learner.step(torch.randn(12, *SHAPE, generator=draw), torch.arange(12) % CLASSES)
    last = len(network.blocks) - 1
    own = (f"blocks.{last}.", f"_heads.{last}.")
    return {name: value for name, value in network.state_dict().items() if not name.startswith(own)}


def later_blocks_steer_earlier_ones(method: Method) -> bool:
    network = network_of(method)
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.blocks[-1].parameters():
            parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(9))
    before, after = trained(network), trained(changed)
    return any(not torch.equal(value, after[name]) for name, value in before.items())


def tried(option: str, turn: int) -> list[str]:
    """Return all methods for an option that changes what is local, else trifecta and one in turn."""
    able = [name for name in METHODS if varied(name, option) is not None]
    if option in ("default", "hard negatives"):
        return able
    return [name for name in able if name == "trifecta" or name == able[turn % len(able)]]


CASES = [(name, option) for turn, option in enumerate(OPTIONS) for name in tried(option, turn)]


def quick(case: tuple[str, str]) -> bool:
    """Every option with one method, every kind of method as it is."""
    name, option = case
    other = varied("trifecta", option) is None
    return name == "trifecta" or other or (name in KINDS and option == "default")


@pytest.mark.parametrize(
    ("name", "option"),
    [pytest.param(*case, marks=() if quick(case) else pytest.mark.slow) for case in CASES],
)
def test_a_strict_run_is_one_whose_earlier_blocks_notice_no_later_one(name: str, option: str) -> None:
    method = varied(name, option)
    assert method is not None
    assert method.locality in ("strict", "feedback")
    assert later_blocks_steer_earlier_ones(method) is (method.locality == "feedback")


def test_every_option_is_tried_with_some_method() -> None:
    assert {option for _, option in CASES} == set(OPTIONS)
    with_hard_negatives = {name for name, option in CASES if option == "hard negatives"}
    assert with_hard_negatives == {name for name in METHODS if get_method(name).tries_labels}


def test_hard_negatives_are_declared_for_every_schedule_but_end_to_end() -> None:
    method = replace(get_method("trifecta"), negatives="hard")
    assert method.locality == "feedback"
    assert replace(method, schedule=replace(LAYER_WISE, size=0)).locality == "end-to-end"
    assert not method.pipelines


def test_the_result_says_so(stripes: ImageData) -> None:
    method = replace(get_method("trifecta"), negatives="hard")
    config = RunConfig(
        data=DataConfig(source="stripes"), method=method, width=0.05, epochs=1, batch_size=60
    )
    assert finish(Trainer(config, data=stripes)).result["locality"] == "feedback"
