"""Fixtures: small images that can be learned, and caches that leave nothing behind."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from trifecta import experiments, window
from trifecta._utils import files
from trifecta.counts import counts
from trifecta.data import DataConfig, ImageData, ImageSet, load_data
from trifecta.data import load as loading
from trifecta.network import LocalNetwork
from trifecta.training import run, trainer

# Workers side by side: more threads each would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

# CI draws the same few cases every time; `--hypothesis-profile=many` draws others, a thousand of each.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("few", max_examples=10, derandomize=True, **_PATIENT)  # type: ignore[arg-type]
settings.register_profile("many", max_examples=1000, **_PATIENT)  # type: ignore[arg-type]
settings.load_profile("few")


HEAVY = ("test_lightning.py", "test_export.py")
LONG = ("test_commands.py", "test_docs.py", "test_soak.py")
_HUB_CACHE = TemporaryDirectory(prefix="trifecta-tests-")


def pytest_configure() -> None:
    """Give datasets a folder of its own, before anything imports it."""
    os.environ["HF_DATASETS_CACHE"] = _HUB_CACHE.name


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of slow tests alone, as what they import takes seconds in every worker."""
    left_out = config.option.markexpr == "not slow" and collection_path.name in HEAVY
    return True if left_out else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that take long, so that no worker waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_unconfigure() -> None:
    """Remove the folder."""
    _HUB_CACHE.cleanup()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Whatever ran before in the same process."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _private_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path_factory.getbasetemp() / "trifecta-cache"))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Whether files survive a power cut is no test's business, and a disk takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_flush", lambda path: None)
        yield


@pytest.fixture
def fused_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with fused windows, however small."""
    monkeypatch.setattr(window, "LEAST_KERNEL_BYTES", 0)


@pytest.fixture(params=[0, 2**60], ids=["fused", "plain"])
def window_of_any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with fused windows, however small, and with the plain graph."""
    monkeypatch.setattr(window, "LEAST_KERNEL_BYTES", request.param)


@pytest.fixture(scope="session")
def stripes() -> ImageData:
    """Three classes of noisy 8×8 images: vertical, horizontal, diagonal stripes."""
    draw = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    patterns = torch.stack([column % 4 < 2, row % 4 < 2, (row + column) % 4 < 2]).float() * 160

    def split(count: int) -> ImageSet:
        labels = torch.arange(count) % 3
        noise = torch.rand(count, 1, 8, 8, generator=draw) * 95
        return ImageSet((patterns[labels].unsqueeze(1) + noise).to(torch.uint8), labels)

    return ImageData(
        train=split(240),
        validation=split(60),
        test=split(60),
        classes=("vertical", "horizontal", "diagonal"),
        mean=(0.5,),
        std=(0.3,),
    )


@pytest.fixture(scope="session")
def stripes_folder(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as a folder per class, with a train and a test split."""
    from PIL import Image

    root = tmp_path_factory.mktemp(STRIPES)
    for name, split in (("train", stripes.train), ("test", stripes.test)):
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            folder = root / name / stripes.classes[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze(0).numpy()).save(folder / f"{index:04}.png")
    return root


@pytest.fixture(autouse=True)
def _stripes_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the folder of stripes share its images; reading them has tests of its own."""

    def load(config: DataConfig) -> ImageData:
        if not Path(config.source).name.startswith(STRIPES):
            return load_data(config)
        if config not in _LOADED:
            _LOADED[config] = load_data(config)
        return _LOADED[config]

    for user in (trainer, loading, experiments):
        monkeypatch.setattr(user, "load_data", load)


STRIPES = "stripes-folder"
_LOADED: dict[DataConfig, ImageData] = {}


@pytest.fixture(scope="session", autouse=True)
def _counted_once() -> Iterator[None]:
    """What a run computes is counted once a process for a kind of network and method, of whatever size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "counts", _counts)
        yield


@pytest.fixture
def real_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have the counts of their own network."""
    monkeypatch.setattr(run, "counts", counts)


def _counts(network: LocalNetwork, *, batch_size: int, total_steps: int | None) -> dict[str, Any]:
    key = (network.method.name, re.sub(r"[\d.]+", "", f"{network.blocks}"))
    if key not in _WORK:
        found = counts(network, batch_size=batch_size, total_steps=total_steps)
        _WORK[key] = found["multiply_adds_per_image"]
    parameters = sum(p.numel() for p in network.parameters())
    in_heads = sum(p.numel() for k in network.scored_blocks for p in network.head(k).parameters())
    return {
        "parameters": parameters,
        "block_parameters": parameters - in_heads,
        "multiply_adds_per_image": _WORK[key],
    }


_WORK: dict[Any, float] = {}
