"""Optimizers, and what a method says of them."""

from trifecta.optim.config import OptimizerConfig
from trifecta.optim.muon import Muon

__all__ = ["Muon", "OptimizerConfig"]
