"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on six axes: how a label enters, negatives, goodness,
objective, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

from trifecta.learner import Learner
from trifecta.local_network import LocalNetwork, build_network
from trifecta.methods import METHODS, Method, get_method
from trifecta.networks import NETWORKS
from trifecta.schedules import Schedule, Window, parse_schedule

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "NETWORKS",
    "Learner",
    "LocalNetwork",
    "Method",
    "Schedule",
    "Window",
    "build_network",
    "get_method",
    "parse_schedule",
]
