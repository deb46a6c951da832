"""Encoded images → uint8 pixels.

An image is grey (modes 1, L, LA, 16-bit grey, or a palette of greys) or colour (all others, as RGB).
Transparent pixels are laid over white; photographs are turned upright by their EXIF data. Resizing is
Pillow's bicubic, which does not alias; the aspect ratio is not kept.

Greys of 16 bits are scaled to 8 by the range that the training images use, as cameras and scanners fill 10
or 12 of them. All images of a data set have one depth: nothing tells how greys of 8 and of 16 bits compare.
"""

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifecta._utils.devices import require_memory
from trifecta._utils.extras import open_image, pillow, require

if TYPE_CHECKING:
    from PIL.Image import Image

S = TypeVar("S")
T = TypeVar("T")
Pixels = NDArray[np.uint8]  # (n, C, H, W), or (H, W, C) of one image; C = 1 or 3
Shape = tuple[int, int, int, int]  # (N, C, H, W)
# Name of an image in messages, and its encoded bytes or its file.
Encoded = tuple[str, bytes | Path]
Read = Callable[[], Iterable[Encoded]]

_GREY_MODES = {"1", "L", "LA", "La"}
_IMAGES_PER_TASK, _BYTES_PER_TASK, _MOST_NAMED = 256, 2**25, 10
# An image of the most pixels that are read takes no more, even without compression.
_MOST_BYTES = 2**29
# A 16-bit colour below it used 12 bits or fewer, of which Pillow keeps the upper 8 of 16.
_LEAST_COLOUR = 16
# Pages of a TIFF that are a smaller copy of another, or its mask: bits of the tag NewSubfileType.
_SUBFILE_TYPE, _IS_COPY_OR_MASK = 254, 0b101
# Share of greys outside the training images' range from which on images have another scale.
_MOST_OUTSIDE = 0.5


class GreyRange(NamedTuple):
    """16-bit greys that become 0 and 255, and the number of different greys in use, 0 if not counted."""

    low: int
    high: int
    values: int = 0


class _Form(NamedTuple):
    """How images are decoded; None keeps the size, takes colour where there is any, expects 8 bits."""

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    grey_range: GreyRange | None = None


class _UnreadableError(ValueError):
    """An image cannot be read."""


class _ColourError(Exception):
    """There is colour behind images that were all grey."""


def decode_pieces(
    count: int,
    read: Read,
    consume: Callable[[Shape, Iterator[Pixels], GreyRange | None], T],
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    grey_range: GreyRange | None = None,
) -> T:
    """Decode ``count`` images in threads, a piece at a time, and return what ``consume`` makes of them.

    It takes their shape, an iterator over pieces in order, and the range of 16-bit greys, ``grey_range`` or
    their own. It is called again where a colour image comes behind grey ones.
    """
    if grey_range is None and _has_deep(read):
        grey_range = _used_range(read)
    form = _Form(image_size, channels, grey_range)
    while True:
        try:
            pieces = _pieces(count, read, form)
            first = next(pieces)
            return consume((count, *first.shape[1:]), chain([first], pieces), grey_range)
        except _ColourError:
            form = form._replace(channels=3)
        except _UnreadableError:
            faults = listed([*_faults(read, form).values()], "; ")
            raise ValueError(f"{faults}: repair or remove them, or data.skip_unreadable=true") from None


def unreadable_images(read: Read) -> dict[int, str]:
    """Return what is wrong with each image that cannot be read, by its index."""
    return _faults(read, _Form(grey_range=GreyRange(0, 2**16 - 1) if _has_deep(read) else None))


def _faults(read: Read, form: _Form) -> dict[int, str]:
    def fault(image: Encoded) -> str:
        try:
            _opened(image, partial(_pixels, form=form))
        except _UnreadableError as error:
            return str(error)
        return ""

    texts = in_threads(lambda some: [*map(fault, some)], read(), _IMAGES_PER_TASK)
    return {index: text for index, text in enumerate(chain.from_iterable(texts)) if text}


def _pieces(count: int, read: Read, form: _Form) -> Iterator[Pixels]:
    """Yield all images in order, (n, C, H, W), as many at a time as take little memory."""

    def decoded(images: Iterable[Encoded]) -> list[tuple[str, Pixels, float, bool]]:
        return [(image[0], *_opened(image, partial(_pixels, form=form))) for image in images]

    ((first, sample, *_),) = decoded(islice(read(), 1))
    size, channels, outside, several = sample.shape[:2], form.channels, 0.0, list[str]()
    step = max(1, min(_IMAGES_PER_TASK, _BYTES_PER_TASK // sample.size))
    for images in in_threads(decoded, read(), step):
        for name, image, share, is_first in images:
            outside += share
            several += [name] if is_first else []
            if image.shape[:2] != size:
                told = f"{first} is {size_text(size)} pixels and {name} is {size_text(image.shape)}"
                fix = f"give one size, such as data.image_size={size[0]}x{size[1]}"
                raise ValueError(f"images differ in size: {told}: {fix}")
        most = max(image.shape[2] for _, image, *_ in images)
        channels = channels or most
        if most > channels:
            raise _ColourError
        piece = np.empty((len(images), channels, *size), np.uint8)
        for row, (_, image, *_) in zip(piece, images, strict=True):
            row[:] = image.transpose(2, 0, 1)  # A grey image fills all three channels.
        yield piece
    if several:
        told = f"{len(several):,} of {count:,} image files have several pages or frames, as {several[0]}"
        warnings.warn(f"{told}: only the first is read; save each as a file if they matter", stacklevel=2)
    if form.grey_range and outside > _MOST_OUTSIDE * count:
        told = f"{outside / count:.0%} of their pixels lie outside"
        raise ValueError(f"{_other_range(form.grey_range)}: {told}; save all with one scale")


def in_threads(task: Callable[[list[S]], T], items: Iterable[S], step: int) -> Iterator[T]:
    """Run ``task`` on ``step`` items at a time, not far ahead of what is taken; yield results in order."""
    threads, left = os.cpu_count() or 1, iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        while some := list(islice(left, step)):
            waiting.append(pool.submit(task, some))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _has_deep(read: Read) -> bool:
    """Whether the first image that can be read has 16 bits."""
    pillow()
    for image in read():
        with suppress(_UnreadableError):
            return _opened(image, lambda opened: opened.mode.startswith("I"))
    return False


def _used_range(read: Read) -> GreyRange:
    """Return the range of greys that 16-bit images use."""

    def used(images: Iterable[Encoded]) -> set[int]:
        found = set[int]()
        for image in images:
            with suppress(_UnreadableError):  # or of 8 bits: decoding says so
                found |= _opened(image, lambda opened: {*np.unique(_greys(opened)).tolist()})
        return found

    every = set[int]().union(*in_threads(used, read(), _IMAGES_PER_TASK)) or {0, 2**16 - 1}
    return GreyRange(min(every), max(every), len(every))


def _opened(image: Encoded, make: Callable[["Image"], T]) -> T:
    """Return what ``make`` makes of an image; whatever goes wrong is an error that names it."""
    name, data = image
    try:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, and an image may have {_MOST_BYTES:,}")
        with open_image(BytesIO(data) if isinstance(data, bytes) else data) as opened:
            return make(opened)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _UnreadableError(f"cannot read image {name}: {reason}") from error


def _pixels(image: "Image", form: _Form) -> tuple[Pixels, float, bool]:
    """Return the pixels of an image, the share of greys outside the range, and if it is one of several."""
    is_first, is_deep, outside = _is_first_of_several(image), image.mode.startswith("I"), 0.0
    has_deep_colour = not is_deep and ";16" in str(getattr(image, "tile", ""))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save it with 8 or 16 bits")
    if is_deep != (form.grey_range is not None):
        own, other = ("greys of 16 bits", "8") if is_deep else ("8 bits", "greys of 16")
        raise ValueError(f"it has {own}, and others of its data set have {other}: save all alike")
    require("PIL.ImageOps").exif_transpose(image, in_place=True)
    if form.grey_range is not None:
        greys, (low, high, _) = _greys(image), form.grey_range
        outside = float(((greys < low) | (greys > high)).mean())
        width = max(1, high - low)
        scaled = ((greys.clip(low, high) - low) * 255 + width // 2) // width  # rounded
        image = pillow().fromarray(scaled.astype(np.uint8))
    else:
        image = plain_image(image)
    if has_deep_colour and 0 < np.asarray(image).max() < _LEAST_COLOUR:
        raise ValueError("it uses only the lower of its 16 bits per colour: save it with 8 bits")
    if form.channels is not None:
        image = image.convert("L" if form.channels == 1 else "RGB")
    if form.image_size is not None and image.size != form.image_size[::-1]:
        image = image.resize(form.image_size[::-1], pillow().Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, -1), outside, is_first


def _is_first_of_several(image: "Image") -> bool:
    """Whether pages or frames are not read, other than what cameras and scanners add to their picture."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":  # To count frames would decode all of them.
        return True
    count, copies = int(getattr(image, "n_frames", 1)), 0
    for page in range(1, count):
        image.seek(page)
        copies += bool(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & _IS_COPY_OR_MASK)
    image.seek(0)
    return count - copies > 1


def plain_image(image: "Image") -> "Image":
    """Return an image of 8 bits as grey or RGB, with transparent pixels laid over white."""
    palette = image.getpalette("RGB") if image.mode in {"P", "PA"} else None
    is_grey = palette is not None and palette[0::3] == palette[1::3] == palette[2::3]
    mode = "L" if is_grey or image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        white = pillow().new("RGBA", image.size, "white")
        image = pillow().alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _greys(image: "Image") -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if not image.mode.startswith("I") or values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range: save it with 8 or 16 bits")
    return values


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names of a list, and the number of the others."""
    more = f"{separator}and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return f"{separator.join(names[:_MOST_NAMED])}{more}"


def size_text(shape: Sequence[int]) -> str:
    """Return (height, width, …) as ``height×width``."""
    return f"{shape[0]}×{shape[1]}"


def stacked(shape: Shape, pieces: Iterator[Pixels]) -> Tensor:
    """Put pieces together, ``(N, C, H, W)`` uint8, if they fit into memory."""
    size = f"{shape[0]:,} images of {size_text(shape[2:])} pixels"
    require_memory(math.prod(shape), size, "use a smaller data.image_size")
    images, filled = np.empty(shape, np.uint8), 0
    for piece in pieces:
        images[filled : filled + len(piece)] = piece
        filled += len(piece)
    return torch.from_numpy(images)


def read_images(
    paths: Sequence[Path], *, image_shape: tuple[int, int, int], grey_range: Sequence[int] | None = None
) -> Tensor:
    """Decode files to the shape (C, H, W) that a network takes, ``(N, C, H, W)`` uint8; C is 1 or 3.

    ``grey_range`` are the 16-bit greys of the training images that became 0 and 255, None for 8 bits.
    """
    channels, height, width = image_shape
    if channels not in {1, 3}:
        raise ValueError(f"image files have 1 or 3 channels, the network takes {channels}")
    images, found = decode_pieces(
        len(paths),
        lambda: [(str(path), path) for path in paths],
        lambda shape, pieces, used: (stacked(shape, pieces), used),
        image_size=(height, width),
        channels=channels,
        grey_range=None if grey_range is None else GreyRange(*grey_range),
    )
    if found is not None and grey_range is None:
        raise ValueError("images have greys of 16 bits, and the training images have 8: save all alike")
    if grey_range is not None and (narrow := narrow_greys(images, grey_range)):
        warnings.warn(f"{narrow}: are they on the training images' scale?", stacklevel=3)
    return images


def narrow_greys(images: Tensor, grey_range: Sequence[int]) -> str:
    """Describe scaled 16-bit images that use less than a 16th of the training images' range, if they do."""
    is_narrow = np.ptp(images.numpy()) < 16
    return f"{_other_range(grey_range)}: they use less than a 16th of it" if is_narrow else ""


def _other_range(grey_range: Sequence[int]) -> str:
    used = f"which use {grey_range[0]} to {grey_range[1]} of 16 bits"
    return f"images have greys of another range than the training images, {used}"
