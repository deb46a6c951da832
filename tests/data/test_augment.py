import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.data import AUGMENTATIONS, Augmentation, augment, normalize
from trifecta.data.augment import crop, cut_out, flip, rotate

from . import reference

MEAN, STD = (0.4, 0.5, 0.1, 0.9), (0.2, 0.3, 0.4, 0.1)
SHAPES = [(1, 6, 6), (3, 5, 8), (4, 9, 4)]


def images(shape: tuple[int, int, int], batch: int = 12) -> Tensor:
    return torch.randint(0, 256, (batch, *shape), generator=random(1), dtype=torch.uint8)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(pixels: Tensor, config: Augmentation, seed: int = 0) -> Tensor:
    channels = pixels.shape[1]
    return augment(pixels, config, mean=MEAN[:channels], std=STD[:channels], generator=random(seed))


def changed(pixels: Tensor, config: Augmentation, seed: int = 0) -> Tensor:
    """Augmented and rounded back to 0..255."""
    zero, one = (0.0,) * pixels.shape[1], (1.0,) * pixels.shape[1]
    result = augment(pixels, config, mean=zero, std=one, generator=random(seed))
    return (result * 255).round().to(torch.uint8)


def test_normalising_is_the_formula() -> None:
    pixels = images((3, 5, 8))
    for channel in range(3):
        expected = (pixels[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        result = normalize(pixels, MEAN[:3], STD[:3])[:, channel]
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_normalising_leaves_its_input_alone() -> None:
    pixels = images((1, 6, 6)).float()
    before = pixels.clone()
    normalize(pixels, MEAN[:1], STD[:1])
    assert torch.equal(pixels, before)


def test_the_default_normalises_and_draws_nothing() -> None:
    pixels, generator = images((3, 5, 8)), random(3)
    before = generator.get_state()
    result = augment(pixels, Augmentation(), mean=MEAN[:3], std=STD[:3], generator=generator)
    assert torch.equal(result, normalize(pixels, MEAN[:3], STD[:3]))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_moves_whole_pixels(shape: tuple[int, int, int]) -> None:
    pixels = images(shape, batch=49)
    shifts = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    expected = [
        reference.crop(image, int(dy), int(dx)) for image, (dy, dx) in zip(pixels, shifts, strict=True)
    ]
    assert torch.equal(crop(pixels, shifts, padding=3), torch.stack(expected))


def test_a_reflected_crop_reads_the_mirror_image_outside() -> None:
    pixels = images((3, 5, 8), batch=81)
    shifts = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5))
    padded = F.pad(pixels.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    expected = [
        image[:, 4 + dy : 9 + dy, 4 + dx : 12 + dx]
        for image, (dy, dx) in zip(padded, shifts.tolist(), strict=True)
    ]
    assert torch.equal(crop(pixels, shifts, padding=4, reflected=True), torch.stack(expected))
    with pytest.raises(ValueError, match="padding 5 has to be smaller than the image, 5×8"):
        crop(pixels, shifts, padding=5, reflected=True)


def test_flip_mirrors_the_chosen_images() -> None:
    pixels, flips = images((3, 5, 8)), torch.arange(12) % 3 == 0
    expected = [reference.flip(p) if f else p for p, f in zip(pixels, flips, strict=True)]
    assert torch.equal(flip(pixels, flips), torch.stack(expected))


def test_alternating_needs_flips() -> None:
    with pytest.raises(ValueError, match="alternating changes flip, which is off: set flip too"):
        Augmentation(alternating=True)


SIZES = [(1, 1), (2, 7), (9, 4), (8, 8), (28, 28), (32, 32), (33, 21)]


@pytest.mark.parametrize(
    ("size", "channels", "largest"),
    [(size, (1, 3)[k % 2], (15.0, 180.0)[k // 2 % 2]) for k, size in enumerate(SIZES)],
)
def test_rotation_is_pillows_to_the_pixel(size: tuple[int, int], channels: int, largest: float) -> None:
    whole = torch.arange(-360.0, 361.0, 15.0)
    degrees = torch.cat([(torch.rand(100, generator=random(4)) * 2 - 1) * largest, whole])
    pixels = images((channels, *size), batch=len(degrees))
    expected = [reference.rotate(image, d.item()) for image, d in zip(pixels, degrees, strict=True)]
    assert torch.equal(rotate(pixels, degrees), torch.stack(expected))


def test_a_quarter_turn_is_counter_clockwise() -> None:
    pixels = images((4, 7, 7))
    assert torch.equal(rotate(pixels, torch.full((12,), 90.0)), pixels.rot90(1, (-2, -1)))


def test_what_the_crop_left_is_turned_and_then_flipped() -> None:
    """The draws are made again here, in the order that is promised."""
    pixels, generator = images((3, 12, 10), batch=100), random(0)
    shifts = torch.randint(-4, 5, (100, 2), generator=generator)
    degrees = (torch.rand(100, generator=generator) * 2 - 1) * 15
    flips = torch.rand(100, generator=generator) < 0.5
    expected = []
    for image, (dy, dx), angle, mirrored in zip(pixels, shifts, degrees, flips, strict=True):
        turned = reference.rotate(reference.crop(image, int(dy), int(dx)), angle.item())
        expected.append(reference.flip(turned) if mirrored else turned)
    result = changed(pixels, Augmentation(crop_padding=4, rotation=15.0, flip=True))
    assert torch.equal(result, torch.stack(expected))


def test_crop_rotate_is_that_of_the_published_code() -> None:
    assert AUGMENTATIONS["crop-rotate"] == Augmentation(crop_padding=4, rotation=15.0)


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_cutout_is_a_square_clipped_at_the_border(side: int) -> None:
    pixels = images((3, 5, 8), batch=40).float() + 1
    centres = torch.cartesian_prod(torch.arange(5), torch.arange(8))
    expected = [
        reference.cut_out(image, int(y), int(x), side)
        for image, (y, x) in zip(pixels, centres, strict=True)
    ]
    assert torch.equal(cut_out(pixels, centres, side), torch.stack(expected))


def test_shifts_are_uniform_on_both_axes() -> None:
    # A point in the middle tells the shift of its image.
    pixels = torch.zeros(9000, 1, 5, 7, dtype=torch.uint8)
    pixels[:, :, 2, 3] = 255
    points = changed(pixels, Augmentation(crop_padding=1)).nonzero()
    assert len(points) == 9000
    counts = ((points[:, 2] - 1) * 3 + points[:, 3] - 2).bincount(minlength=9)
    # Binomial(9000, 1/9): mean 1000, standard deviation 30.
    assert len(counts) == 9
    assert (counts - 1000).abs().max() < 150


def test_black_comes_in_from_outside_before_normalisation() -> None:
    white = torch.full((200, 1, 4, 4), 255, dtype=torch.uint8)
    result = augmented(white, Augmentation(crop_padding=2))
    black, bright = (0 - MEAN[0]) / STD[0], (1 - MEAN[0]) / STD[0]
    values = torch.unique(result)
    torch.testing.assert_close(values, torch.tensor([black, bright]))


def test_half_of_the_images_are_flipped() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(4000, 1, 3, 8)
    result = changed(ramp, Augmentation(flip=True))
    flipped = (result == ramp.flip(-1)).flatten(1).all(1)
    untouched = (result == ramp).flatten(1).all(1)
    assert (flipped ^ untouched).all()
    # Binomial(4000, 1/2): standard deviation 32.
    assert abs(int(flipped.sum()) - 2000) < 160


def test_rotations_spread_evenly_up_to_the_largest() -> None:
    # A light far right of the centre turns up or down with its image; its height tells the angle.
    pixels = torch.zeros(4000, 1, 41, 41, dtype=torch.uint8)
    pixels[:, :, 18:23, 36:41] = 255
    result = changed(pixels, Augmentation(rotation=30.0)).double()[:, 0]
    rows = torch.arange(41.0, dtype=torch.float64) - 20
    height = -(result.sum(2) * rows).sum(1) / result.sum((1, 2))
    degrees = torch.rad2deg(torch.asin((height / 18).clamp(-1, 1)))
    assert degrees.abs().max() < 31.5
    shares = torch.histc(degrees, bins=6, min=-30, max=30) / 4000
    assert (shares - 1 / 6).abs().max() < 0.05


def test_cutout_sets_the_mean_at_uniform_centres() -> None:
    white = torch.full((6000, 2, 3, 4), 255, dtype=torch.uint8)
    result = augmented(white, Augmentation(cutout=1))
    holes = (result == 0).nonzero()
    assert len(holes) == 6000 * 2
    counts = (holes[:, 2] * 4 + holes[:, 3]).bincount(minlength=12)
    # Binomial(6000, 1/12) twice: mean 1000, standard deviation 43.
    assert (counts - 1000).abs().max() < 215


def test_images_of_a_batch_change_independently() -> None:
    same = images((3, 8, 8), batch=1).expand(64, -1, -1, -1)
    for name in ("crop-flip", "crop-rotate", "crop-flip-cutout"):
        assert len(torch.unique(augmented(same, AUGMENTATIONS[name]), dim=0)) > 30


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_decides_all(name: str) -> None:
    pixels, config = images((3, 8, 8)), AUGMENTATIONS[name]
    before = pixels.clone()
    torch.manual_seed(1)
    first = augmented(pixels, config)
    torch.manual_seed(2)
    assert torch.equal(first, augmented(pixels, config))
    assert torch.equal(first, augmented(pixels, config, seed=7)) == (name == "none")
    assert torch.equal(pixels, before)
    assert first.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_padding": -1}, "crop_padding .* got -1"),
        ({"cutout": -2}, "cutout .* got -2"),
        ({"rotation": -5.0}, "rotation .* got -5.0"),
        ({"rotation": 200.0}, "rotation .* got 200.0"),
        ({"reflected": True}, "reflected .* set crop_padding too"),
    ],
)
def test_values_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)  # type: ignore[arg-type]
