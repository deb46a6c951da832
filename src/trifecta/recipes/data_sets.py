"""The data sets of published experiments: their Hub ids, or folders of the same layout."""

from dataclasses import replace
from pathlib import Path

from trifecta.data import DataConfig

# A published-table run fixes every choice beforehand, so it may train on the whole training split.
DATA_SETS: dict[str, DataConfig] = {
    "mnist": DataConfig(source="ylecun/mnist", validation=0.0),
    "fashion-mnist": DataConfig(source="zalando-datasets/fashion_mnist", validation=0.0),
    "svhn": DataConfig(source="ufldl-stanford/svhn", subset="cropped_digits", validation=0.0),
    "cifar10": DataConfig(source="uoft-cs/cifar10", validation=0.0),
}


def in_folder(data: DataConfig, root: Path | None) -> DataConfig:
    """The same data from ``root/NAME`` where there is such a folder, NAME being the end of its Hub id."""
    folder = None if root is None else root / data.source.rpartition("/")[2]
    return replace(data, source=str(folder)) if folder is not None and folder.is_dir() else data
