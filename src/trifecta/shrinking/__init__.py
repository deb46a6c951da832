"""Smaller networks from trained ones: whole channels removed by what each block's own loss says of them."""

from trifecta.shrinking.shrink import shrink

__all__ = ["shrink"]
