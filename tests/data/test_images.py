import pytest
import torch

from trifecta.data import ImageData, ImageSet
from trifecta.data.images import channel_statistics


def images(count: int = 6, channels: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, 4, 5), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count))


def test_statistics_are_those_of_the_pixels_in_unit_range() -> None:
    pixels = images(50).images
    mean, std = channel_statistics(ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64)))
    unit = pixels.double() / 255
    assert mean == pytest.approx(unit.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(unit.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_constant_channel_can_be_divided_by_its_deviation() -> None:
    assert channel_statistics(
        ImageSet(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8), torch.arange(3))
    ) == ((0.2,), (1 / 255,))


def test_a_selection_keeps_images_with_their_labels() -> None:
    whole = images()
    chosen = whole.select(torch.tensor([4, 1]))
    assert len(chosen) == 2
    assert chosen.labels.tolist() == [4, 1]
    assert torch.equal(chosen.images[0], whole.images[4])


def test_data_describe_themselves_and_move_whole() -> None:
    part = images()
    data = ImageData(
        train=part, validation=None, test=part, classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert data.sample_shape == (3, 4, 5)
    assert data.num_classes == 2
    moved = data.to("meta")
    assert moved.train.images.is_meta
    assert moved.test.labels.is_meta
    assert moved.validation is None
