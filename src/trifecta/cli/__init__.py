"""The command line: ``trifecta train | evaluate | predict | list``."""

from trifecta.cli.main import main

__all__ = ["main"]
