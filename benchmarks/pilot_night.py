"""The Trifecta by width and epochs: which size a night should have, and what the paper's would bring.

Network *small* on CIFAR-10 as recipe ``trifecta-small-cifar10`` has it for a night, but for width and
epochs; validation accuracy, one seed. One line a variant is appended to a result file; variants that it has
are not run again. The test split is not read.

    python benchmarks/pilot_night.py FOLDER RESULTS.jsonl [PATTERN …]
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from searching import search, trained
from trifecta.data import DataConfig
from trifecta.recipes import get_recipe

EPOCHS, WIDTHS = (5, 10), (0.125, 0.1875, 0.25, 0.375)
VARIANTS = {
    f"width {width:g}, {epochs} epochs": (width, epochs)
    for epochs in EPOCHS
    for width in WIDTHS
    # Left out, as the longest.
    if (width, epochs) != (0.375, 10)
}


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Train one variant."""
    width, epochs = VARIANTS[name]
    recipe = get_recipe("trifecta-small-cifar10")("night")
    data = DataConfig(source=str(folder))
    return trained(replace(recipe, data=data, width=width, epochs=epochs, precision="bf16"))


if __name__ == "__main__":
    search(__file__, __doc__, VARIANTS, measure)
