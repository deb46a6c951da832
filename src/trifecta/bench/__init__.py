"""Measuring speed, memory, prediction and time to accuracy against backprop on equal work."""

from trifecta.bench.memory import measure_memory
from trifecta.bench.setting import Setting
from trifecta.bench.speed import measure_accuracy, measure_inference, measure_speed
from trifecta.bench.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "Setting",
    "measure_accuracy",
    "measure_inference",
    "measure_memory",
    "measure_speed",
]
