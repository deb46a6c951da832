"""Encoded images → uint8 tensors.

An image is grey (modes 1, L, LA and 16-bit grey, or a palette of greys) or colour (anything else,
as RGB). Transparent pixels are laid over white, as a browser shows them; a photograph is turned
upright as its EXIF data says. Images are resized with Pillow's bicubic filter, which widens with the
reduction and so does not alias; the aspect ratio is not kept.

Greys of 16 bits are scaled to 8 by the range that a set of them uses: cameras and scanners fill 10 or 12 of
them. A set has one depth, as nothing tells how greys of 8 and of 16 bits compare.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import open_image, pillow

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
P = TypeVar("P", np.uint8, np.int64)

Pixels = NDArray[np.uint8]
"""(H, W, C), C = 1 or 3."""

Shape = tuple[int, int, int, int]
"""(N, C, H, W)."""

Encoded = tuple[str, bytes | Path]
"""The name of an image in errors, and its encoded bytes or its file."""


class GreyRange(NamedTuple):
    """The 16-bit greys that become 0 and 255, and how many different ones are in use, 0 if not counted."""

    low: int
    high: int
    values: int = 0


GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION_TAG = 0x0112
IMAGES_PER_TASK = 256
BYTES_PER_TASK = 2**25
MOST_NAMED = 10
# Of a file; an image of the most pixels that are read takes no more, even without compression.
MOST_BYTES = 2**29
# A 16-bit colour below it used 12 bits or fewer, of which Pillow keeps the upper 8 of 16.
_LEAST_COLOUR = 16


class UnreadableError(ValueError):
    """An image cannot be read; says which and why."""


class DeepError(UnreadableError):
    """An image has 16-bit greys, and no range is known to scale them by."""


def decode_images(
    count: int,
    read: Callable[[int, int], Iterable[Encoded]],
    *,
    image_size: tuple[int, int] | None,
    channels: int | None = None,
    grey_range: GreyRange | None = None,
) -> Tensor:
    """Decode images into memory; arguments and errors as :func:`decode_pieces`.

    Returns:
        ``(N, C, H, W)`` uint8, in order.
    """
    return decode_pieces(
        count,
        read,
        lambda shape, pieces, _: stacked(shape, pieces),
        image_size=image_size,
        channels=channels,
        grey_range=grey_range,
    )


def decode_pieces(
    count: int,
    read: Callable[[int, int], Iterable[Encoded]],
    consume: Callable[[Shape, Iterator[Pixels], GreyRange | None], T],
    *,
    image_size: tuple[int, int] | None,
    channels: int | None = None,
    grey_range: GreyRange | None = None,
    finds_range: bool = False,
) -> T:
    """Decode ``count`` images in threads, a piece at a time, and return what ``consume`` makes of them.

    Args:
        count: of the images, at least 1.
        read: gives the encoded images from one index up to another.
        consume: takes (N, C, H, W), an iterator over the images in order, (n, C, H, W) uint8 each, and the
            range of 16-bit greys. It begins again where a colour or deep image comes behind others.
        image_size: (height, width) in pixels to resize to; None keeps the size.
        channels: 1 or 3; None gives 3 if any image has colour, else 1.
        grey_range: of 16-bit images, all of them; None for images of 8 bits.
        finds_range: whether the images may be of 16 bits, and decide the range themselves.

    Raises:
        ValueError: images cannot be read, or have another size or depth than the first; names them.
    """
    pillow()
    if image_size is not None:
        sides = f"an image of {size_text(image_size)} pixels"
        require_memory(8.0 * math.prod(image_size), sides, "use a smaller data.image_size")
    job = _Job(count, read, image_size, channels, grey_range)
    while True:
        try:
            return consume(*job.pieces(job.first().shape), job.grey_range)
        except _ColourError:
            job = replace(job, channels=3)
        except DeepError:
            if job.grey_range is not None or not finds_range:
                raise
            job = replace(job, grey_range=job.find_range())


class _ColourError(Exception):
    """There is colour behind images that were all grey."""


@dataclass(frozen=True)
class _Job:
    """Images to decode; see :func:`decode_pieces`."""

    count: int
    read: Callable[[int, int], Iterable[Encoded]]
    image_size: tuple[int, int] | None
    channels: int | None
    grey_range: GreyRange | None

    def first(self) -> Pixels:
        """The first image that can be read, in colour if one near it is.

        Raises:
            DeepError: an image has 16 bits, and no range is known.
            ValueError: no image can be read.
        """
        failed: list[UnreadableError] = []
        for start in range(0, self.count, IMAGES_PER_TASK):
            images = [image for _, image in self._decoded(start, start + IMAGES_PER_TASK)]
            failed += [image for image in images if isinstance(image, UnreadableError)]
            whole = [image for image in images if not isinstance(image, UnreadableError)]
            if whole:
                most = max(image.shape[2] for image in whole)
                return np.broadcast_to(whole[0][:, :, :1], (*whole[0].shape[:2], most))
        raise _all_unreadable(failed, self.count)

    def find_range(self) -> GreyRange:
        """Return the range of greys in images of 16 bits, all of them."""

        def counted(start: int, stop: int) -> NDArray[np.int64]:
            counts = np.zeros(2**16, np.int64)
            for name, data in self.read(start, min(stop, self.count)):
                with suppress(UnreadableError):
                    counts += _read(name, data, _grey_counts)
            return counts

        tasks = _ordered(counted, range(0, self.count, IMAGES_PER_TASK), IMAGES_PER_TASK)
        used = np.flatnonzero(sum(tasks, np.zeros(2**16, np.int64)))
        if not len(used):  # none can be read, which decoding says
            return GreyRange(0, 2**16 - 1)
        return GreyRange(int(used[0]), int(used[-1]), len(used))

    def pieces(self, shape: tuple[int, ...]) -> tuple[Shape, Iterator[Pixels]]:
        """Shape of all images, and an iterator over them; ``shape`` is the first's, (H, W, C)."""
        height, width, channels = shape
        return (self.count, channels, height, width), self._pieces(height, width, channels)

    def _pieces(self, height: int, width: int, channels: int) -> Iterator[Pixels]:
        step = max(1, min(IMAGES_PER_TASK, BYTES_PER_TASK // (height * width * channels)))
        failed: list[UnreadableError] = []
        other: list[tuple[str, Pixels]] = []
        first_name = None
        for images in _ordered(self._decoded, range(0, self.count, step), step):
            whole = [(name, image) for name, image in images if not isinstance(image, UnreadableError)]
            first_name = first_name or (whole[0][0] if whole else None)
            failed += [image for _, image in images if isinstance(image, UnreadableError)]
            other += [(name, image) for name, image in whole if image.shape[:2] != (height, width)][:1]
            if failed or other:
                continue
            if max(image.shape[2] for _, image in whole) > channels:
                raise _ColourError
            piece = np.empty((len(whole), channels, height, width), np.uint8)
            for row, (_, image) in zip(piece, whole, strict=True):
                row[:] = image.transpose(2, 0, 1)  # A grey image fills all three channels.
            yield piece
        if failed:
            raise _all_unreadable(failed, self.count)
        if other:
            name, image = other[0]
            raise ValueError(
                f"images differ in size: {first_name} is {size_text((height, width))} pixels and "
                f"{name} is {size_text(image.shape)}: give one size, such as "
                f"data.image_size={height}x{width}"
            )

    def _decoded(self, start: int, stop: int) -> list[tuple[str, "Pixels | UnreadableError"]]:
        encoded = self.read(start, min(stop, self.count))
        decoded = [
            (name, _decoded(name, data, self.image_size, self.channels, self.grey_range))
            for name, data in encoded
        ]
        deep = next((image for _, image in decoded if isinstance(image, DeepError)), None)
        if deep is not None:
            raise deep
        return decoded


def _ordered(decode: Callable[[int, int], T], starts: range, step: int) -> Iterator[T]:
    """Run ``decode`` in threads, few pieces ahead of what is taken, in order."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        for start in starts:
            waiting.append(pool.submit(decode, start, start + step))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def unreadable_images(count: int, read: Callable[[int, int], Iterable[Encoded]]) -> dict[int, str]:
    """By the index of each image that cannot be read, what is wrong; arguments as ``decode_images``."""
    pillow()

    def attempt(start: int) -> list[tuple[int, str]]:
        encoded = enumerate(read(start, min(start + IMAGES_PER_TASK, count)), start)
        tried = ((index, _decoded(name, data, None, None, None)) for index, (name, data) in encoded)
        return [
            (index, str(image))
            for index, image in tried
            if isinstance(image, UnreadableError) and not isinstance(image, DeepError)
        ]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(item for task in pool.map(attempt, range(0, count, IMAGES_PER_TASK)) for item in task)


def _decoded(
    name: str,
    data: bytes | Path,
    image_size: tuple[int, int] | None,
    channels: int | None,
    grey_range: GreyRange | None,
) -> "Pixels | UnreadableError":
    try:
        return decode_image(name, data, image_size, channels, grey_range)
    except UnreadableError as error:
        return error


def _all_unreadable(failed: Sequence[UnreadableError], count: int) -> ValueError:
    """One error for all images that cannot be read."""
    if len(failed) == 1:
        return ValueError(f"{failed[0]}; mend or remove it, or data.skip_unreadable=true")
    shown = "; ".join(str(error).removeprefix("cannot read image ") for error in failed[:MOST_NAMED])
    more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return ValueError(
        f"cannot read {len(failed)} of {count:,} images: {shown}{more}: mend or remove them, or "
        "data.skip_unreadable=true"
    )


def decode_image(
    name: str,
    data: bytes | Path,
    image_size: tuple[int, int] | None,
    channels: int | None,
    grey_range: GreyRange | None = None,
) -> Pixels:
    """Decode one image; arguments as in ``decode_pieces``.

    Raises:
        DeepError: it has greys of 16 bits, and there is no range; says so with ``name``.
        UnreadableError: it cannot be read, or has 8 bits and there is a range; likewise.
    """
    return _read(name, data, lambda image: _pixels(image, name, image_size, channels, grey_range))


def _pixels(
    opened: "Image",
    name: str,
    image_size: tuple[int, int] | None,
    channels: int | None,
    grey_range: GreyRange | None,
) -> Pixels:
    is_deep, is_deep_colour = opened.mode.startswith("I"), ";16" in str(getattr(opened, "tile", ""))
    if is_deep and grey_range is None:
        raise DeepError(
            f"image {name} has greys of 16 bits, and others of its data set have 8: save all alike"
        )
    image = _grey_or_colour(_upright(opened), grey_range)
    if is_deep_colour and not is_deep and 0 < np.asarray(image).max() < _LEAST_COLOUR:
        raise ValueError("of its 16 bits a colour it uses the lower ones alone: save it with 8 bits")
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        image = resize(image, image_size)
    return np.asarray(image).reshape(image.height, image.width, -1)


def _read(name: str, data: bytes | Path, make: Callable[["Image"], NDArray[P]]) -> NDArray[P]:
    """Return what ``make`` makes of an image; whatever goes wrong is an UnreadableError that names it."""
    try:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"it takes {size:,} bytes, and an image has at most {MOST_BYTES:,}")
        with open_image(BytesIO(data) if isinstance(data, bytes) else data) as opened:
            return make(opened)
    except UnreadableError:
        raise
    # Pillow's decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableError(f"cannot read image {name}: {reason}") from error


def _grey_counts(image: "Image") -> NDArray[np.int64]:
    """How often each grey of 16 bits is in an image, (65536,); no grey of 8."""
    greys = _greys(image).ravel() if image.mode.startswith("I") else np.empty(0, np.int64)
    return np.bincount(greys, minlength=2**16)


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


def _grey_or_colour(image: "Image", grey_range: GreyRange | None) -> "Image":
    """Mode L or RGB, whichever the image needs."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save it with 8 or 16 bits")
    if image.mode.startswith("I") and grey_range is not None:
        return _scaled(image, grey_range)
    if grey_range is not None:
        raise ValueError("it has 8 bits, and others of its data set have greys of 16: save all alike")
    target = "L" if image.mode in GREY_MODES or _has_grey_palette(image) else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, "white")
        image = pillow().alpha_composite(white, layer)
    return image.convert(target)


def _has_grey_palette(image: "Image") -> bool:
    palette = image.getpalette("RGB") if image.mode in {"P", "PA"} else None
    return palette is not None and palette[0::3] == palette[1::3] == palette[2::3]


def _greys(image: "Image") -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range: save it with 8 or 16 bits")
    return values


def _scaled(image: "Image", grey_range: GreyRange) -> "Image":
    """Greys of 16 bits as 8, rounded; what lies outside the range is clipped to it."""
    greys = _greys(image).clip(grey_range.low, grey_range.high) - grey_range.low
    width = max(1, grey_range.high - grey_range.low)
    eight: Image = pillow().fromarray(((greys * 255 + width // 2) // width).astype(np.uint8))
    return eight


def size_text(shape: tuple[int, ...]) -> str:
    """(height, width, …) as ``height×width``."""
    return f"{shape[0]}×{shape[1]}"


def stacked(shape: Shape, pieces: Iterator[Pixels]) -> Tensor:
    """Put the pieces into one tensor."""
    size = f"{shape[0]:,} images of {size_text(shape[2:])} pixels"
    require_memory(math.prod(shape), size, "use a smaller data.image_size")
    images, filled = np.empty(shape, np.uint8), 0
    for piece in pieces:
        images[filled : filled + len(piece)] = piece
        filled += len(piece)
    return torch.from_numpy(images)
