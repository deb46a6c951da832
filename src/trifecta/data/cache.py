"""Decoded images on disk, so that a data set is decoded once.

One ``.safetensors`` file per split lies in ``$TRIFECTA_CACHE``, else ``$XDG_CACHE_HOME/trifecta``,
else ``~/.cache/trifecta``. Its name is a hash of all that the pixels depend on; nothing has to be
removed when data change, and everything may be.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trifecta._utils.files import write_atomically

FORMAT_VERSION = 1
"""Raise it when the same key would decode to other pixels."""


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    if own := os.environ.get("TRIFECTA_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "trifecta"


def cached_images(identity: dict[str, object], count: int, decode: Callable[[], Tensor]) -> Tensor:
    """Read the images from the cache, or decode and keep them.

    Processes may do this at once: a file appears whole or not at all. A file that cannot be read
    is replaced; a folder that cannot be written gives a warning.

    Args:
        identity: all that the pixels depend on, as plain values.
        count: how many images there have to be.
        decode: gives ``(count, C, H, W)`` uint8.
    """
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    images = _read(file, count)
    if images is None:
        images = decode()
        _write(file, images)
    return images


def _read(file: Path, count: int) -> Tensor | None:
    try:
        images = load_file(file)["images"]
    # PyTorch opens the file once more, and says RuntimeError where it has just been removed.
    except (OSError, RuntimeError, SafetensorError, KeyError):
        return None
    fits = images.ndim == 4 and len(images) == count and images.dtype == torch.uint8
    return images if fits else None


def _write(file: Path, images: Tensor) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: save_file({"images": images}, path))
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"decoded images are not kept, as {file.parent} cannot be written ({error}): "
            "set TRIFECTA_CACHE to a folder that can",
            stacklevel=2,
        )
