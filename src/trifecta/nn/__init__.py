"""Layers, blocks and networks, which know nothing of methods."""

from trifecta.nn.blocks import BlockStyle, ResidualBlock, conv_block, linear_block
from trifecta.nn.cutting import Blocks, from_module
from trifecta.nn.networks import NETWORKS, NetworkBuilder, get_network
from trifecta.nn.norms import NORMALIZATIONS, NormSite
from trifecta.nn.shapes import FeatureShape, SampleShape

__all__ = [
    "NETWORKS",
    "NORMALIZATIONS",
    "BlockStyle",
    "Blocks",
    "FeatureShape",
    "NetworkBuilder",
    "NormSite",
    "ResidualBlock",
    "SampleShape",
    "conv_block",
    "from_module",
    "get_network",
    "linear_block",
]
