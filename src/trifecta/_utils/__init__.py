"""Helpers that every layer uses: devices, precision, files, names, optional libraries."""
