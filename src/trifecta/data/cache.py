"""Decoded images on disk: one file per set of images and way of decoding it."""

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trifecta._utils.checks import memory_bytes
from trifecta._utils.files import StorageError, write_atomically
from trifecta.data.decode import GreyRange, Pixels, Shape, stacked

FORMAT_VERSION = 3
"""Version of the decoding: raise it when the same key would decode to other pixels."""

# Images that would take a larger share of the machine's memory stay on disk.
MOST_OF_MEMORY = 0.25
_PIECE, _RANGE_BYTES, _SUM_BYTES = 2**24, 24, 8


class CachedImages(NamedTuple):
    """Images ``(N, C, H, W)`` uint8, whether they stay in a file, and the range of 16-bit greys."""

    images: Tensor
    in_file: bool = False
    grey_range: GreyRange | None = None


Consume = Callable[[Shape, Iterator[Pixels], GreyRange | None], CachedImages]
Decode = Callable[[Consume], CachedImages]
"""Hands decoded images to a function, and returns its result."""


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    if own := os.environ.get("TRIFECTA_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "trifecta"


def cached_images(identity: dict[str, object], count: int, decode: Decode) -> CachedImages:
    """Read images from the cache, or decode and keep them.

    Images that would fill memory are a read-only tensor whose storage is the file. Processes may do this at
    once, as a file appears whole or not at all. A damaged file is replaced with a warning; a folder that
    cannot be written gives a warning.

    Args:
        identity: what the pixels depend on, as plain values.
        count: number of images.
        decode: decodes ``(count, C, H, W)`` uint8.
    """
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
    found = _read(file, count)
    if found is not None:
        return found
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        decode(lambda shape, pieces, grey_range: _keep(file, shape, pieces, grey_range))
    except OSError as error:
        reason = error if isinstance(error, StorageError) else error.strerror
        warnings.warn(
            f"decoded images are not kept, as {file.parent} cannot be written ({reason}): "
            "set TRIFECTA_CACHE to a folder that can",
            stacklevel=2,
        )
    found = _read(file, count)
    if found is not None:
        return found
    return decode(lambda shape, pieces, grey: CachedImages(stacked(shape, pieces), grey_range=grey))


def _keep(file: Path, shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> CachedImages:
    """Write an ``.npy`` file with the range of greys and a checksum at its end."""
    if math.prod(shape) > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path: Path) -> None:
        with path.open("wb") as opened:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(opened, header)
            opened.flush()
            total = zlib.crc32(path.read_bytes())
            behind = " ".join(map(str, grey_range or ())).encode().rjust(_RANGE_BYTES)
            for content in itertools.chain((piece.tobytes() for piece in pieces), [behind]):
                total = zlib.crc32(content, total)
                opened.write(content)
            opened.write(f"{total:0{_SUM_BYTES}x}".encode())

    write_atomically(file, write)
    return CachedImages(torch.empty(0))


def _read(file: Path, count: int) -> CachedImages | None:
    """Return the images in ``file``; None where there are none, or not those."""
    try:
        with file.open("rb") as opened:
            if not _is_whole(opened, file.stat().st_size):
                warnings.warn(f"decoded images in {file} are damaged: they are decoded again", stacklevel=3)
                return None
            opened.seek(-_RANGE_BYTES - _SUM_BYTES, os.SEEK_END)
            numbers = opened.read(_RANGE_BYTES).split()
        grey_range = GreyRange(*map(int, numbers)) if numbers else None
        mapped = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if mapped.ndim != 4 or len(mapped) != count or mapped.dtype != np.uint8:
        return None
    if mapped.nbytes <= MOST_OF_MEMORY * (memory_bytes() or np.inf):
        return CachedImages(torch.from_numpy(np.array(mapped)), grey_range=grey_range)
    with warnings.catch_warnings():  # nothing writes to images of a data set
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return CachedImages(torch.from_numpy(mapped), in_file=True, grey_range=grey_range)


def _is_whole(file: IO[bytes], size: int) -> bool:
    """Whether the checksum at the end is that of what is before it."""
    total, left = 0, size - _SUM_BYTES
    while left > 0:
        piece = file.read(min(_PIECE, left))
        if not piece:
            return False
        total, left = zlib.crc32(piece, total), left - len(piece)
    return file.read() == f"{total:0{_SUM_BYTES}x}".encode()
