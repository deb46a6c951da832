"""The grid that was never published: loss × normalisation × update, every cell at equal budget.

Dooms et al. 2023 (arXiv 2311.18130) add their three techniques to Forward-Forward and say that they
synergise; the combinations between plain FF and all three are not in the paper. Every cell here has the
label as a channel, the optimizer of the Trifecta and the last block's read-out, so that cells differ in the
three factors alone.
"""

from dataclasses import replace
from itertools import product

from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.paper import BUDGETS
from trifecta.experiments.recipes.recipe import Recipe
from trifecta.losses import Objective, Symmetric, Threshold
from trifecta.methods import Method, trifecta
from trifecta.schedules import LAYER_WISE, OVERLAPPING, Schedule
from trifecta.training.config import RunConfig

LOSSES: dict[str, Objective] = {"threshold": Threshold(), "symmetric": Symmetric()}
NORMALIZATIONS = ("length", "layer", "batch")
UPDATES: dict[str, Schedule] = {"layer-wise": LAYER_WISE, "overlapping": OVERLAPPING}
# Each factor's levels, plain Forward-Forward's first and the Trifecta's last.
FACTORS: dict[str, tuple[str, ...]] = {
    "loss": tuple(LOSSES),
    "normalization": NORMALIZATIONS,
    "update": tuple(UPDATES),
}


def cell_method(loss: str, normalization: str, update: str) -> Method:
    """The Trifecta with one level of every factor."""
    return replace(
        trifecta.method(), objective=LOSSES[loss], normalization=normalization, schedule=UPDATES[update]
    )


def cell_name(loss: str, normalization: str, update: str, *, network: str, data: str) -> str:
    """Return the name of a cell's recipe."""
    return f"ablation-{loss}-{normalization}-{update}-{network}-{data}"


def grid_recipes(network: str, data: str) -> list[Recipe]:
    """All twelve cells on one network and data set, plain Forward-Forward first."""
    return [
        Recipe(
            name=cell_name(loss, normalization, update, network=network, data=data),
            title=f"{loss}, {normalization}, {update}",
            base=RunConfig(
                data=DATA_SETS[data],
                method=cell_method(loss, normalization, update),
                network=network,
            ),
            budgets=BUDGETS[network],
            source="the factors of Dooms et al. 2023; the grid is ours",
        )
        for loss, normalization, update in product(*FACTORS.values())
    ]
