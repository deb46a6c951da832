"""How fast a block learns, and to what end."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from trifecta import OptimizerConfig
from trifecta.optim import Muon


def test_a_linear_rate_falls_by_equal_steps() -> None:
    config = OptimizerConfig(learning_rate=0.4, decay="linear")
    assert [config.rate(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.4, 0.3, 0.2, 0.0])
    assert config.rate(0.25, end=0.5) == pytest.approx(0.2)
    assert config.rate(0.7, end=0.5) == 0


def test_a_rate_falls_along_a_cosine_to_its_end_and_stays_there() -> None:
    config = OptimizerConfig(learning_rate=0.4, decay="cosine")
    shares = (0.0, 0.25, 0.5, 1.0, 1.7)
    assert [config.rate(share) for share in shares] == pytest.approx([0.4, 0.3414214, 0.2, 0, 0], abs=1e-7)
    assert config.rate(0.25, end=0.5) == pytest.approx(0.2)


def test_a_constant_rate_stays() -> None:
    config = OptimizerConfig(learning_rate=0.4, decay="constant")
    assert [config.rate(share) for share in (0.0, 0.5, 1.0)] == [0.4, 0.4, 0.4]


def test_a_rate_rises_by_equal_steps_and_then_decays_over_the_rest() -> None:
    constant = OptimizerConfig(learning_rate=0.4, decay="constant", warmup=0.2)
    assert [constant.rate(t) for t in (0.0, 0.05, 0.2, 1.0)] == pytest.approx([0, 0.1, 0.4, 0.4])
    linear = OptimizerConfig(learning_rate=0.4, decay="linear", warmup=0.2)
    assert [linear.rate(t) for t in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    assert linear.rate(0.4, end=0.6) == pytest.approx(0.2)
    cosine = OptimizerConfig(learning_rate=0.4, warmup=0.5)
    assert [cosine.rate(t) for t in (0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.2, 0.4, 0.2, 0])


def test_blocks_freeze_one_after_the_other_and_the_last_one_never() -> None:
    config = OptimizerConfig(freeze_from=0.6)
    assert [config.end(block, 3) for block in range(3)] == pytest.approx([0.6, 0.8, 1.0])
    assert config.end(0, 1) == 1.0
    assert [config.frozen_blocks(share, 3) for share in (0.0, 0.59, 0.6, 0.8, 0.99)] == [0, 0, 1, 2, 2]


def test_no_block_freezes_unless_it_is_asked_to() -> None:
    assert [OptimizerConfig().end(block, 3) for block in range(3)] == [1.0, 1.0, 1.0]
    assert OptimizerConfig().frozen_blocks(1.0, 3) == 0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ownership": "nobody"}, "unknown optimizer ownership 'nobody'"),
    ({"algorithm": "muon", "weight_decay": 0.1}, "weight_decay is Adam's: received 0.1 with another"),
    ({"decay": "step"}, "unknown decay 'step'"),
    ({"freeze_from": 0.0}, "freeze_from is a share of the run above 0: received 0.003, 0.0, 0.0"),
    ({"freeze_from": 1.5}, "freeze_from is a share of the run above 0: received 0.003, 0.0, 1.5"),
    ({"freeze_from": 0.5, "decay": "constant"}, "received freeze_from 0.5 with decay constant; use cosine"),
    ({"learning_rate": 0.0}, "the learning rate must be above 0, weight decay"),
    ({"warmup": -0.1}, "warmup is a share of the run, 0 or more and below freeze_from (1.0), and"),
    ({"warmup": 1.0}, "None: received 1.0 and None"),
    ({"warmup": 0.5, "freeze_from": 0.5}, "below freeze_from (0.5), and clip_norm is above 0, or None"),
    ({"clip_norm": 0.0}, "clip_norm is above 0, or None: received 0.0 and 0.0"),
    ({"weight_decay": -0.1}, "weight decay at least 0, and freeze_from"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[next(iter(s)) for s, _ in REFUSED])
def test_settings_that_no_optimizer_takes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        OptimizerConfig(**settings)


def test_arguments_are_for_an_optimizer_of_ones_own() -> None:
    with pytest.raises(ValueError, match=r"^arguments are for an optimizer of your own, or muon's "):
        OptimizerConfig(arguments={"momentum": 0.9})
    with pytest.raises(ValueError, match="unknown optimizer 'adm': did you mean adam"):
        OptimizerConfig(algorithm="adm")


def test_muon_takes_its_own_arguments() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    config = OptimizerConfig(algorithm="muon", arguments={"momentum": 0.5, "normalized": True})
    (group,) = config.build([weight], hidden=[weight]).param_groups
    assert (group["momentum"], group["normalized"], group["adam_scale"]) == (0.5, True, 1.0)
    with pytest.raises(
        ValueError, match=r"or muon's momentum, normalized, matched, adam_scale, rounds: received betas"
    ):
        OptimizerConfig(algorithm="muon", arguments={"betas": 0.9})
    with pytest.raises(ValueError, match=r"^muon's momentum is 0 or more and below 1, adam_scale"):
        OptimizerConfig(algorithm="muon", arguments={"momentum": 1.0}).build([weight])


def test_an_optimizer_is_built_as_it_is_described() -> None:
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))]
    adam = OptimizerConfig(learning_rate=0.2).build(weights)
    decayed = OptimizerConfig(learning_rate=0.2, weight_decay=0.1).build(weights)
    muon = OptimizerConfig(algorithm="muon", learning_rate=0.2).build(weights, hidden=weights[:1])
    own = OptimizerConfig(algorithm=torch.optim.SGD, arguments={"momentum": 0.9}, learning_rate=0.2).build(
        weights
    )
    assert [type(o) for o in (adam, decayed, muon, own)] == [
        torch.optim.Adam,
        torch.optim.AdamW,
        Muon,
        torch.optim.SGD,
    ]
    for optimizer in (adam, decayed, muon, own):
        assert {group["lr"] for group in optimizer.param_groups} == {0.2}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert decayed.param_groups[0]["weight_decay"] == 0.1
    assert own.param_groups[0]["momentum"] == 0.9
    assert [(group["orthogonalized"], group["params"]) for group in muon.param_groups] == [
        (True, weights[:1]),
        (False, weights[1:]),
    ]
    only = OptimizerConfig(algorithm="muon").build(weights)
    assert [group["orthogonalized"] for group in only.param_groups] == [False]
