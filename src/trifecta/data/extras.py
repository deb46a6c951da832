"""Libraries of the extra ``data``, imported when they are first needed."""

from importlib import import_module
from typing import Any


def require(module: str) -> Any:
    """Import ``module``, which the extra ``data`` installs.

    Raises:
        ImportError: it is not installed; names the extra that has it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f'reading images needs {module.split(".")[0]}: pip install "trifecta[data]"'
        ) from error


def pillow() -> Any:
    """``PIL.Image`` with all its formats registered.

    Registering is not safe while other threads open images, so that it has to happen before.

    Raises:
        ImportError: Pillow is not installed.
    """
    image = require("PIL.Image")
    image.init()
    return image
