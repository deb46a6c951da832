"""The data sets of published experiments: their Hub ids, or folders of the same layout."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from trifecta.data import DataConfig
from trifecta.nn.shapes import ImageShape


class Images(NamedTuple):
    """Shape (C, H, W) of a data set's images, and K classes, which decide a network's size."""

    image_shape: ImageShape
    num_classes: int


# By the end of a Hub id.
_IMAGES: dict[str, Images] = {
    "mnist": Images((1, 28, 28), 10),
    "fashion_mnist": Images((1, 28, 28), 10),
    "svhn": Images((3, 32, 32), 10),
    "cifar10": Images((3, 32, 32), 10),
    "digits": Images((1, 8, 8), 10),
}

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


def known_images(data: DataConfig) -> Images | None:
    """The images of a data set that is known by its name; None of any other."""
    images = _IMAGES.get(data.source.rpartition("/")[2])
    if images is None or data.image_size is None:
        return images
    return images._replace(image_shape=(images.image_shape[0], *data.image_size))
