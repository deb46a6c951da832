"""From a configuration to images in memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.data.cache import cached
from trifecta.data.classes import class_indices, class_names
from trifecta.data.columns import find_columns
from trifecta.data.config import DataConfig
from trifecta.data.decode import Encoded, decode_all, to_channels
from trifecta.data.digits import CLASSES as DIGIT_CLASSES
from trifecta.data.digits import load_digits
from trifecta.data.extras import require
from trifecta.data.images import ImageData, ImageSet, channel_statistics
from trifecta.data.source import open_source
from trifecta.data.splits import stratified_split

DIGITS = "digits"
DIGITS_TEST_SHARE = 0.2


def load_data(config: DataConfig, *, device: torch.device | str = "cpu") -> ImageData:
    """Load, decode and split a source.

    The test split is the source's own, or ``hold_out`` of the training split. ``validation`` of
    what remains is kept for validation, stratified, the same for everyone.

    Raises:
        ValueError: no such source, a split is missing, no images or labels, an image cannot be
            read, images differ in size, or a label is outside the classes.
        ImportError: the extra ``data`` is not installed.

    """
    whole, test, classes = _digits(config) if config.source == DIGITS else _source(config)
    train, validation = whole, None
    if config.validation:
        kept, held_out = stratified_split(whole.labels, config.validation)
        train, validation = whole.select(kept), whole.select(held_out)
    mean, std = channel_statistics(train.images)
    data = ImageData(train=train, validation=validation, test=test, classes=classes, mean=mean, std=std)
    return data.to(device)


def _digits(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    images = load_digits()
    if config.image_size is not None:
        resized = F.interpolate(images.images.float(), config.image_size, mode="bicubic", antialias=True)
        images = ImageSet(resized.clamp(0, 255).round().to(torch.uint8), images.labels)
    return *_hold_out(images, config.hold_out or DIGITS_TEST_SHARE), DIGIT_CLASSES


def _source(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    splits = open_source(config)
    train_split = _split(splits, config.train_split, "--train-split", config.source)
    image, label = find_columns(train_split.features, config)
    classes = class_names(train_split, label)

    def decoded(split: Any, name: str) -> ImageSet:
        labels = class_indices(split, label, classes, name=name)
        return ImageSet(_images(split, image, name, config), labels)

    if config.hold_out is not None:
        if config.test_split in splits:
            raise ValueError(
                f"{config.source} has a split '{config.test_split}' of its own: drop --hold-out, or name "
                "another --test-split"
            )
        return *_hold_out(decoded(train_split, config.train_split), config.hold_out), classes
    test_split = _split(splits, config.test_split, "--test-split", config.source)
    train, test = decoded(train_split, config.train_split), decoded(test_split, config.test_split)
    return *_alike(train, test), classes


def _split(splits: dict[str, Any], name: str, option: str, source: str) -> Any:
    if name not in splits:
        other = " or hold one out with --hold-out 0.2" if option == "--test-split" else ""
        raise ValueError(
            f"{source} has no split '{name}', only {', '.join(splits)}: name one with {option}{other}"
        )
    return splits[name]


def _images(split: Any, column: str, name: str, config: DataConfig) -> Tensor:
    """Decoded images (N, C, H, W) of one split, from the cache where they are there."""
    plain = split.select_columns([column]).cast_column(column, require("datasets").Image(decode=False))

    def decode() -> Tensor:
        encoded = [
            _encoded(value, f"in row {row} of split {name}") for row, value in enumerate(plain[column])
        ]
        return decode_all(encoded, size=config.image_size)

    return cached((split._fingerprint, column, config.image_size), decode)


def _encoded(value: dict[str, Any] | None, row: str) -> Encoded:
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise ValueError(f"there is no image {row}")
    if value["bytes"] is None:
        return Encoded(value["path"], value["path"])
    return Encoded(value["bytes"], row)


def _alike(train: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Both splits with the same channels: grey ones become colour where the other is.

    Raises:
        ValueError: their images differ in size.

    """
    sizes = [tuple(split.images.shape[2:]) for split in (train, test)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"training images have {sizes[0][0]}×{sizes[0][1]} pixels, test images "
            f"{sizes[1][0]}×{sizes[1][1]}: resize them all with --image-size {min(sizes[0])}"
        )
    channels = max(train.images.shape[1], test.images.shape[1])
    return (
        ImageSet(to_channels(train.images, channels), train.labels),
        ImageSet(to_channels(test.images, channels), test.labels),
    )


def _hold_out(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    kept, held_out = stratified_split(images.labels, share)
    return images.select(kept), images.select(held_out)
