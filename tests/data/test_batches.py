from typing import Any

import pytest
import torch

from trifecta.data import AUGMENTATIONS, Augmentation, Batches, ImageSet, evaluation_batches, normalize
from trifecta.data.batches import epoch_order

MEAN, STD = (0.4,), (0.3,)


def image_set(count: int = 23) -> ImageSet:
    """Image k has the one grey k, so that an image tells its index."""
    grey = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(grey.expand(-1, 1, 4, 6).contiguous(), torch.arange(count))


def batches(count: int = 23, **values: Any) -> Batches:
    defaults = {"batch_size": 5, "mean": MEAN, "std": STD, "seed": 0}
    return Batches(image_set(count), **{**defaults, **values})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_seen(source: Batches, epoch: int, **options: int) -> list[int]:
    return [int(k) for _, y in source.epoch(epoch, generator=generator(), **options) for k in y]


def test_an_epoch_shows_each_image_once_and_drops_the_incomplete_batch() -> None:
    source = batches()
    seen = labels_seen(source, 0)
    assert source.steps_per_epoch == 4
    assert len(seen) == len(set(seen)) == 20


def test_images_keep_their_labels_and_are_normalised() -> None:
    for images, labels in batches().epoch(3, generator=generator()):
        expected = normalize(labels.to(torch.uint8).view(-1, 1, 1, 1).expand_as(images), MEAN, STD)
        assert torch.equal(images, expected)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert labels_seen(batches(), 2) == labels_seen(batches(), 2)
    orders = {tuple(labels_seen(batches(seed=seed), epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_place_is_equally_likely() -> None:
    orders = torch.stack([epoch_order(8, seed=0, epoch=epoch) for epoch in range(4000)])
    for place in range(8):
        # Binomial(4000, 1/8): mean 500, standard deviation 21.
        counts = orders[:, place].bincount(minlength=8)
        assert (counts - 500).abs().max() < 105


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    ramp = torch.arange(6, dtype=torch.uint8).expand(500, 1, 4, 6).contiguous()
    source = Batches(
        ImageSet(ramp, torch.arange(500)),
        batch_size=100,
        augmentation=Augmentation(flip=True, alternating=True),
        mean=MEAN,
        std=STD,
        seed=0,
    )
    mirrored = []
    for epoch in range(4):
        sides = torch.zeros(500, dtype=torch.bool)
        for pixels, labels in source.epoch(epoch, generator=generator(epoch)):
            sides[labels] = pixels[:, 0, 0, 0] > pixels[:, 0, 0, -1]
        mirrored.append(sides)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert torch.equal(mirrored[1], mirrored[3])
    # Binomial(500, 1/2): standard deviation 11.
    assert abs(int(mirrored[0].sum()) - 250) < 56


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_starting_late_gives_the_rest_of_the_same_epoch(start: int) -> None:
    source = batches(augmentation=AUGMENTATIONS["crop-flip-cutout"])
    random, states, whole = generator(9), [], []
    for batch in source.epoch(1, generator=random):
        whole.append(batch)
        states.append(random.get_state())
    resumed = generator(9) if start == 0 else torch.Generator()
    if start:
        resumed.set_state(states[start - 1])
    rest = list(source.epoch(1, start=start, generator=resumed))
    assert len(rest) == 4 - start
    for (images, labels), (expected_images, expected_labels) in zip(rest, whole[start:], strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def test_skipping_draws_nothing() -> None:
    random = generator()
    before = random.get_state()
    steps = batches(augmentation=Augmentation(flip=True)).epoch(0, start=4, generator=random)
    assert list(steps) == []
    assert torch.equal(random.get_state(), before)


@pytest.mark.parametrize("size", [0, 24])
def test_a_batch_of_more_images_than_there_are_or_of_none(size: int) -> None:
    with pytest.raises(ValueError, match=f"a batch has 1 to 23 images, .*: received batch_size={size}"):
        batches(batch_size=size)


def test_evaluation_is_in_order_and_complete() -> None:
    seen = list(evaluation_batches(image_set(), 5, mean=MEAN, std=STD))
    assert [len(labels) for _, labels in seen] == [5, 5, 5, 5, 3]
    assert torch.cat([labels for _, labels in seen]).tolist() == list(range(23))
    images = torch.cat([images for images, _ in seen])
    assert torch.equal(images, normalize(image_set().images, MEAN, STD))
