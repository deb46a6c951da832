"""Pairs of images: what a positive and a negative hold, and that no image is paired with itself."""

import pytest
import torch
from torch import Tensor

from trifecta import Learner, build_network, get_method
from trifecta.inputs import (
    MaskedMix,
    OtherImage,
    draw_offsets,
    region_masks,
    standardized,
    standardized_pair,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_image_with_itself_against_an_image_with_another() -> None:
    images = torch.randn(6, 2, 4, 4)
    positive, negative = OtherImage().pairs(images, generator()).chunk(2)
    assert torch.equal(OtherImage().neutral(images), positive)
    unit = standardized(images)
    torch.testing.assert_close(positive, standardized_pair(unit, unit))
    expected = [standardized_pair(unit, unit.roll(-k, 0)) for k in range(1, 6)]
    assert sum(torch.allclose(negative, each) for each in expected) == 1


def test_offsets_meet_every_other_image_and_never_itself() -> None:
    assert set(draw_offsets(200, 5, generator(), torch.device("cpu")).tolist()) == {1, 2, 3, 4}
    alone = draw_offsets(3, 1, None, torch.device("cpu"))
    assert (alone.tolist(), alone.dtype) == ([0, 0, 0], torch.int64)


def test_every_block_receives_new_pairs_of_what_went_on_of_the_positives() -> None:
    network = build_network(get_method("scff"), sample_shape=(2, 8, 8), num_classes=3, width=0.05)
    x = torch.randn(8, 2, 8, 8)
    offsets = torch.tensor([1, 3, 1, 1, 1, 1])
    received: list[Tensor] = []
    for block in network.blocks[:2]:
        # Called by the parts that its head reads between.
        next(block.children()).register_forward_pre_hook(lambda module, args: received.append(args[0]))
    network.pass_block(0, x, offsets)
    assert received.pop() is x
    x = torch.randn(8, *network.feature_shapes[0])
    network.pass_block(1, x, offsets)
    pairs = received.pop()
    unit = standardized(x[:4])
    torch.testing.assert_close(pairs[:4], standardized_pair(unit, unit))
    torch.testing.assert_close(pairs[4:], standardized_pair(unit, unit.roll(-3, 0)))
    network.pass_block(1, x[:4])
    torch.testing.assert_close(received.pop(), pairs[:4])


def test_a_mixture_has_every_pixel_from_one_of_two_images() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    positive, negative = MaskedMix().pairs(images, generator()).chunk(2)
    assert torch.equal(positive, images)
    for own, mixture in zip(images, negative, strict=True):
        values = set(mixture.flatten().tolist())
        assert len(values) == 2
        assert own[0, 0, 0].item() in values


def test_masks_have_large_regions_of_both_kinds() -> None:
    masks = region_masks(torch.zeros(64, 3, 28, 28), generator())
    assert masks.shape == (64, 1, 28, 28)
    assert set(masks.flatten().tolist()) == {0.0, 1.0}
    assert masks.mean().item() == pytest.approx(0.5, abs=0.05)
    changes = (masks[..., 1:] != masks[..., :-1]).float().mean().item()
    # Random bits change at every other pixel.
    assert changes < 0.25


@pytest.mark.parametrize("name", ["scff", "masked-mix"])
def test_blocks_learn_nothing_from_labels(name: str) -> None:
    weights = []
    for labels in (torch.zeros(8, dtype=torch.int64), torch.arange(8) % 3):
        network = build_network(get_method(name), sample_shape=(1, 8, 8), num_classes=3, width=0.05)
        images = torch.randn(8, 1, 8, 8, generator=generator(7))
        learner = Learner(network, generator=generator(1))
        for _ in range(3):
            learner.step(images, labels)
        weights.append(network.state_dict())
    first, second = weights
    blocks = [key for key in first if key.startswith("blocks.")]
    assert all(torch.equal(first[key], second[key]) for key in blocks)
    assert any(not torch.equal(first[key], second[key]) for key in first if "classifier" in key)


def test_masks_are_bits_blurred_six_times_and_cut_at_their_own_mean() -> None:
    images = torch.zeros(3, 1, 9, 7, dtype=torch.float64)
    bits = torch.randint(0, 2, (3, 1, 9, 7), generator=generator()).double()
    for _ in range(6):
        padded = torch.nn.functional.pad(bits, (1, 1, 1, 1), mode="replicate")
        rows = padded[:, :, :-2] / 4 + padded[:, :, 1:-1] / 2 + padded[:, :, 2:] / 4
        bits = rows[..., :-2] / 4 + rows[..., 1:-1] / 2 + rows[..., 2:] / 4
    expected = torch.stack([image > image.mean() for image in bits]).double()
    assert torch.equal(region_masks(images, generator()), expected)


def test_a_mixture_takes_the_image_where_its_mask_is_one() -> None:
    images = torch.tensor([2.0, 5.0]).view(2, 1, 1, 1).expand(2, 1, 12, 12)
    mask = region_masks(images, generator())
    _, negative = MaskedMix().pairs(images, generator()).chunk(2)
    assert torch.equal(negative, torch.where(mask == 1, images, images.flip(0)))


def test_half_precision_is_standardised_in_float32() -> None:
    x = (torch.randn(2, 3, 8, 8, generator=generator()) + 50).bfloat16()
    assert torch.equal(standardized(x), standardized(x.float()))


def test_masks_of_columns_are_random_bits() -> None:
    masks = region_masks(torch.zeros(50, 7), generator())
    assert masks.shape == (50, 7)
    assert set(masks.flatten().tolist()) == {0.0, 1.0}
    assert not torch.equal(masks[:, 0], masks[:, 1])


def test_pairs_follow_their_generator() -> None:
    images = torch.randn(6, 2, 4, 4, generator=generator())
    for pairs in (OtherImage(), MaskedMix()):
        first, again, other = (pairs.pairs(images, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_a_mask_without_regions_takes_the_image_at_the_drawn_offset() -> None:
    images, draw = torch.arange(7.0).view(7, 1, 1, 1), generator(4)
    region_masks(images, draw)
    offsets = torch.randint(1, 7, (7, 1, 1, 1), generator=draw)
    positive, negative = MaskedMix().pairs(images, generator(4)).chunk(2)
    assert torch.equal(positive, images)
    assert torch.equal(negative, (images + offsets) % 7)
    # An image alone meets itself.
    assert torch.equal(MaskedMix().pairs(images[3:4], None), images[[3, 3]])


def test_a_sample_without_contrast_is_standardised_to_0() -> None:
    assert torch.equal(standardized(torch.full((2, 3), 7.0)), torch.zeros(2, 3))
