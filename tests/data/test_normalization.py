"""Fixed constants in place of those of the training images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trifecta.data import (
    PUBLISHED_STATISTICS,
    Batches,
    DataConfig,
    ImageData,
    evaluation_batches,
    load_data,
)
from trifecta.data.images import channel_statistics

from .helpers import colour, hub_source, png


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(DataConfig(source=str(folder), **{"validation": 0.0, **options}))


def test_batches_are_normalised_by_the_given_constants(folder: Path) -> None:
    data = load(hub_source(folder), mean=(0.25,), std=(0.5,))
    assert (data.mean, data.std) == ((0.25,), (0.5,))
    batches = Batches(data.train, batch_size=8, mean=data.mean, std=data.std, seed=0)
    trained = next(batches.epoch(0, generator=torch.Generator()))[0]
    # The inner pixels of the training images are 0, 10, … 70, of the test images 100 to 103.
    expected = (torch.arange(0.0, 80, 10) / 255 - 0.25) / 0.5
    torch.testing.assert_close(trained[:, 0, 1, 1].sort().values, expected)
    tested = next(evaluation_batches(data.test, 4, data.mean, data.std))[0]
    torch.testing.assert_close(tested[:, 0, 1, 1], (torch.arange(100.0, 104) / 255 - 0.25) / 0.5)


def test_constants_change_neither_the_images_nor_what_is_cached(folder: Path) -> None:
    hub_source(folder)
    fixed, plain = load(folder, mean=(0.25,), std=(0.5,)), load(folder)
    assert torch.equal(fixed.train.images, plain.train.images)
    assert (plain.mean, plain.std) == channel_statistics(plain.train)
    again = load(folder, mean=(0.75,), std=(1.0,))
    assert (again.mean, again.std) == ((0.75,), (1.0,))


def test_the_digits_take_constants_too() -> None:
    data = load_data(DataConfig(source="digits", mean=(0.3,), std=(0.4,)))
    assert (data.mean, data.std) == ((0.3,), (0.4,))


@pytest.mark.parametrize("given", [1, 2, 4])
def test_constants_for_another_number_of_channels(folder: Path, given: int) -> None:
    hub_source(folder, images=[png(colour(k)) for k in range(4)])
    message = f"one value per channel: received {given} for images of 3; leave both out"
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, mean=(0.5,) * given, std=(0.5,) * given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "channels"), [("mnist", 1), ("fashion-mnist", 1), ("svhn", 3), ("cifar10", 3)]
)
def test_published_constants_fit_a_configuration(name: str, channels: int) -> None:
    mean, std = PUBLISHED_STATISTICS[name]
    config = DataConfig(source="x", mean=mean, std=std)
    assert (config.mean, config.std) == (mean, std)
    assert len(mean) == channels
