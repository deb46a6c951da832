"""Small sources: Parquet files and folders of images."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trifecta.data.decode import Encoded, decode_pieces, stacked

Pixels = NDArray[np.uint8]


def grey(value: int, height: int = 4, width: int = 5) -> Pixels:
    """An image of one grey, with a corner pixel that tells its orientation."""
    pixels = np.full((height, width), value, np.uint8)
    pixels[0, 0] = 255 - value
    return pixels


def colour(value: int, height: int = 4, width: int = 5) -> Pixels:
    plane = grey(value, height, width)
    return np.stack([plane, plane // 2, 255 - plane], axis=-1)


def png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_hub(
    folder: Path,
    split: str,
    images: Sequence[bytes | None],
    columns: dict[str, list[Any]],
    classes: dict[str, list[str]],
) -> None:
    """``split`` as the Hub stores it: Parquet with the features' metadata; ``classes`` name labels."""
    features = {"image": datasets.Image()} | {
        name: datasets.ClassLabel(names=classes[name]) if name in classes else datasets.Value("int64")
        for name in columns
    }
    rows = [None if image is None else {"bytes": image, "path": None} for image in images]
    table = datasets.Dataset.from_dict({"image": rows, **columns}, features=datasets.Features(features))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.data.table, folder / f"{split}-00000-of-00001.parquet")


def write_plain(folder: Path, split: str, columns: dict[str, Any]) -> None:
    """``split`` as Parquet without any metadata of Hugging Face."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def write_classes(root: Path, images: dict[str, list[Pixels]]) -> None:
    """A folder of PNG files per class: ``root/<class>/<number>.png``."""
    for name, each in images.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(each):
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")


def hub_source(folder: Path, **test: Any) -> Path:
    """A source with 8 training and 4 test images of the classes ``cat`` and ``dog``."""
    train = [png(grey(10 * k)) for k in range(8)]
    write_hub(folder, "train", train, {"label": [k % 2 for k in range(8)]}, {"label": ["cat", "dog"]})
    images = test.get("images", [png(grey(100 + k)) for k in range(4)])
    labels = test.get("labels", [1, 0, 1, 0])
    write_hub(folder, "test", images, {"label": labels}, {"label": ["cat", "dog"]})
    return folder


def decode(*images: Encoded, **options: Any) -> Tensor:
    """Images of one size, (N, C, H, W)."""
    return decode_pieces(
        len(images), lambda: images, lambda shape, pieces, _: stacked(shape, pieces), **options
    )
