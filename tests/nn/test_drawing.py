"""Operations that draw from a seed, and the generators that all threads share."""

import random
from threading import Event, Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trifecta.nn import drawing
from trifecta.nn.blocks import Dropout
from trifecta.nn.drawing import SeededDraws, SharedGenerators, _after_fork, is_known_to_draw, seed_from


class Noted(SeededDraws):  # type: ignore[no-untyped-call]
    """Keeps the devices that it was asked for, and the generators that it gave."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.noted: list[tuple[str, torch.Generator]] = []

    def _generator(self, device: torch.device) -> torch.Generator:
        generator = super()._generator(device)
        self.noted.append((device.type, generator))
        return generator


def test_draws_come_from_the_seed_unless_they_have_a_generator() -> None:
    expected = torch.Generator().manual_seed(5)
    with SeededDraws(5):
        assert torch.equal(torch.rand(4), torch.rand(4, generator=expected))
        # An operation with neither a device nor a tensor.
        assert torch.equal(torch.ops.aten.randperm.default(9), torch.randperm(9, generator=expected))
        mask = F.dropout(torch.ones(20), 0.5)
        given = torch.rand(4, generator=torch.Generator().manual_seed(6))
        # This one has no place for a generator.
        torch.native_dropout(torch.ones(4), 0.5, True)
        last = torch.rand(4)
    assert torch.equal(mask, 2 * torch.empty(20).bernoulli_(0.5, generator=expected))
    assert torch.equal(given, torch.rand(4, generator=torch.Generator().manual_seed(6)))
    assert torch.equal(last, torch.rand(4, generator=expected))


def test_the_generator_is_of_the_device_of_the_operation() -> None:
    with Noted(5) as draws:
        torch.rand(4, device="meta")
        torch.empty(4, device="meta").bernoulli_()
        torch.rand(4)
    assert [device for device, _ in draws.noted] == ["meta", "meta", "cpu"]
    # Nothing is drawn without data, so that the numbers after it stay the same.
    assert len({id(generator) for _, generator in draws.noted}) == 1


def test_a_lock_that_another_thread_holds_is_free_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_LOCK", drawing._LOCK)
    generators, holds, ends = SharedGenerators(torch.device("cpu")), Event(), Event()

    def hold() -> None:
        with generators.preserved():
            holds.set()
            ends.wait(20)

    thread = Thread(target=hold)
    thread.start()
    try:
        assert holds.wait(20)
        _after_fork()
        with generators.preserved():
            assert thread.is_alive()
    finally:
        ends.set()
        thread.join()


def test_shared_generators_are_seeded_alike_and_restored() -> None:
    generators = SharedGenerators(torch.device("cpu"))
    before = generators.state()
    with generators.preserved():
        generators.seed(5)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
        assert random.random() == random.Random(5).random()
        assert np.random.rand() == np.random.RandomState(5).rand()
        assert generators.state() != before
    assert generators.state() == before


def test_a_seed_is_the_same_in_every_version() -> None:
    assert [seed_from(numbers) for numbers in ((7, 3, 1), (0,))] == [1644464349, 2748610031]


def test_modules_known_to_draw() -> None:
    quiet = (Dropout(0.5), nn.MultiheadAttention(4, 1), nn.LSTM(4, 4, num_layers=2), nn.ReLU())
    drawing_ones = (nn.Dropout(0.5), nn.RReLU(), nn.MultiheadAttention(4, 1, dropout=0.1))
    assert not is_known_to_draw(nn.Sequential(*quiet))
    for module in (*drawing_ones, nn.LSTM(4, 4, num_layers=2, dropout=0.1)):
        assert is_known_to_draw(nn.Sequential(nn.ReLU(), module))
