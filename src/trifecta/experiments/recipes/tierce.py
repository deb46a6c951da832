"""Ablation of tierce: what each change from the Trifecta is worth."""

from collections.abc import Callable
from dataclasses import replace

from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.paper import BUDGETS
from trifecta.experiments.recipes.recipe import Recipe
from trifecta.losses import LabelGoodness, Objective, Symmetric
from trifecta.methods import Method, superfecta, tierce, trifecta
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import LAYER_WISE
from trifecta.training.config import RunConfig

# The objective of the method itself.
GOODNESS = LabelGoodness()


def with_objective(objective: Objective) -> Method:
    """Another local loss."""
    return replace(tierce.method(), objective=objective)


ROWS: dict[str, tuple[str, Callable[[], Method]]] = {
    "unchanged": ("tierce", tierce.method),
    "trifecta": ("Trifecta", trifecta.method),
    "trifecta-muon": (
        "Trifecta, Muon",
        lambda: replace(trifecta.method(), optimizer=tierce.method().optimizer),
    ),
    "trifecta-top": (
        "Trifecta, goodness of the strongest activations",
        lambda: replace(trifecta.method(), objective=Symmetric(goodness="top-k")),
    ),
    "every-position": ("every position", lambda: with_objective(replace(GOODNESS, pool=0))),
    "response": (
        "every position of the response",
        lambda: with_objective(replace(GOODNESS, pool=0, reads="response")),
    ),
    "small-alpha": ("alpha 16", lambda: with_objective(replace(GOODNESS, alpha=16.0))),
    "strict": ("blocks alone", lambda: replace(tierce.method(), schedule=LAYER_WISE)),
    "layer-norm": ("layer normalisation", lambda: replace(tierce.method(), normalization="layer")),
    "adam": ("Adam in place of Muon", lambda: replace(tierce.method(), optimizer=OptimizerConfig())),
    "superfecta": ("superfecta", superfecta.method),
}


def tierce_recipes(network: str, data: str) -> list[Recipe]:
    """Tierce itself, the Trifecta, then tierce with one thing changed."""
    return [
        Recipe(
            name=f"tierce-{name}-{network}-{data}",
            title=title,
            base=RunConfig(data=DATA_SETS[data], method=build(), network=network),
            budgets=BUDGETS[network],
            source="ours",
        )
        for name, (title, build) in ROWS.items()
    ]
