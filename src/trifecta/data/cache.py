"""Decoded images on disk, so that a data set is decoded once, and may be larger than memory.

One ``.npy`` file per split lies in ``$TRIFECTA_CACHE``, else ``$XDG_CACHE_HOME/trifecta``, else
``~/.cache/trifecta``, with the range of its greys and a CRC-32 behind the array. Its name is a hash of all
that the pixels depend on; nothing has to be removed when data change, and everything may be.
"""

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
"""Raise it when the same key would decode to other pixels."""

# Images that would take a larger share of the machine's memory stay on disk.
MOST_OF_MEMORY = 0.25
_PIECE = 2**24
_RANGE_BYTES = 24
_SUM_BYTES = 8


class CachedImages(NamedTuple):
    """Images ``(N, C, H, W)`` uint8, and whether they stay in a file: then copy only what is used.

    ``grey_range`` is what they were scaled by, where they had 16 bits.
    """

    images: Tensor
    in_file: bool = False
    grey_range: GreyRange | None = None


Consume = Callable[[Shape, Iterator[Pixels], GreyRange | None], CachedImages]
Decode = Callable[[Consume], CachedImages]
"""Hands the decoded images to a function, and returns what that returns."""


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    if own := os.environ.get("TRIFECTA_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "trifecta"


def cached_images(identity: dict[str, object], count: int, decode: Decode) -> CachedImages:
    """Read the images from the cache, or decode and keep them.

    Images that would fill memory are a read-only tensor whose storage is the file. Processes may do this at
    once: a file appears whole or not at all. A file that is damaged is replaced, with a warning; a folder
    that cannot be written gives a warning.

    Args:
        identity: all that the pixels depend on, as plain values.
        count: how many images there have to be.
        decode: decodes ``(count, C, H, W)`` uint8.
    """
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
    images = _read(file, count)
    if images is not None:
        return images
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
    images = _read(file, count)
    return decode(_in_memory) if images is None else images


def _in_memory(shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> CachedImages:
    return CachedImages(stacked(shape, pieces), grey_range=grey_range)


def _keep(file: Path, shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> CachedImages:
    """Write the pieces to ``file``, unless they would fill the disk."""
    if math.prod(shape) > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_atomically(file, lambda path: _write(path, shape, pieces, grey_range))
    return CachedImages(torch.empty(0))


def _write(path: Path, shape: Shape, pieces: Iterator[Pixels], grey_range: GreyRange | None) -> None:
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        total = zlib.crc32(path.read_bytes())
        behind = " ".join(map(str, grey_range or ())).encode().rjust(_RANGE_BYTES)
        for content in itertools.chain((piece.tobytes() for piece in pieces), [behind]):
            total = zlib.crc32(content, total)
            file.write(content)
        file.write(f"{total:0{_SUM_BYTES}x}".encode())


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
    with warnings.catch_warnings():
        # Nothing writes to images of a data set.
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
