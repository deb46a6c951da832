"""The real benchmarks, where they are."""

import os
from pathlib import Path

import pytest
import torch

from trifecta.data import PUBLISHED_STATISTICS, DataConfig, ImageData, load_data

DEFAULT = Path(__file__).parents[3] / "shared" / "data"


def load(name: str, **options: str | float) -> ImageData:
    folder = Path(os.environ.get("TRIFECTA_DATA", DEFAULT)) / name
    if not folder.is_dir():
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report(f"no {folder}: set TRIFECTA_DATA to the folder that has {name}")
    return load_data(DataConfig(source=str(folder), **options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_mnist() -> None:
    data = load("mnist", validation=0.0)
    assert (len(data.train), len(data.test)) == (60000, 10000)
    assert data.sample_shape == (1, 28, 28)
    assert data.classes == tuple("0123456789")
    assert data.mean == pytest.approx(PUBLISHED_STATISTICS["mnist"].mean, abs=5e-5)
    assert data.std == pytest.approx(PUBLISHED_STATISTICS["mnist"].std, abs=5e-5)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.slow
def test_fashion_mnist_validates_on_the_same_images_of_every_class() -> None:
    # Its test split stands in for both, to be quick.
    with pytest.warns(UserWarning, match=r"not used: train \(60,000 images\)"):
        first, second = (
            load("fashion_mnist", train_split="test", test_split="none", hold_out=0.2) for _ in range(2)
        )
    assert first.validation is not None
    assert second.validation is not None
    assert first.validation.labels.bincount().tolist() == [80] * 10
    assert first.test.labels.bincount().tolist() == [200] * 10
    assert torch.equal(first.validation.images, second.validation.images)
    assert torch.equal(first.test.images, second.test.images)
    assert first.classes[0] == "T - shirt / top"


@pytest.mark.slow
def test_cifar10() -> None:
    with pytest.warns(UserWarning, match=r"not used: test \(10,000 images\)"):
        data = load("cifar10", validation=0.0, test_split="none", hold_out=0.001)
    assert (len(data.train), len(data.test)) == (49950, 50)
    assert data.sample_shape == (3, 32, 32)
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert data.train.labels.bincount().tolist() == [4995] * 10
    assert data.mean == pytest.approx(PUBLISHED_STATISTICS["cifar10"].mean, abs=1e-4)
    assert data.std == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
