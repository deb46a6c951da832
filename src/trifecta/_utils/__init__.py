"""Helpers of every floor: devices, precision, files, names, optional libraries."""
