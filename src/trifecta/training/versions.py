"""Versions of what decides a figure."""

import platform
from importlib import metadata

import torch


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a figure."""
    libraries = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("trifecta", "numpy", "datasets"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return libraries
