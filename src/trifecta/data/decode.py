"""Encoded images → uint8 tensors.

An image is grey (modes 1, L, LA and 16-bit grey, or a palette of greys) or colour (anything else,
as RGB). Transparent pixels are laid over white, as a browser shows them; a photograph is turned
upright as its EXIF data says; 16 bits are scaled to 8. Images are resized with Pillow's bicubic
filter, which widens with the reduction and so does not alias; the aspect ratio is not kept.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
"""(H, W, C), C = 1 or 3."""

Encoded = tuple[str, bytes | Path]
"""The name of an image in errors, and its encoded bytes or its file."""

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION_TAG = 0x0112
IMAGES_PER_TASK = 256
MOST_NAMED = 10


class UnreadableError(ValueError):
    """An image cannot be read; says which and why."""


def decode_images(
    count: int,
    read: Callable[[int, int], Iterable[Encoded]],
    *,
    image_size: tuple[int, int] | None,
    channels: int | None = None,
) -> Tensor:
    """Decode ``count`` images in threads.

    Args:
        count: of the images, at least 1.
        read: gives the encoded images from one index up to another.
        image_size: (height, width) in pixels to resize to; None keeps the size.
        channels: 1 or 3; None gives 3 if any image has colour, else 1.

    Returns:
        ``(N, C, H, W)`` uint8, in order.

    Raises:
        ValueError: images cannot be read, or have another size than the first; names them.
    """
    pillow()
    if image_size is not None:
        sides = f"{size_text(image_size)} pixels"
        require_memory(
            float(count) * (channels or 3) * math.prod(image_size),
            f"{count:,} images of {sides}",
            "use a smaller --image-size",
        )

    def decode(start: int) -> list[tuple[str, Pixels | UnreadableError]]:
        encoded = read(start, min(start + IMAGES_PER_TASK, count))
        return [(name, _decoded(name, data, image_size, channels)) for name, data in encoded]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = [image for task in pool.map(decode, range(0, count, IMAGES_PER_TASK)) for image in task]
    failed = [image for _, image in images if isinstance(image, UnreadableError)]
    if failed:
        raise _all_unreadable(failed, count)
    whole = [(name, pixels) for name, pixels in images if not isinstance(pixels, UnreadableError)]
    return _stack(list(_of_one_size(whole)))


def unreadable_images(count: int, read: Callable[[int, int], Iterable[Encoded]]) -> dict[int, str]:
    """By the index of each image that cannot be read, what is wrong; arguments as ``decode_images``."""
    pillow()

    def attempt(start: int) -> list[tuple[int, str]]:
        encoded = enumerate(read(start, min(start + IMAGES_PER_TASK, count)), start)
        tried = ((index, _decoded(name, data, None, None)) for index, (name, data) in encoded)
        return [(index, str(image)) for index, image in tried if isinstance(image, UnreadableError)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(item for task in pool.map(attempt, range(0, count, IMAGES_PER_TASK)) for item in task)


def _decoded(
    name: str, data: bytes | Path, image_size: tuple[int, int] | None, channels: int | None
) -> "Pixels | UnreadableError":
    try:
        return decode_image(name, data, image_size, channels)
    except UnreadableError as error:
        return error


def _all_unreadable(failed: Sequence[UnreadableError], count: int) -> ValueError:
    """One error for all images that cannot be read."""
    if len(failed) == 1:
        return ValueError(f"{failed[0]}; mend or remove it, or --set data.skip_unreadable=true")
    shown = "; ".join(str(error).removeprefix("cannot read image ") for error in failed[:MOST_NAMED])
    more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return ValueError(
        f"cannot read {len(failed)} of {count:,} images: {shown}{more}: mend or remove them, or "
        "--set data.skip_unreadable=true"
    )


def decode_image(
    name: str, data: bytes | Path, image_size: tuple[int, int] | None, channels: int | None
) -> Pixels:
    """Decode one image; arguments as in ``decode_images``.

    Raises:
        UnreadableError: the image cannot be read; says so with ``name``.
    """
    try:
        with pillow().open(BytesIO(data) if isinstance(data, bytes) else data) as opened:
            image = _grey_or_colour(_upright(opened))
            if channels is not None:
                image = image.convert("L" if channels == 1 else "RGB")
            if image_size is not None:
                image = resize(image, image_size)
            return np.asarray(image).reshape(image.height, image.width, -1)
    # Pillow's decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableError(f"cannot read image {name}: {reason}") from error


def resize(image: "Image", image_size: tuple[int, int]) -> "Image":
    """Resize to (height, width) pixels."""
    height, width = image_size
    if image.size == (width, height):
        return image
    return image.resize((width, height), pillow().Resampling.BICUBIC)


def _upright(image: "Image") -> "Image":
    if image.getexif().get(ORIENTATION_TAG, 1) == 1:
        return image
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _grey_or_colour(image: "Image") -> "Image":
    """Mode L or RGB, whichever the image needs."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _eight_bits(image)
    target = "L" if image.mode in GREY_MODES or _has_grey_palette(image) else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, "white")
        image = pillow().alpha_composite(white, layer)
    return image.convert(target)


def _has_grey_palette(image: "Image") -> bool:
    palette = image.getpalette("RGB") if image.mode in {"P", "PA"} else None
    return palette is not None and palette[0::3] == palette[1::3] == palette[2::3]


def _eight_bits(image: "Image") -> "Image":
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range: save it with 8 or 16 bits")
    scaled: Image = pillow().fromarray(((values + 128) // 257).astype(np.uint8))
    return scaled


def _of_one_size(images: Iterable[tuple[str, Pixels]]) -> Iterator[Pixels]:
    first: tuple[str, Pixels] | None = None
    for name, pixels in images:
        first = first or (name, pixels)
        if pixels.shape[:2] != first[1].shape[:2]:
            raise ValueError(
                f"images differ in size: {first[0]} is {size_text(first[1].shape)} pixels and "
                f"{name} is {size_text(pixels.shape)}: give one size with --image-size"
            )
        yield pixels


def size_text(shape: tuple[int, ...]) -> str:
    """(height, width, …) as ``height×width``."""
    return f"{shape[0]}×{shape[1]}"


def _stack(images: list[Pixels]) -> Tensor:
    height, width, _ = images[0].shape
    channels = max(pixels.shape[2] for pixels in images)
    stacked = np.empty((len(images), channels, height, width), np.uint8)
    for row, pixels in zip(stacked, images, strict=True):
        row[:] = pixels.transpose(2, 0, 1)  # A grey image fills all three channels.
    return torch.from_numpy(stacked)
