"""One factor at a time, away from the Trifecta as it is here, and what each published choice is worth.

Read-outs need no rows: every result holds the accuracy of all of them.
"""

from collections.abc import Callable
from dataclasses import replace

from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.experiments.recipes.ablation import cell_method, grid_recipes
from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.paper import BUDGETS, published_data, published_trifecta
from trifecta.experiments.recipes.recipe import Budget, Recipe
from trifecta.losses import Symmetric
from trifecta.methods import Method, trifecta
from trifecta.training.config import RunConfig

SOURCE = "the choices of the code of Dooms et al. 2023; the rows are ours"


def with_alpha(alpha: float) -> Method:
    """Another steepness of the symmetric loss."""
    return replace(trifecta.method(), objective=Symmetric(alpha=alpha))


def with_idle_last() -> Method:
    """The last block learns nothing at the steps at which it has no partner."""
    method = trifecta.method()
    return replace(method, schedule=replace(method.schedule, trains_remainder=False))


def with_two_states() -> Method:
    """One Adam state for every objective that trains a weight."""
    method = trifecta.method()
    return replace(method, optimizer=replace(method.optimizer, ownership="objective"))


def with_restarts() -> Method:
    """The partition starts anew in every epoch."""
    method = trifecta.method()
    return replace(method, schedule=replace(method.schedule, restarts=True))


def with_constant_rate() -> Method:
    """The published learning rate, which never decays."""
    method = trifecta.method()
    optimizer = replace(method.optimizer, learning_rate=1e-3, decay="constant")
    return replace(method, optimizer=optimizer)


def with_running_statistics() -> Method:
    """Batch normalisation by running statistics, in training too: samples do not see each other."""
    return replace(trifecta.method(), normalization="running")


def with_hard_negatives() -> Method:
    """Wrong labels that the network believes in, as Hinton 2022 proposes."""
    return replace(trifecta.method(), negatives="hard")


ROWS: dict[str, tuple[str, Callable[[], Method]]] = {
    "two-states": ("two Adam states a weight", with_two_states),
    "idle-last": ("last block idles at odd steps", with_idle_last),
    "restarts": ("partition starts anew every epoch", with_restarts),
    "constant-rate": ("learning rate 0.001, constant", with_constant_rate),
    "published": ("all four, as published", published_trifecta),
    **{
        f"alpha-{alpha}": (f"alpha {alpha}", lambda alpha=alpha: with_alpha(alpha))  # type: ignore[misc]
        for alpha in (1, 2, 8, 16)
    },
    "running": ("running statistics", with_running_statistics),
    "hard-negatives": ("hard negatives", with_hard_negatives),
    "elementwise": (
        "FF: layer norm with a gain an element, as published",
        lambda: cell_method("threshold", "layer-elementwise", "layer-wise"),
    ),
}
# Choices of the published code, each away from what the library does.
PUBLISHED_CHOICES = (
    "two-states",
    "idle-last",
    "restarts",
    "constant-rate",
    "constants",
    "augmented",
    "published",
)
BATCH_SIZES = (1, 8, 32, 128, 512)


def factor_recipes(network: str, data: str) -> list[Recipe]:
    """Every row on one network and data set; first the unchanged Trifecta, whose runs are the grid's."""
    unchanged = replace(grid_recipes(network, data)[-1], title="unchanged: alpha 4")
    augmented = {
        name: replace(budget, augmentation=AUGMENTATIONS["crop-rotate"])
        for name, budget in BUDGETS[network].items()
    }
    title = "crops and rotations as published"
    return [
        unchanged,
        *(_recipe(name, title, build(), network, data) for name, (title, build) in ROWS.items()),
        _recipe("augmented", title, trifecta.method(), network, data, augmented),
        _recipe(
            "constants",
            "normalised by the published constants",
            trifecta.method(),
            network,
            data,
            source=published_data(data),
        ),
    ]


def batch_size_recipes(network: str, data: str) -> list[Recipe]:
    """Batch sizes down to 1, with statistics of the batch and with running ones; one epoch each.

    The learning rate of Adam goes with the square root of the batch size (Malladi et al. 2022,
    arXiv 2205.10287), from the default at 128.
    """
    rows = []
    for size in BATCH_SIZES:
        for words, build in (("batch", trifecta.method), ("running", with_running_statistics)):
            method = build()
            rate = method.optimizer.learning_rate * (size / 128) ** 0.5
            method = replace(method, optimizer=replace(method.optimizer, learning_rate=rate))
            budgets = {
                name: replace(budget, batch_size=size, epochs=1)
                for name, budget in BUDGETS[network].items()
            }
            rows.append(
                _recipe(
                    f"batch-{size}-{words}",
                    f"batch {size}, {words} statistics",
                    method,
                    network,
                    data,
                    budgets,
                )
            )
    return rows


def _recipe(
    name: str,
    title: str,
    method: Method,
    network: str,
    data: str,
    budgets: dict[str, Budget] | None = None,
    *,
    source: DataConfig | None = None,
) -> Recipe:
    return Recipe(
        name=f"factor-{name}-{network}-{data}",
        title=title,
        base=RunConfig(data=source or DATA_SETS[data], method=method, network=network),
        budgets=BUDGETS[network] if budgets is None else budgets,
        source=SOURCE,
    )
