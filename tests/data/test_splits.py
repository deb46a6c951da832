import pytest
import torch

from trifecta.data import stratified_split


def labels_of(*counts: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


def test_every_sample_is_on_exactly_one_side_in_order() -> None:
    kept, held_out = stratified_split(labels_of(50, 30, 20), 0.3)
    assert sorted(torch.cat([kept, held_out]).tolist()) == list(range(100))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())


def test_every_class_gives_its_share() -> None:
    labels = labels_of(50, 30, 20)
    _, held_out = stratified_split(labels, 0.1)
    assert labels[held_out].bincount().tolist() == [5, 3, 2]


def test_the_total_is_right_where_each_class_alone_would_give_none() -> None:
    labels = labels_of(*[4] * 100)
    _, held_out = stratified_split(labels, 0.1)
    assert len(held_out) == 40
    assert labels[held_out].bincount().max() == 1


def test_a_class_keeps_its_last_sample() -> None:
    labels = labels_of(1, 2, 40)
    kept, held_out = stratified_split(labels, 0.99)
    assert torch.unique(labels[kept]).tolist() == [0, 1, 2]
    assert labels[held_out].bincount(minlength=3).tolist() == [0, 1, 39]


def test_a_seed_decides_and_the_global_generator_does_not() -> None:
    labels = labels_of(100, 100)
    torch.manual_seed(5)
    first = stratified_split(labels, 0.2)[1]
    torch.manual_seed(6)
    assert torch.equal(first, stratified_split(labels, 0.2)[1])
    assert not torch.equal(first, stratified_split(labels, 0.2, seed=1)[1])


def test_held_out_samples_are_spread_over_a_class() -> None:
    held_out = torch.stack(
        [stratified_split(torch.zeros(10, dtype=torch.int64), 0.5, seed=s)[1] for s in range(400)]
    )
    counts = held_out.flatten().bincount(minlength=10)
    # Binomial(400, 1/2): standard deviation 10.
    assert counts.min() > 150
    assert counts.max() < 250


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        stratified_split(labels_of(5, 5), fraction)


@pytest.mark.parametrize(("counts", "fraction"), [((5, 5), 0.01), ((1, 1, 1), 0.9)])
def test_holding_out_nothing(counts: tuple[int, ...], fraction: float) -> None:
    with pytest.raises(ValueError, match=r"holds out none.*or a larger share"):
        stratified_split(labels_of(*counts), fraction)
