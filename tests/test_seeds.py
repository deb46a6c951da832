"""Every ingredient of a seed matters: where one differs, other numbers are drawn, else the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trifecta import Learner, LocalNetwork, TrifectaClassifier, build_network, get_method
from trifecta.data.augment import Augmentation
from trifecta.data.batches import Batches, epoch_order
from trifecta.data.given import EpochOrder
from trifecta.data.images import ImageSet, stratified_split
from trifecta.method import Method
from trifecta.nn.blocks import Dropout
from trifecta.nn.drawing import seed_from

SHAPE = (2, 4, 4)


def images(count: int = 40) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def weights(seed: int) -> Tensor:
    network = build_network(
        get_method("backprop"), "mlp", sample_shape=SHAPE, num_classes=3, width=0.01, seed=seed
    )
    return nn.utils.parameters_to_vector(network.parameters())


def order(seed: int, epoch: int) -> Tensor:
    return epoch_order(40, seed=seed, epoch=epoch)


def order_of_a_data_set(seed: int, epoch: int) -> list[int]:
    numbers = EpochOrder(40, seed)
    numbers.epoch = epoch
    return list(numbers)


def mirrored(seed: int, epoch: int) -> Tensor:
    """By the alternating flip, in the order of the images."""
    samples = torch.arange(4.0).view(1, 1, 1, 4).expand(40, 1, 1, 4)
    batches = Batches(
        ImageSet((samples * 60).byte(), torch.arange(40)),
        batch_size=40,
        augmentation=Augmentation(flip=True, alternating=True),
        mean=(0.0,),
        std=(1.0,),
        seed=seed,
    )
    ((pictures, labels),) = batches.epoch(epoch, generator=torch.Generator().manual_seed(0))
    return (pictures[:, 0, 0, 0] > 0.1)[labels.argsort()]


def split(seed: int) -> Tensor:
    return stratified_split(torch.arange(40) % 2, 0.5, seed=seed)[0]


def drawn(method: str | Method, seed: int) -> list[float]:
    """Losses of two steps, which differ by what is drawn alone: wrong labels, pairs or masks."""
    chosen = get_method(method) if isinstance(method, str) else method
    network = build_network(chosen, "mlp", sample_shape=SHAPE, num_classes=5, width=0.01)
    learner = Learner(network, generator=torch.Generator().manual_seed(seed))
    steps = [learner.step(images(), torch.arange(40) % 5) for _ in range(2)]
    return [loss.item() for losses in steps for loss in losses if loss is not None]


def rows_of_an_estimator(seed: int, epoch: int) -> np.ndarray[Any, Any]:
    """What two calls of ``partial_fit`` make of equal weights: rows in another order, or not."""
    found = TrifectaClassifier(method="backprop", network="mlp", batch_size=20, random_state=seed)
    x, y = images().numpy(), np.arange(40) % 2
    found.partial_fit(x[:2], y[:2], classes=[0, 1])
    other = build_network(found.network_.method, "mlp", sample_shape=SHAPE, num_classes=2, width=0.01)
    found.network_, found.n_iter_ = other, epoch
    found._begin(images())
    found.partial_fit(x, y)
    return nn.utils.parameters_to_vector(other.parameters()).detach().numpy()


STREAMS: dict[str, tuple[Callable[..., Any], Sequence[Sequence[int]]]] = {
    "weights": (weights, [(0,), (1,)]),
    "order": (order, [(0, 0), (0, 1), (1, 0), (1, 1)]),
    "order of a data set": (order_of_a_data_set, [(0, 0), (0, 1), (1, 0), (1, 1)]),
    "mirrored": (mirrored, [(0, 0), (0, 1), (1, 0), (1, 1)]),
    "split": (split, [(0,), (1,)]),
    "wrong labels": (lambda seed: drawn("ff", seed), [(0,), (1,)]),
    "hard labels": (lambda seed: drawn(replace(get_method("ff"), negatives="hard"), seed), [(0,), (1,)]),
    "pairs": (lambda seed: drawn("scff", seed), [(0,), (1,)]),
    "mixtures": (lambda seed: drawn("masked-mix", seed), [(0,), (1,)]),
    "dropout": (lambda seed: drawn("deeper-forward", seed), [(0,), (1,)]),
    "estimator": (rows_of_an_estimator, [(0, 0), (0, 1), (1, 0), (1, 1)]),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_other_ingredients_differ_and_those_of_the_same_do_not(name: str) -> None:
    draw, ingredients = STREAMS[name]
    streams = []
    for numbers in ingredients:
        stream = np.asarray(torch.as_tensor(draw(*numbers)).detach())
        assert np.array_equal(stream, np.asarray(torch.as_tensor(draw(*numbers)).detach()))
        streams.append(stream)
    for k, stream in enumerate(streams):
        assert not any(np.array_equal(stream, other) for other in streams[:k])


class Noted(Dropout):
    """Keeps the numbers that its masks begin with."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.seeds: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.generator is not None:
            self.seeds.append(self.generator.initial_seed())
        return super().forward(x)


class SecondReplica(Learner):
    """One that learns from the other half of each batch."""

    replica = 1


def seeds_of_masks(learner: type[Learner], seed: int) -> list[int]:
    """Of three steps of two blocks with two layers of dropout each."""
    blocks = [nn.Sequential(nn.Linear(6, 6), Noted(), nn.ReLU(), Noted()) for _ in range(2)]
    network = LocalNetwork(blocks, get_method("mono-forward"), sample_shape=(6,), num_classes=3)
    notes = [module for block in blocks for module in block if isinstance(module, Noted)]
    learning = learner(network, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        learning.step(torch.randn(6, 6), torch.arange(6) % 3)
    return [number for note in notes for number in note.seeds]


def test_masks_differ_between_seeds_steps_blocks_layers_and_replicas() -> None:
    kinds = (Learner, SecondReplica)
    numbers = [number for kind in kinds for seed in (0, 1) for number in seeds_of_masks(kind, seed)]
    assert len(set(numbers)) == len(numbers) == 2 * 2 * 3 * 2 * 2
    assert numbers == [number for kind in kinds for seed in (0, 1) for number in seeds_of_masks(kind, seed)]


@pytest.mark.parametrize(("learner", "replica"), [(Learner, []), (SecondReplica, [1])])
def test_masks_begin_with_the_same_numbers_in_every_version(
    learner: type[Learner], replica: list[int]
) -> None:
    expected = [
        int(np.random.SeedSequence([7, step, block, *replica, place]).generate_state(1)[0])
        for block in range(2)
        for place in range(2)
        for step in range(3)
    ]
    assert seeds_of_masks(learner, 7) == expected


def test_sequences_of_other_lengths_have_other_seeds() -> None:
    """NumPy takes (1,) and (1, 0) for the same; a replica's block 0 is not the block 1 of one process."""
    sequences = [(1,), (1, 0), (1, 0, 0), (7, 3, 1), (7, 3, 1, 0), (7, 3, 1, 0, 0)]
    assert len({seed_from(numbers) for numbers in sequences}) == len(sequences)
    of_dropout = int(np.random.SeedSequence([7, 3, 1, 0]).generate_state(1)[0])
    assert of_dropout not in {seed_from(numbers) for numbers in sequences}
