"""Decoded images on disk: one file per set of images and way of decoding it."""

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.devices import memory_bytes
from trifecta._utils.files import write_atomically
from trifecta.data.decode import GreyRange, Pixels, Shape, stacked

# Version of the decoding: raise it when the same key would decode to other pixels.
FORMAT_VERSION = 5
# Images that would take a larger share of the machine's memory stay on disk.
MOST_OF_MEMORY = 0.25
# A file is its shape and range of greys as JSON, the pixels, the warnings of their decoding as JSON, and a
# CRC-32 of all that in hexadecimal digits.
_HEADER_BYTES, _SUM_BYTES = 128, 8


class CachedImages(NamedTuple):
    """Images ``(N, C, H, W)`` uint8, whether they stay in a file, and the range of 16-bit greys."""

    images: Tensor
    in_file: bool = False
    grey_range: GreyRange | None = None


Consume = Callable[[Shape, Iterator[Pixels], GreyRange | None], CachedImages]


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    if own := os.environ.get("TRIFECTA_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "trifecta"


def cached_images(identity: dict[str, object], decode: Callable[[Consume], CachedImages]) -> CachedImages:
    """Read images from the cache, or decode and keep them.

    The pixels depend on ``identity``; ``decode`` hands them to a function and returns its result. Images
    that would fill memory are a read-only tensor whose storage is the file. Processes may do this at once,
    as a file appears whole or not at all. A damaged file or a folder that cannot be written is a warning,
    and those of decoding are given again whenever the images are read.
    """
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.images"
    found = _read(file)
    if found is None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            decode(partial(_write, file))
        except OSError as error:
            told = f"decoded images are not kept, as {file.parent} cannot be written ({error})"
            warnings.warn(f"{told}: set TRIFECTA_CACHE to a folder that can", stacklevel=2)
        found = _read(file)
    if found is None:
        return decode(lambda shape, pieces, grey: CachedImages(stacked(shape, pieces), grey_range=grey))
    return found


def _write(file: Path, shape: Shape, pieces: Iterator[Pixels], greys: GreyRange | None) -> CachedImages:
    if math.prod(shape) > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def contents(heard: Sequence[warnings.WarningMessage]) -> Iterator[bytes]:
        yield json.dumps([shape, greys]).ljust(_HEADER_BYTES).encode()
        yield from (piece.tobytes() for piece in pieces)
        yield json.dumps([*dict.fromkeys(str(own.message) for own in heard)]).encode()

    def write(path: Path) -> None:
        total = 0
        with path.open("wb") as opened, warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            for content in contents(heard):
                total = zlib.crc32(content, total)
                opened.write(content)
            opened.write(f"{total:0{_SUM_BYTES}x}".encode())

    write_atomically(file, write)
    return CachedImages(torch.empty(0))


def _read(file: Path) -> CachedImages | None:
    """Return the images in ``file``; None where there are none, or they are damaged."""
    if not file.is_file():
        return None
    content = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
    kept, total = content[_HEADER_BYTES:-_SUM_BYTES], content[-_SUM_BYTES:].tobytes()
    if f"{zlib.crc32(content[:-_SUM_BYTES].data):0{_SUM_BYTES}x}".encode() != total:
        warnings.warn(f"decoded images in {file} are damaged: they are decoded again", stacklevel=3)
        return None
    shape, greys = json.loads(content[:_HEADER_BYTES].tobytes())
    pixels, told = np.split(kept, [math.prod(shape)])
    for text in json.loads(told.tobytes()):
        warnings.warn(text, stacklevel=3)
    grey_range = None if greys is None else GreyRange(*greys)
    if pixels.nbytes <= MOST_OF_MEMORY * (memory_bytes() or np.inf):
        return CachedImages(torch.from_numpy(np.array(pixels.reshape(shape))), grey_range=grey_range)
    with warnings.catch_warnings():  # nothing writes to images of a data set
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return CachedImages(torch.from_numpy(pixels.reshape(shape)), in_file=True, grey_range=grey_range)
