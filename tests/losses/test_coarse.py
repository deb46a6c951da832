"""Coarse-to-fine targets: early blocks learn superclasses, late ones classes."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trifecta.data import DataConfig, ImageData
from trifecta.learner import Learner
from trifecta.losses import Combined, CrossEntropy, Similarity, Site
from trifecta.losses.combined import CoarseHead, coarsened
from trifecta.methods import get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.training import RunConfig, RunFolder, Trainer, from_plain, to_plain
from trifecta.training.config import changed, read_config
from trifecta.training.trainer import find_superclasses

SHAPE, SUPERCLASSES = (3, 32, 32), (0, 1, 1, 0)
# Fused and plain, class groups, a linear classifier.
METHODS = ["deeper-forward", "class-groups", "mono-forward", "pred"]


def network_of(method: str, superclasses: tuple[int, ...] = SUPERCLASSES) -> LocalNetwork:
    coarse = replace(get_method(method), superclasses=(superclasses,), dropout=0.0)
    return build_network(coarse, "small", sample_shape=SHAPE, num_classes=4, width=0.05).double()


def losses(network: LocalNetwork, labels: Tensor) -> list[float]:
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = Learner(network).step(images, labels)
    return [float(loss) for loss in step if loss is not None]


@pytest.mark.parametrize("method", METHODS)
def test_early_blocks_see_superclasses_alone(method: str) -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    # Every class changes its place with the other one of its superclass.
    swapped = torch.tensor([3, 2, 1, 0])[labels]
    # One class leaves its superclass.
    moved = torch.tensor([1, 1, 2, 3])[labels]
    network = network_of(method)
    # A classifier that starts at zero scores all classes alike.
    for head in (network.head(k) for k in network.scored_blocks):
        for parameter in head.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    first, second, third = (losses(copy.deepcopy(network), each) for each in (labels, swapped, moved))
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert same == [k < len(first) // 2 for k in range(len(first))]
    assert all(a != b for a, b in zip(first, third, strict=True))


def test_the_contrastive_term_sees_classes_everywhere() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    # The same superclasses, and other images that share a class.
    regrouped = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    network = network_of("hcl-ff")
    first, second = (losses(copy.deepcopy(network), each) for each in (labels, regrouped))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_an_early_block_still_scores_every_class() -> None:
    scores = network_of("hcl-ff").block_scores(torch.rand(5, *SHAPE, dtype=torch.float64))
    for score in scores:
        assert score is not None
        assert score.shape == (5, 4)
        assert len(set(score[0].tolist())) == 4


def test_levels_share_the_blocks() -> None:
    levels = ((0, 0, 1, 1), (0, 1, 2, 2))
    sites = [Site(k, [SHAPE] * 6, 4) for k in range(6)]
    plain = CrossEntropy().head(SHAPE, 4)
    heads = [coarsened(plain, site, levels) for site in sites]
    found = [tuple(head.superclasses.tolist()) for head in heads if isinstance(head, CoarseHead)]
    assert found == [*[levels[0]] * 2, *[levels[1]] * 2]
    assert heads[4:] == [plain, plain]
    assert coarsened(plain, sites[0], ()) is plain
    combined: Any = Combined(terms=(Similarity(),)).head(SHAPE, 4)
    scoring = combined.scoring
    coarse: Any = coarsened(combined, sites[0], levels)
    assert coarse is combined
    assert coarse.scoring.head is scoring
    assert coarse.scoring.superclasses.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("superclasses", "message"),
    [
        ((0, 1), "a number for each of 4 classes, 0, 1, … without a gap: received 0,1$"),
        ((0, 2, 2, 0), "received 0,2,2,0$"),
        ((0, 0, 0, 0), "received 0,0,0,0$"),
    ],
)
def test_superclasses_must_fit_the_classes(superclasses: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of("hcl-ff", superclasses)


@pytest.mark.parametrize("method", ["trifecta", "rec-lra"])
def test_superclasses_need_scores_of_a_block_alone(method: str) -> None:
    with pytest.raises(ValueError, match="superclasses need a loss that scores"):
        replace(get_method(method), superclasses=(SUPERCLASSES,))


def test_superclasses_are_found_where_images_resemble_each_other() -> None:
    """Two dark classes, two bright ones, and one in between that is nearer to the bright ones."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 5
    level = torch.tensor([20.0, 40.0, 200.0, 220.0, 150.0])[labels].view(-1, 1, 1, 1)
    images = (level + torch.rand(100, 1, 4, 4, generator=draw) * 5).to(torch.uint8)
    levels = find_superclasses(images, labels, 5)
    partitions = [
        sorted({frozenset(c for c in range(5) if level[c] == s) for s in level}, key=min)
        for level in levels
    ]
    assert partitions[0] == [{0, 1}, {2, 3, 4}]
    assert partitions[1] == [{0}, {1}, {2, 3}, {4}]
    assert len(levels) == 2
    assert find_superclasses(images[labels < 2], labels[labels < 2], 2) == ()


def test_training_finds_superclasses_and_the_run_keeps_them(stripes: ImageData, tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig(source="stripes"), method=get_method("hcl-ff"), width=0.1, epochs=1, batch_size=32
    )
    trainer = Trainer(config, folder=RunFolder(tmp_path / "run"), data=stripes)
    found = find_superclasses(stripes.train.images, stripes.train.labels, 3)
    assert found
    assert trainer.config.method.superclasses == found
    trainer.fit()
    assert read_config(tmp_path / "run" / "config.yaml").method.superclasses == found


def test_superclasses_are_a_setting_of_a_run() -> None:
    config = changed(RunConfig(method="hcl-ff"), {"method.superclasses": [[0, 0, 1]]})
    assert config.method.superclasses == ((0, 0, 1),)
    assert from_plain(to_plain(config)) == config
