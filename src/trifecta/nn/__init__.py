"""Layers, blocks and networks, which know nothing of methods."""

from trifecta.nn.blocks import BlockStyle, ResidualBlock, conv_block, linear_block
from trifecta.nn.networks import NETWORKS, NetworkBuilder, get_network
from trifecta.nn.norms import NORMALIZATIONS, NormSite
from trifecta.nn.shapes import FeatureShape, ImageShape

__all__ = [
    "NETWORKS",
    "NORMALIZATIONS",
    "BlockStyle",
    "FeatureShape",
    "ImageShape",
    "NetworkBuilder",
    "NormSite",
    "ResidualBlock",
    "conv_block",
    "get_network",
    "linear_block",
]
