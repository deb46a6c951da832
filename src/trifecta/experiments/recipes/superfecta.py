"""Ablation of superfecta's techniques, alternatives to them, and rivals with its optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from trifecta.data import AUGMENTATIONS
from trifecta.experiments.recipes.data_sets import DATA_SETS
from trifecta.experiments.recipes.paper import BUDGETS
from trifecta.experiments.recipes.recipe import Budget, Recipe
from trifecta.losses import Combined, GroupCrossEntropy, Objective, Similarity, SupervisedContrastive, Term
from trifecta.methods import Method, backprop, superfecta, trifecta
from trifecta.methods.superfecta import CLASSIFIER
from trifecta.optim.config import OptimizerConfig
from trifecta.schedules import OVERLAPPING
from trifecta.training.config import RunConfig

SOURCE = "ours"


def with_objective(objective: Objective) -> Method:
    """Another local loss."""
    return replace(superfecta.method(), objective=objective)


def with_term(term: Term) -> Method:
    """A term beside the classifier."""
    return replace(superfecta.method(), objective=Combined(scoring=CLASSIFIER, terms=(term,)))


def with_the_same_optimizer(method: Method) -> Method:
    """Another method, trained by superfecta's optimizer."""
    return replace(method, optimizer=superfecta.method().optimizer)


ROWS: dict[str, tuple[str, Callable[[], Method]]] = {
    "unchanged": ("superfecta", superfecta.method),
    "adam": ("Adam in place of Muon", lambda: replace(superfecta.method(), optimizer=OptimizerConfig())),
    "linear": (
        "linear classifiers of normalised averages",
        lambda: with_objective(replace(CLASSIFIER, hidden=0, normalized=True)),
    ),
    "raw-linear": (
        "linear classifiers of raw averages",
        lambda: with_objective(replace(CLASSIFIER, hidden=0)),
    ),
    "normalized": (
        "with normalised averages",
        lambda: with_objective(replace(CLASSIFIER, normalized=True)),
    ),
    "whole-maps": ("classifiers of whole maps", lambda: with_objective(replace(CLASSIFIER, pool=1))),
    "class-groups": ("class groups in place of classifiers", lambda: with_objective(GroupCrossEntropy())),
    "layer-norm": ("layer normalisation", lambda: replace(superfecta.method(), normalization="layer")),
    "overlapping": ("overlapping updates", lambda: replace(superfecta.method(), schedule=OVERLAPPING)),
    "contrast": (
        "with a supervised-contrastive term",
        lambda: with_term(SupervisedContrastive(weight=0.5)),
    ),
    "similarity": ("with similarity matching", lambda: with_term(Similarity())),
    "smoothing": (
        "with label smoothing 0.1",
        lambda: with_objective(replace(CLASSIFIER, smoothing=0.1)),
    ),
    "freezing": (
        "freezing from half of the run on",
        lambda: replace(
            superfecta.method(), optimizer=replace(superfecta.method().optimizer, freeze_from=0.5)
        ),
    ),
    "backprop-adam": ("backprop, Adam", backprop.method),
    "backprop": ("backprop, Muon", lambda: with_the_same_optimizer(backprop.method())),
    "backprop-classifier": (
        "backprop, Muon, the same classifier",
        lambda: with_the_same_optimizer(replace(backprop.method(), objective=CLASSIFIER)),
    ),
    "trifecta": ("Trifecta, Muon", lambda: with_the_same_optimizer(trifecta.method())),
}


# Rows that are trained for longer, and plain backprop beside them.
LONGER = (
    "unchanged",
    "linear",
    "overlapping",
    "freezing",
    "backprop",
    "backprop-classifier",
    "backprop-adam",
)
LONGER_BUDGETS: dict[str, Budget] = {
    "quick": Budget(width=0.125, epochs=1, augmentation=AUGMENTATIONS["crop-flip"]),
    "cpu": Budget(width=0.25, epochs=8, augmentation=AUGMENTATIONS["crop-flip"]),
}


def superfecta_recipes(network: str, data: str) -> list[Recipe]:
    """Superfecta itself, then it with one thing changed, then rivals with its optimizer."""
    return [_recipe("superfecta", name, network, data, BUDGETS[network]) for name in ROWS]


def longer_recipes(network: str, data: str) -> list[Recipe]:
    """The same for long enough that augmentation pays: how far each is from backprop then."""
    return [_recipe("longer-superfecta", name, network, data, LONGER_BUDGETS) for name in LONGER]


def _recipe(prefix: str, name: str, network: str, data: str, budgets: Mapping[str, Budget]) -> Recipe:
    title, build = ROWS[name]
    return Recipe(
        name=f"{prefix}-{name}-{network}-{data}",
        title=title,
        base=RunConfig(data=DATA_SETS[data], method=build(), network=network),
        budgets=budgets,
        source=SOURCE,
    )
