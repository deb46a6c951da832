"""Optional libraries, imported when they are first needed."""

from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

# Formats that Pillow decodes itself. Others start a program (EPS starts Ghostscript) or read other files.
IMAGE_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"),
)


def require(module: str, *, extra: str = "data") -> Any:
    """Import an optional module; raise ImportError that names the ``extra`` if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {module.split('.')[0]}: {how_to_install(extra)}") from error


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, which no package index has."""
    return f"pip install '.[{extra}]' in a checkout of trifecta"


def open_image(source: BytesIO | Path) -> Any:
    """Open an image in one of ``IMAGE_FORMATS``, as ``PIL.Image.open``; raise OSError if it cannot."""
    image = pillow()
    return image.open(source, formats=[name for name in IMAGE_FORMATS if name in image.OPEN])


def pillow() -> Any:
    """Import ``PIL.Image`` with all its formats, which must not be registered while threads open images."""
    image = require("PIL.Image")
    image.init()
    return image
