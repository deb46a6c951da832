"""Layers, blocks and networks, which know nothing of methods."""

from trifecta.nn.blocks import BlockStyle as BlockStyle
from trifecta.nn.blocks import ResidualBlock as ResidualBlock
from trifecta.nn.blocks import conv_block as conv_block
from trifecta.nn.blocks import linear_block as linear_block
from trifecta.nn.cutting import Blocks as Blocks
from trifecta.nn.cutting import from_module as from_module
from trifecta.nn.networks import NETWORKS as NETWORKS
from trifecta.nn.networks import NetworkBuilder as NetworkBuilder
from trifecta.nn.networks import get_network as get_network
from trifecta.nn.norms import NORMALIZATIONS as NORMALIZATIONS
from trifecta.nn.norms import NormSite as NormSite
from trifecta.nn.shapes import FeatureShape as FeatureShape
from trifecta.nn.shapes import SampleShape as SampleShape
