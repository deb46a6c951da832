"""Coarse-to-fine targets: early blocks learn superclasses, late ones classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command import run
from trifecta.learner import Learner
from trifecta.local_network import LocalNetwork, build_network
from trifecta.methods import get_method
from trifecta.training.config import read_config

SHAPE, SUPERCLASSES = (3, 32, 32), (0, 1, 1, 0)
# Fused and plain, class groups, a linear classifier and terms beside it.
METHODS = ["hcl-ff", "class-groups", "mono-forward", "predsim"]


def network_of(method: str, superclasses: tuple[int, ...] = SUPERCLASSES) -> LocalNetwork:
    coarse = replace(get_method(method), superclasses=superclasses)
    return build_network(coarse, "small", image_shape=SHAPE, num_classes=4, width=0.05).double()


def losses(method: str, labels: Tensor) -> list[float]:
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = Learner(network_of(method)).step(images, labels)
    return [float(loss) for loss in step if loss is not None]


@pytest.mark.parametrize("method", METHODS)
def test_early_blocks_see_superclasses_alone(method: str) -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    # Every class changes its place with the other one of its superclass.
    swapped = torch.tensor([3, 2, 1, 0])[labels]
    blocks = len(losses(method, labels))
    same = [a == b for a, b in zip(losses(method, labels), losses(method, swapped), strict=True)]
    assert same == [k < blocks // 2 for k in range(blocks)]
    # The other way round: one class leaves its superclass, and every block sees it.
    moved = torch.tensor([1, 1, 2, 3])[labels]
    assert all(a != b for a, b in zip(losses(method, labels), losses(method, moved), strict=True))


def test_an_early_block_scores_every_class_as_its_superclass() -> None:
    scores = network_of("hcl-ff").eval().block_scores(torch.rand(5, *SHAPE, dtype=torch.float64))
    for k, score in enumerate(scores):
        assert score is not None
        assert score.shape == (5, 4)
        assert torch.equal(score[:, 0], score[:, 3]) is (k < 3)
        assert torch.equal(score[:, 1], score[:, 2]) is (k < 3)
        assert not torch.equal(score[:, 0], score[:, 1])


@pytest.mark.parametrize(
    ("superclasses", "message"),
    [
        ((0, 1), "one number for each of the 4 classes: received 2"),
        ((0, 2, 2, 0), "without a gap, two at least: received 0,2,2,0"),
        ((0, 0, 0, 0), "two at least"),
    ],
)
def test_superclasses_must_fit_the_classes(superclasses: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of("hcl-ff", superclasses)


@pytest.mark.parametrize("method", ["trifecta", "rec-lra"])
def test_superclasses_need_scores_of_a_block_alone(method: str) -> None:
    with pytest.raises(ValueError, match="drop --superclasses"):
        replace(get_method(method), superclasses=SUPERCLASSES)


def test_the_command_line_takes_them_and_the_run_keeps_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train = ["train", "--data", "digits", "--method", "hcl-ff", "--width", "0.1", "--epochs", "1"]
    status, _, error = run(capsys, *train, "--superclasses", "0,0,1,1,1,0,0,1,1,1", "--out", out)
    assert status == 0, error
    assert read_config(out / "config.yaml").method.superclasses == (0, 0, 1, 1, 1, 0, 0, 1, 1, 1)
    status, _, error = run(capsys, *train, "--superclasses", "0,0,1", "--out", tmp_path / "wrong")
    assert status == 2
    assert "one number for each of the 10 classes" in error
    status, _, error = run(capsys, *train, "--superclasses", "0;1", "--out", tmp_path / "wrong")
    assert status == 2
    assert "whole numbers such as 0,0,1" in error
