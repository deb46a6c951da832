"""Loose image files, to predict on."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from trifecta._utils.extras import IMAGE_FORMATS, pillow
from trifecta.data.decode import GreyRange, decode_images


def find_images(path: Path) -> list[Path]:
    """The file ``path``, or every image file in the folder ``path`` and below, sorted.

    An image file is one with the extension of a format that is read here; hidden files are left out.

    Raises:
        ValueError: there is nothing at ``path``, or no image.
        ImportError: Pillow is not installed.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no file or folder {path}: check the spelling")
    extensions = image_extensions()
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in extensions and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        raise ValueError(f"no images in {path}: give an image, or a folder with images in it")
    return found


def image_extensions() -> set[str]:
    """Return the extensions of the formats that are read, such as ``.png``."""
    image = pillow()
    return {
        extension
        for extension, image_format in image.registered_extensions().items()
        if image_format in image.OPEN and image_format in IMAGE_FORMATS
    }


def read_images(
    paths: Sequence[Path],
    *,
    image_shape: tuple[int, int, int],
    grey_range: Sequence[int] | None = None,
) -> Tensor:
    """Decode files to the shape that a network takes, converting colours and sizes as needed.

    Args:
        paths: of the files, at least one.
        image_shape: (C, H, W); C is 1 or 3.
        grey_range: of the training images, where these have greys of 16 bits.

    Returns:
        ``(N, C, H, W)`` uint8, in the order of ``paths``.

    Raises:
        ValueError: there are no files, a file cannot be read or has another depth than the training images
            (names it), or C is neither 1 nor 3.
        ImportError: Pillow is not installed.
    """
    channels, height, width = image_shape
    if channels not in {1, 3}:
        raise ValueError(f"image files have 1 or 3 channels, the network takes {channels}")
    if not paths:
        raise ValueError("no images to read: give at least one file")
    return decode_images(
        len(paths),
        lambda start, stop: [(str(path), path) for path in paths[start:stop]],
        image_size=(height, width),
        channels=channels,
        grey_range=None if grey_range is None else GreyRange(*grey_range),
    )
