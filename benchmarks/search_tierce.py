"""What was tried to let pairs learn in the time of one pass, on the validation split of CIFAR-10.

*small* at an eighth of its width for 2 epochs at batches of 128, without augmentation, one seed. One line a
variant is appended to a result file; variants that it has are not run again. The test split is not read.

    python benchmarks/search_tierce.py FOLDER RESULTS.jsonl [PATTERN …]
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from searching import search, trained
from trifecta.data import DataConfig
from trifecta.losses import Combined, LabelGoodness, SupervisedContrastive, Symmetric
from trifecta.methods import Method, superfecta, tierce, trifecta
from trifecta.optim import OptimizerConfig
from trifecta.schedules import LAYER_WISE, Schedule
from trifecta.training import RunConfig

MUON = tierce.method().optimizer


def pairs(*, alpha: float = 4.0, goodness: str = "mean-square", **choices: Any) -> Method:
    """The Trifecta with some choices changed."""
    return replace(trifecta.method(), objective=Symmetric(alpha=alpha, goodness=goodness), **choices)


def one_pass(alpha: float = 128.0, pool: int = 4, reads: str = "output", **choices: Any) -> Method:
    """Tierce with some choices changed."""
    return replace(tierce.method(), objective=LabelGoodness(alpha=alpha, pool=pool, reads=reads), **choices)


def keeping_norm(rate: float, momentum: float, adam_scale: float) -> OptimizerConfig:
    """Muon that keeps the norm of its matrices."""
    arguments = {"momentum": momentum, "normalized": True, "adam_scale": adam_scale}
    return replace(MUON, learning_rate=rate, arguments=arguments)


VARIANTS: dict[str, Method] = {
    "pairs": pairs(),
    "pairs, alpha 16": pairs(alpha=16),
    "pairs, Muon": pairs(optimizer=MUON),
    "pairs, Muon, alpha 16": pairs(alpha=16, optimizer=MUON),
    "pairs, goodness of the top": pairs(goodness="top-k"),
    "pairs, goodness of the top, Muon": pairs(goodness="top-k", optimizer=MUON),
    "pairs, hard negatives": pairs(negatives="hard"),
    "one pass, every position of the response, alpha 4, Adam": one_pass(
        4, 0, "response", optimizer=OptimizerConfig()
    ),
    "one pass, every position of the response, alpha 16": one_pass(16, 0, "response"),
    "one pass, every position of the response, alpha 128": one_pass(128, 0, "response"),
    "one pass, 4×4 patches of the response, alpha 16": one_pass(16, 4, "response"),
    "one pass, 4×4 patches of the response, alpha 128": one_pass(128, 4, "response"),
    **{f"one pass, alpha {alpha}": one_pass(alpha) for alpha in (16, 64, 128, 256, 512)},
    "one pass, 2×2 patches": one_pass(pool=2),
    "one pass, 8×8 patches": one_pass(pool=8),
    "one pass, every position": one_pass(pool=0),
    "one pass, strict": one_pass(schedule=LAYER_WISE),
    "one pass, overlapping threes": one_pass(schedule=Schedule(size=3, overlapping=True)),
    "one pass, layer normalisation": one_pass(normalization="layer"),
    "one pass, Adam": one_pass(optimizer=OptimizerConfig()),
    "one pass, Muon that keeps norms, rate 0.0125": one_pass(optimizer=keeping_norm(0.0125, 0.8, 0.5)),
    "one pass, Muon that keeps norms, rate 0.025": one_pass(optimizer=keeping_norm(0.025, 0.8, 0.2)),
    "one pass, supervised contrast beside it": replace(
        tierce.method(),
        objective=Combined(scoring=LabelGoodness(alpha=128), terms=(SupervisedContrastive(weight=0.5),)),
    ),
    "superfecta": superfecta.method(),
}


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Train one variant."""
    data = DataConfig(source=str(folder))
    return trained(RunConfig(data=data, method=VARIANTS[name], width=0.125, epochs=2, precision="bf16"))


if __name__ == "__main__":
    search(__file__, __doc__, VARIANTS, measure)
