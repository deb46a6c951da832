"""Local learning and backprop on the fast trunk, network *airbench* (Jordan 2024, arXiv 2404.00498)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from trifecta.data import Augmentation
from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.recipe import Budget, Recipe
from trifecta.losses import CrossEntropy
from trifecta.methods import Method, backprop, superfecta
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import Schedule
from trifecta.training.config import RunConfig

AUGMENTATION = Augmentation(crop_padding=2, reflected=True, flip=True, alternating=True)
SMOOTHING = 0.2
# 512 hidden units are no better (docs/fast.md).
CLASSIFIER = CrossEntropy(pool=4, hidden=256, smoothing=SMOOTHING)
# The trunk's own for matrices of blocks; Adam's rate for all else was chosen on validation images.
OPTIMIZER = OptimizerConfig(
    algorithm="muon",
    learning_rate=0.24,
    decay="linear",
    arguments={"momentum": 0.6, "normalized": True, "matched": False, "rounds": 3, "adam_scale": 0.01},
)
# Blocks that learn alone prefer smaller steps (docs/fast.md).
STRICT_OPTIMIZER = replace(
    OPTIMIZER, learning_rate=0.12, arguments={**OPTIMIZER.arguments, "adam_scale": 0.02}
)
# The trunk's own recipe takes 9.9 epochs.
BACKPROP_EPOCHS, LOCAL_EPOCHS, OVERLAPPING_EPOCHS = 10, 16, 24


def fast_backprop() -> Method:
    """Backprop as the trunk's own recipe has it."""
    return replace(backprop.method(), objective=CrossEntropy(smoothing=SMOOTHING), optimizer=OPTIMIZER)


def fast_superfecta(schedule: Schedule | None = None) -> Method:
    """Superfecta with the trunk's optimizer, a smoothed loss, and another schedule where one is given."""
    method = replace(superfecta.method(), objective=CLASSIFIER, optimizer=STRICT_OPTIMIZER)
    return method if schedule is None else replace(method, schedule=schedule, optimizer=OPTIMIZER)


# Title, method and epochs at full size.
ROWS: dict[str, tuple[str, Callable[[], Method], int]] = {
    "backprop": ("backprop", fast_backprop, BACKPROP_EPOCHS),
    "superfecta": ("superfecta", fast_superfecta, LOCAL_EPOCHS),
    "superfecta-pairs": (
        "superfecta, overlapping pairs",
        lambda: fast_superfecta(Schedule(size=2, overlapping=True)),
        LOCAL_EPOCHS,
    ),
    "superfecta-threes": (
        "superfecta, overlapping threes",
        lambda: replace(fast_superfecta(Schedule(size=3, overlapping=True)), readout="last"),
        OVERLAPPING_EPOCHS,
    ),
    "superfecta-modules": (
        "superfecta, two modules",
        lambda: fast_superfecta(Schedule(size=3)),
        LOCAL_EPOCHS,
    ),
}


def _budgets(epochs: int) -> Mapping[str, Budget]:
    def budget(width: float, epochs: int) -> Budget:
        return Budget(width=width, epochs=epochs, batch_size=1000, augmentation=AUGMENTATION)

    return {"quick": budget(0.25, 1), "cpu": budget(0.5, epochs // 2), "full": budget(1.0, epochs)}


def fast_recipes(data: str) -> list[Recipe]:
    """Every row on one data set."""
    return [
        Recipe(
            name=f"fast-{name}-airbench-{data}",
            title=title,
            base=RunConfig(data=DATA_SETS[data], method=build(), network="airbench"),
            budgets=_budgets(epochs),
            source="ours, on the trunk of Jordan 2024, arXiv 2404.00498",
        )
        for name, (title, build, epochs) in ROWS.items()
    ]
