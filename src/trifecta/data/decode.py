"""Encoded images → uint8 pixels.

An image is grey (modes 1, L, LA, 16-bit grey, or a palette of greys) or colour (all others, as RGB).
Transparent pixels are laid over white; photographs are turned upright by their EXIF data. Resizing is
Pillow's bicubic, which does not alias; the aspect ratio is not kept.

Greys of 16 bits are scaled to 8 by the range that the training images use, as cameras and scanners fill 10
or 12 of them. All images of a data set have one depth: nothing tells how greys of 8 and of 16 bits compare.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import open_image, pillow, require

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

Pixels = NDArray[np.uint8]
"""(H, W, C), C = 1 or 3."""

Shape = tuple[int, int, int, int]
"""(N, C, H, W)."""

Encoded = tuple[str, bytes | Path]
"""Name of an image in messages, and its encoded bytes or its file."""

Read = Callable[[int, int], Iterable[Encoded]]
"""Encoded images from one index up to another."""


class GreyRange(NamedTuple):
    """16-bit greys that become 0 and 255, and the number of different greys in use, 0 if not counted."""

    low: int
    high: int
    values: int = 0


_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_IMAGES_PER_TASK, _BYTES_PER_TASK = 256, 2**25
MOST_NAMED = 10
# An image of the most pixels that are read takes no more, even without compression.
_MOST_BYTES = 2**29
# A 16-bit colour below it used 12 bits or fewer, of which Pillow keeps the upper 8 of 16.
_LEAST_COLOUR = 16
# Share of greys outside the training images' range from which on images have another scale.
_MOST_OUTSIDE = 0.5


class UnreadableError(ValueError):
    """An image cannot be read."""


class DeepError(UnreadableError):
    """An image has 16-bit greys, and there is no range to scale them by."""


class _ColourError(Exception):
    """There is colour behind images that were all grey."""


def decode_images(count: int, read: Read, **options: Any) -> Tensor:
    """Decode images into ``(N, C, H, W)`` uint8; arguments and errors as :func:`decode_pieces`."""
    return decode_pieces(count, read, lambda shape, pieces, _: stacked(shape, pieces), **options)


def decode_pieces(
    count: int,
    read: Read,
    consume: Callable[[Shape, Iterator[Pixels], GreyRange | None], T],
    *,
    image_size: tuple[int, int] | None,
    channels: int | None = None,
    grey_range: GreyRange | None = None,
    finds_range: bool = False,
) -> T:
    """Decode images in threads, a piece at a time, and return what ``consume`` makes of them.

    Args:
        count: number of images, at least 1.
        read: gives the encoded images.
        consume: takes (N, C, H, W), an iterator over pieces (n, C, H, W) uint8 in order, and the range of
            16-bit greys. It is called again where a colour or 16-bit image comes behind others.
        image_size: (height, width) in pixels to resize to; None keeps the size.
        channels: 1 or 3; None gives 3 if any image has colour, else 1.
        grey_range: of the 16-bit images of the training set; None for images of 8 bits.
        finds_range: whether images may be of 16 bits, and decide the range themselves.

    Raises:
        ValueError: images cannot be read, differ in size or depth, or have mostly greys outside of
            ``grey_range``.
    """
    pillow()
    if image_size is not None:
        sides = f"an image of {size_text(image_size)} pixels"
        require_memory(8.0 * math.prod(image_size), sides, "use a smaller data.image_size")
    job = _Job(count, read, image_size, channels, grey_range)
    while True:
        try:
            pieces = job.pieces()
            first = next(pieces)
            return consume((count, *first.shape[1:]), chain([first], pieces), job.grey_range)
        except _ColourError:
            job = replace(job, channels=3)
        except DeepError:
            if job.grey_range is not None or not finds_range:
                raise
            job = replace(job, grey_range=_used_range(count, read))
        except UnreadableError:
            raise _all_unreadable(list(job.faults().values()), count) from None


@dataclass(frozen=True)
class _Job:
    """Images to decode; see :func:`decode_pieces`."""

    count: int
    read: Read
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    grey_range: GreyRange | None = None

    def decoded(self, start: int, stop: int) -> list[tuple[str, Pixels, float]]:
        """Return the name, the pixels and the share of greys outside the range of some images."""
        return [(name, *self._decode(name, data)) for name, data in self.read(start, stop)]

    def _decode(self, name: str, data: bytes | Path) -> tuple[Pixels, float]:
        return _opened(
            name, data, lambda im: _pixels(im, name, self.image_size, self.channels, self.grey_range)
        )

    def pieces(self) -> Iterator[Pixels]:
        """Yield all images in order, (n, C, H, W), as many at a time as take little memory."""
        ((first, sample, _),) = self.decoded(0, 1)
        size, channels, outside = sample.shape[:2], self.channels, 0.0
        step = max(1, min(_IMAGES_PER_TASK, _BYTES_PER_TASK // sample.size))
        for images in in_threads(self.decoded, self.count, step):
            for name, image, _ in images:
                if image.shape[:2] != size:
                    raise ValueError(
                        f"images differ in size: {first} is {size_text(size)} pixels and {name} is "
                        f"{size_text(image.shape)}: give one size, such as "
                        f"data.image_size={size[0]}x{size[1]}"
                    )
            most = max(image.shape[2] for _, image, _ in images)
            channels = channels or most
            if most > channels:
                raise _ColourError
            outside += sum(share for *_, share in images)
            piece = np.empty((len(images), channels, *size), np.uint8)
            for row, (_, image, _) in zip(piece, images, strict=True):
                row[:] = image.transpose(2, 0, 1)  # A grey image fills all three channels.
            yield piece
        if self.grey_range and outside > _MOST_OUTSIDE * self.count:
            raise ValueError(
                "images have greys of another range than the training images, which use "
                f"{self.grey_range.low} to {self.grey_range.high} of 16 bits: {outside / self.count:.0%} "
                "of their pixels lie outside; save all with one scale"
            )

    def faults(self) -> dict[int, str]:
        """Return what is wrong with each image that cannot be read, by its index."""

        def fault(name: str, data: bytes | Path) -> str:
            try:
                self._decode(name, data)
            except UnreadableError as error:
                return "" if isinstance(error, DeepError) else str(error)
            return ""

        def task(start: int, stop: int) -> list[str]:
            return [fault(name, data) for name, data in self.read(start, stop)]

        found = chain.from_iterable(in_threads(task, self.count, _IMAGES_PER_TASK))
        return {index: text for index, text in enumerate(found) if text}


def unreadable_images(count: int, read: Read) -> dict[int, str]:
    """Return what is wrong with each image that cannot be read, by its index."""
    pillow()
    return _Job(count, read).faults()


def _used_range(count: int, read: Read) -> GreyRange:
    """Return the range of greys that 16-bit images use."""

    def counted(start: int, stop: int) -> NDArray[np.int64]:
        counts = np.zeros(2**16, np.int64)
        for name, data in read(start, stop):
            with suppress(UnreadableError):  # decoding says so
                counts += _opened(name, data, _grey_counts)
        return counts

    tasks = in_threads(counted, count, _IMAGES_PER_TASK)
    used = np.flatnonzero(sum(tasks, np.zeros(2**16, np.int64)))
    return GreyRange(int(used[0]), int(used[-1]), len(used)) if len(used) else GreyRange(0, 2**16 - 1)


def _grey_counts(image: "Image") -> NDArray[np.int64]:
    greys = _greys(image).ravel() if _is_deep(image) else np.empty(0, np.int64)
    return np.bincount(greys, minlength=2**16)


def in_threads(task: Callable[[int, int], T], count: int, step: int) -> Iterator[T]:
    """Run ``task`` on ranges of indices, few of them ahead of what is taken, and yield results in order."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        for start in range(0, count, step):
            waiting.append(pool.submit(task, start, min(start + step, count)))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _all_unreadable(faults: Sequence[str], count: int) -> ValueError:
    if len(faults) == 1:
        return ValueError(f"{faults[0]}; mend or remove it, or data.skip_unreadable=true")
    shown = listed([fault.removeprefix("cannot read image ") for fault in faults], "; ")
    fix = "mend or remove them, or data.skip_unreadable=true"
    return ValueError(f"cannot read {len(faults)} of {count:,} images: {shown}: {fix}")


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names of a list, and the number of the others."""
    more = f"{separator}and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"{separator.join(names[:MOST_NAMED])}{more}"


def _opened(name: str, data: bytes | Path, make: Callable[["Image"], T]) -> T:
    """Return what ``make`` makes of an image; whatever goes wrong is an UnreadableError that names it."""
    try:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"it takes {size:,} bytes, and an image has at most {_MOST_BYTES:,}")
        with open_image(BytesIO(data) if isinstance(data, bytes) else data) as image:
            return make(image)
    except UnreadableError:
        raise
    # Pillow's decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableError(f"cannot read image {name}: {reason}") from error


def _pixels(
    image: "Image",
    name: str,
    image_size: tuple[int, int] | None,
    channels: int | None,
    grey_range: GreyRange | None,
) -> tuple[Pixels, float]:
    """Return the pixels of an opened image, and the share of its greys outside the range."""
    is_deep, outside = _is_deep(image), 0.0
    has_deep_colour = not is_deep and ";16" in str(getattr(image, "tile", ""))
    if is_deep and grey_range is None:
        raise DeepError(f"image {name} has greys of 16 bits, and others beside it have 8: save all alike")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save it with 8 or 16 bits")
    if not is_deep and grey_range is not None:
        raise ValueError("it has 8 bits, and others of its data set have greys of 16: save all alike")
    require("PIL.ImageOps").exif_transpose(image, in_place=True)
    if grey_range is not None:
        greys, (low, high, _) = _greys(image), grey_range
        outside = float(((greys < low) | (greys > high)).mean())
        width = max(1, high - low)
        scaled = ((greys.clip(low, high) - low) * 255 + width // 2) // width  # rounded
        image = pillow().fromarray(scaled.astype(np.uint8))
    else:
        mode = "L" if _is_grey(image) else "RGB"
        if image.has_transparency_data:
            white = pillow().new("RGBA", image.size, "white")
            image = pillow().alpha_composite(white, image.convert("RGBA"))
        image = image.convert(mode)
    if has_deep_colour and 0 < np.asarray(image).max() < _LEAST_COLOUR:
        raise ValueError("of its 16 bits a colour it uses the lower ones alone: save it with 8 bits")
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None and image.size != image_size[::-1]:
        image = image.resize(image_size[::-1], pillow().Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, -1), outside


def _is_deep(image: "Image") -> bool:
    return image.mode.startswith("I")


def _is_grey(image: "Image") -> bool:
    palette = image.getpalette("RGB") if image.mode in {"P", "PA"} else None
    has_grey_palette = palette is not None and palette[0::3] == palette[1::3] == palette[2::3]
    return image.mode in _GREY_MODES or has_grey_palette


def _greys(image: "Image") -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range: save it with 8 or 16 bits")
    return values


def size_text(shape: Sequence[int]) -> str:
    """Return (height, width, …) as ``height×width``."""
    return f"{shape[0]}×{shape[1]}"


def stacked(shape: Shape, pieces: Iterator[Pixels]) -> Tensor:
    """Put pieces together, ``(N, C, H, W)`` uint8.

    Raises:
        ValueError: they do not fit into memory.
    """
    size = f"{shape[0]:,} images of {size_text(shape[2:])} pixels"
    require_memory(math.prod(shape), size, "use a smaller data.image_size")
    images, filled = np.empty(shape, np.uint8), 0
    for piece in pieces:
        images[filled : filled + len(piece)] = piece
        filled += len(piece)
    return torch.from_numpy(images)
