"""Optional libraries, imported when they are first needed."""

from importlib import import_module
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


def pillow() -> Any:
    """Import ``PIL.Image`` and register all its formats.

    Registering is not safe while other threads open images, so that it has to happen before.

    Raises:
        ImportError: Pillow is not installed.
    """
    image = require("PIL.Image")
    image.init()
    return image
