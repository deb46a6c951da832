"""Optimizers, and a method's settings for them."""

from trifecta.optim.config import OptimizerConfig
from trifecta.optim.muon import Muon

__all__ = ["Muon", "OptimizerConfig"]
