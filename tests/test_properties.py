"""Properties that hold whatever is drawn: samples, classes, networks, schedules and methods.

CI draws the same few dozen every time, ``--hypothesis-profile=many`` a thousand others of each.
"""

import copy
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from trifecta import METHODS, Learner, LocalNetwork, Method, Schedule, get_method

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Drawn:
    """A network of one's own, and a batch for it."""

    method: Method
    network: LocalNetwork
    samples: Tensor
    labels: Tensor


schedules = st.builds(
    Schedule, size=st.integers(0, 3), overlapping=st.booleans(), trains_remainder=st.booleans()
)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Blocks of convolutions in 1 to 3 dimensions or of linear maps, a method, and a schedule for it."""
    method = get_method(draw(st.sampled_from(sorted(METHODS))))
    classes, size = draw(st.integers(2, 6)), draw(st.integers(2, 7))
    positions = draw(st.integers(0, 3))
    widths = draw(st.lists(st.integers(6, 9), min_size=1, max_size=4))
    channels = draw(st.integers(1, 3)) if positions else draw(st.integers(2, 9))
    if draw(st.booleans()):
        # Some schedules are refused by themselves, and some by their method.
        with suppress(ValueError):
            readout = draw(st.sampled_from(["last", "all"]))
            method = replace(method, schedule=draw(schedules), readout=readout)
    torch.manual_seed(draw(st.integers(0, 2**31)))
    blocks: list[nn.Module] = []
    for before, width in zip([channels, *widths], widths, strict=False):
        weights = (
            CONVOLUTIONS[positions](before, width, 3, padding=1) if positions else nn.Linear(before, width)
        )
        blocks.append(nn.Sequential(weights, draw(st.sampled_from([nn.ReLU(), nn.GELU()]))))
    shape = (channels, *[size] * positions)
    network = LocalNetwork(blocks, method, sample_shape=shape, num_classes=classes)
    count = draw(st.integers(2, 9))
    return Drawn(method, network, torch.randn(count, *shape), torch.randint(0, classes, (count,)))


def state_of(network: LocalNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@given(drawn())
def test_losses_and_weights_stay_finite(case: Drawn) -> None:
    learner = Learner(case.network, generator=torch.Generator().manual_seed(0), total_steps=4)
    for _ in range(3):
        losses = [loss for loss in learner.step(case.samples, case.labels) if loss is not None]
        assert losses
        assert all(loss.isfinite() for loss in losses)
    assert all(value.isfinite().all() for value in case.network.state_dict().values())


@given(drawn())
def test_a_prediction_changes_nothing_and_repeats(case: Drawn) -> None:
    before, randomness = state_of(case.network), torch.random.get_rng_state()
    scores = case.network(case.samples)
    assert scores.shape == (len(case.samples), case.network.num_classes)
    assert torch.equal(case.network(case.samples), scores)
    assert case.network.training
    assert torch.equal(torch.random.get_rng_state(), randomness)
    after = case.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@given(drawn())
def test_a_network_that_was_saved_and_loaded_predicts_the_same(case: Drawn) -> None:
    Learner(case.network, generator=torch.Generator().manual_seed(0)).step(case.samples, case.labels)
    other = copy.deepcopy(case.network)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    tensors = {name: value.contiguous() for name, value in case.network.state_dict().items()}
    other.load_state_dict(load(save(tensors)))
    assert torch.equal(other(case.samples), case.network(case.samples))


@given(drawn())
def test_a_block_of_a_strict_method_does_not_notice_the_last_one(case: Drawn) -> None:
    if case.method.locality != "strict" or len(case.network.blocks) == 1:
        return
    other = copy.deepcopy(case.network)
    with torch.no_grad():
        for parameter in other.blocks[-1].parameters():
            parameter.uniform_(-1, 1)
    for network in (case.network, other):
        learner = Learner(network, generator=torch.Generator().manual_seed(0))
        learner.step(case.samples, case.labels)
    last = len(case.network.blocks) - 1
    after = other.state_dict()
    for name, value in case.network.state_dict().items():
        if not name.startswith((f"blocks.{last}.", f"_heads.{last}.")):
            assert torch.equal(value, after[name]), name


@given(drawn(), st.sampled_from(["labels", "shape", "dtype"]))
def test_a_batch_that_does_not_fit_is_refused(case: Drawn, fault: str) -> None:
    samples, labels = case.samples, case.labels
    if fault == "labels":
        labels = labels + case.network.num_classes
    elif fault == "shape":
        samples = samples[:, :-1] if samples.ndim == 2 else samples[..., :-1]
    else:
        samples = samples.long()
    before = state_of(case.network)
    with pytest.raises(ValueError, match=r"received"):
        Learner(case.network).step(samples, labels)
    after = case.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
