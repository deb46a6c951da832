"""Optional libraries, imported when they are first needed."""

from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any


def require(module: str, *, install: str = '"trifecta[data]"') -> Any:
    """Import ``module``.

    Args:
        module: its name.
        install: what pip needs to be told.

    Raises:
        ImportError: it is not installed; says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {module.split('.')[0]}: pip install {install}") from error


# Formats that Pillow decodes itself. Others start a program (EPS starts Ghostscript) or read other files.
IMAGE_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "TGA",
    "TIFF",
    "WEBP",
)


def open_image(source: BytesIO | Path) -> Any:
    """Open an encoded image of one of ``IMAGE_FORMATS``, as ``PIL.Image.open``.

    Raises:
        OSError: it is none, or cannot be read.
    """
    image = pillow()
    return image.open(source, formats=[name for name in IMAGE_FORMATS if name in image.OPEN])


def pillow() -> Any:
    """Import ``PIL.Image`` and register all its formats.

    Registering is not safe while other threads open images, so that it has to happen before.

    Raises:
        ImportError: Pillow is not installed.
    """
    image = require("PIL.Image")
    image.init()
    return image
