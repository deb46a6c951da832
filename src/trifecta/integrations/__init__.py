"""Trifecta inside other libraries, each an extra of its own; nothing here is imported before it is asked for."""
