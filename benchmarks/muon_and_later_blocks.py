"""What Muon leaves later blocks to work with, and what Adam does.

In linear networks Muon leaves them more (arXiv 2607.01124). On the fast trunk, at a quarter of its width:
validation accuracy of every block, and how many directions its features fill, for backprop and for strictly
local blocks, by optimizer. Then strictly local blocks that all learn by Muon, on top of three that Adam or
Muon trained before and that stay as they are. CIFAR-10, one seed; one line a variant is appended to
a result file; variants that it has are not run again. The test split is not read.

    python benchmarks/muon_and_later_blocks.py FOLDER RESULTS.jsonl [PATTERN …]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_airbench import NARROW, QUARTER, configured, end_to_end, local
from searching import accuracies, search
from trifecta import LocalNetwork
from trifecta.optim import OptimizerConfig
from trifecta.recipes import FAST_OPTIMIZER, STRICT_OPTIMIZER
from trifecta.training import RunConfig, Trainer

RATES = (0.001, 0.003, 0.01)
# Blocks that are trained before and stay as they are.
EARLIER = 3
IMAGES = 2000


def adam(rate: float) -> OptimizerConfig:
    """Adam that decays along a line, as the trunk's Muon does."""
    return OptimizerConfig(algorithm="adam", learning_rate=rate, decay="linear")


def strict(optimizer: OptimizerConfig) -> dict[str, Any]:
    """Strictly local blocks."""
    return local(NARROW, optimizer, **QUARTER)


ALONE: dict[str, dict[str, Any]] = {
    "backprop, Muon": end_to_end(FAST_OPTIMIZER, **QUARTER),
    **{f"backprop, Adam, rate {rate:g}": end_to_end(adam(rate), **QUARTER) for rate in RATES},
    "strict, Muon": strict(STRICT_OPTIMIZER),
    **{f"strict, Adam, rate {rate:g}": strict(adam(rate)) for rate in RATES},
}
# Later blocks learn by Muon.
ON_TOP = {f"strict, Muon, on blocks of: {name}": name for name in ALONE if name.startswith("strict")}


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Accuracies as in every search, and how many directions each block's features fill."""
    trainer = Trainer(configured(folder, ALONE[ON_TOP.get(name, name)]))
    trainer.fit()
    if name in ON_TOP:
        trainer = on_top_of(trainer, configured(folder, ALONE["strict, Muon"]))
        trainer.fit()
    assert trainer.data.validation is not None
    images = trainer.data.validation.images[:IMAGES]
    x = (images.float() / 255 - _channels(trainer.data.mean)) / _channels(trainer.data.std)
    return accuracies(trainer) | {"directions": directions(trainer.network, x)}


def on_top_of(earlier: Trainer, config: RunConfig) -> Trainer:
    """A run whose first blocks are those of another one and do not learn."""
    fresh = Trainer(config, data=earlier.data).network.blocks[EARLIER:]
    fixed = earlier.network.blocks[:EARLIER].requires_grad_(False)
    return Trainer(config, data=earlier.data, blocks=[*fixed, *fresh])


@torch.no_grad()
def directions(network: LocalNetwork, x: Tensor) -> list[float]:
    """The effective rank of each block's features, L values from 1 to its channels.

    ``exp(−Σ p log p)`` of the shares p that the eigenvalues of the channels' covariance have in their sum;
    every position of every image of ``x`` (N, C, H, W) counts. Source: Roy & Vetterli 2007.
    """
    network.eval()
    ranks = []
    for k in range(len(network.blocks)):
        features, x = network.pass_block(k, x)
        eigenvalues = torch.linalg.eigvalsh(torch.cov(features.float().transpose(0, 1).flatten(1)))
        shares = (eigenvalues / eigenvalues.sum()).clamp_min(1e-12)
        ranks.append(float(torch.exp(-(shares * shares.log()).sum())))
    return ranks


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


if __name__ == "__main__":
    search(__file__, __doc__, [*ALONE, *ON_TOP], measure)
