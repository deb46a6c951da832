"""The airbench network: whitening, first weights, what learns, and the run that makes its filters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from matrix import methods
from stopping import StopAt
from trifecta import build_network, get_method
from trifecta.data import ImageData
from trifecta.nn.blocks import BlockStyle
from trifecta.nn.networks import PatchWhitening, airbench
from trifecta.training import Interrupted, RunConfig, RunFolder, Trainer, resume, train
from trifecta.training.run import finish

CONFIG = RunConfig(network="airbench", width=0.05, epochs=2, batch_size=60, precision="fp32")


@pytest.fixture(scope="module")
def large_stripes(stripes: ImageData) -> ImageData:
    """The stripes, 16×16."""
    splits = {
        name: replace(split, images=split.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
        for name in ("train", "validation", "test")
        if (split := getattr(stripes, name)) is not None
    }
    return replace(stripes, **splits)


def coloured(channels: int = 3, side: int = 12) -> Tensor:
    """Noise whose channels and neighbouring pixels are correlated, of mean 0."""
    noise = 10 * torch.randn(200, channels, side, side, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1)
    return smooth + smooth.mean(1, keepdim=True)


def whitening(*blocks: nn.Module) -> PatchWhitening:
    (found,) = (m for block in blocks for m in block.modules() if isinstance(m, PatchWhitening))
    return found


def test_whitened_patches_are_uncorrelated_and_of_unit_variance() -> None:
    images, module = coloured(), PatchWhitening(3)
    module.fit_images(images)
    out = module(images)
    first, second = out.chunk(2, dim=1)
    torch.testing.assert_close(first, -second)
    rows = first.movedim(1, -1).flatten(0, -2).double()
    covariance = rows.T @ rows / len(rows)
    assert out.shape == (200, 24, 11, 11)
    torch.testing.assert_close(module(images.double()), out.double(), rtol=0, atol=1e-5)
    assert (covariance - torch.eye(12)).abs().max() < 0.02
    # What is coloured is not white before.
    raw = PatchWhitening(3)(images).chunk(2, dim=1)[0].movedim(1, -1).flatten(0, -2).double()
    assert (raw.T @ raw / len(raw) - torch.eye(12)).abs().max() > 0.2


def test_channels_that_no_image_has_keep_single_pixels() -> None:
    images, module = coloured(), PatchWhitening(4)
    module.fit_images(images)
    label = torch.randn(200, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    out = module(torch.cat([images, label], dim=1))
    plain = PatchWhitening(3)
    plain.fit_images(images)
    torch.testing.assert_close(out[:, :12], plain(images)[:, :12])
    corners = [label[:, 0, :-1, :-1], label[:, 0, :-1, 1:], label[:, 0, 1:, :-1], label[:, 0, 1:, 1:]]
    torch.testing.assert_close(out[:, 12:16], torch.stack(corners, dim=1))


def test_convolutions_begin_as_the_identity() -> None:
    first, second, *_ = airbench((3, 32, 32))
    x = torch.randn(2, 64, 15, 15)
    torch.testing.assert_close(second.get_submodule("weights.convolution")(x), x)
    received = torch.randn(2, 24, 31, 31)
    passed = first.get_submodule("weights.convolution")(received)[:, :24]
    torch.testing.assert_close(passed, F.max_pool2d(received, 2))


def test_sizes_and_what_learns() -> None:
    blocks = airbench((3, 32, 32))
    convolutions = [m for m in blocks.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 256, 256, 256, 256]
    blocks = airbench((3, 32, 32), style=BlockStyle(dropout=0.3))
    names = [[name for name, _ in block.named_children()] for block in blocks]
    plain = ["weights", "activation", "dropout"]
    assert names == [["whiten", "whitened", *plain], *[plain] * 4, [*plain, "maximum"]]
    assert {m.p for m in blocks.modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert {m.momentum for m in blocks.modules() if isinstance(m, nn.BatchNorm2d)} == {0.4}
    x, shapes = torch.randn(2, 3, 32, 32), []
    for block in blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    expected = [(64, 15, 15), (64, 15, 15), (256, 7, 7), (256, 7, 7), (256, 3, 3), (256, 1, 1)]
    assert shapes == expected
    learns = {name.split(".", 1)[1] for name, p in blocks.named_parameters() if p.requires_grad}
    assert learns == {"weights.convolution.weight", "weights.normalize.bias"}


def test_a_run_makes_filters_of_its_images_once(large_stripes: ImageData, tmp_path: Path) -> None:
    whole = train(CONFIG, data=large_stripes, out=tmp_path / "whole")
    filters = whitening(*whole.network.blocks).weight
    fresh = build_network(
        CONFIG.method, "airbench", sample_shape=large_stripes.sample_shape, num_classes=3, width=0.05
    )
    assert not torch.equal(filters, whitening(*fresh.blocks).weight)
    trainer = Trainer(
        replace(CONFIG, data=None),
        folder=RunFolder(tmp_path / "half"),
        data=large_stripes,
        callbacks=[StopAt(6)],
    )
    with pytest.raises(Interrupted):
        finish(trainer)
    weights = resume(tmp_path / "half", data=large_stripes).network.state_dict()
    assert all(torch.equal(t, weights[name]) for name, t in whole.network.state_dict().items())


def test_a_loader_has_no_images_to_make_filters_of(large_stripes: ImageData) -> None:
    loader = DataLoader(TensorDataset(large_stripes.train.images.float(), large_stripes.train.labels), 60)
    with pytest.raises(ValueError, match="filters are made of training images: received a loader"):
        train(CONFIG, data=loader, test=(large_stripes.test.images.float(), large_stripes.test.labels))


@pytest.mark.parametrize("method", methods(["superfecta", "trifecta", "backprop"], quick=("superfecta",)))
def test_it_learns_stripes(method: str, large_stripes: ImageData) -> None:
    config = replace(CONFIG, method=get_method(method), width=0.1, epochs=4)
    assert train(config, data=large_stripes).test_accuracy > 0.9
