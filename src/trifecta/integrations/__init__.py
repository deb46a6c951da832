"""Trifecta inside other libraries, each an extra of its own."""
