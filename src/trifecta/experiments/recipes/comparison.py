"""Rows beside each other on equal work: every method, and rivals that differ from one in a single thing.

Data, network, epochs, batches and augmentation are the same for all; so is the width, except for a row that
is widened to another's number of parameters. Optimizers, heads and their parameters are the methods' own:
the rivals set them equal, one at a time. A tenth of the training split is held out, so that the seconds to
an accuracy can be told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from trifecta._utils.references import lookup, name_of
from trifecta.data import DataConfig
from trifecta.experiments.recipes.data_sets import Images, known_images
from trifecta.experiments.recipes.paper import BUDGETS
from trifecta.experiments.recipes.recipe import Budget, Recipe, data_of
from trifecta.experiments.recipes.superfecta import ROWS, with_objective, with_the_same_optimizer
from trifecta.experiments.recipes.widths import parameters_at, width_with
from trifecta.losses import (
    Combined,
    GroupCrossEntropy,
    PositionThresholds,
    SupervisedContrastive,
    Temperature,
)
from trifecta.methods import METHODS, Method, deep_supervision, deeper_forward, hcl_ff, scff, superfecta
from trifecta.methods.superfecta import CLASSIFIER
from trifecta.nn.networks import get_network
from trifecta.training.config import RunConfig

# Backprop and deep supervision with what superfecta has, and superfecta with less.
RIVALS: dict[str, Callable[[], Method]] = {
    "backprop-muon": ROWS["backprop"][1],
    "backprop-muon-classifier": ROWS["backprop-classifier"][1],
    "deep-supervision-muon-classifier": lambda: with_the_same_optimizer(
        replace(deep_supervision.method(), objective=CLASSIFIER)
    ),
    "superfecta-small-heads": lambda: with_objective(replace(CLASSIFIER, pool=2, hidden=16)),
    "backprop-muon-wide": ROWS["backprop"][1],
}
# Settings for a few epochs of narrow networks; the published ones are for hundreds of wide ones.
SHORT: dict[str, Callable[[], Method]] = {
    # Means of activations differ by little, so a softmax over them is flat; dropout needs time.
    "deeper-forward-short": lambda: replace(
        deeper_forward.method(), objective=GroupCrossEntropy(goodness="mean", temperature=0.1), dropout=0.0
    ),
    # The published temperature begins to fall in its first epoch and takes fifty.
    "hcl-ff-short": lambda: replace(
        hcl_ff.method(),
        objective=Combined(
            scoring=GroupCrossEntropy(goodness="mean", temperature=0.1),
            terms=(SupervisedContrastive(temperature=Temperature(first=0.2, second=0.1)),),
        ),
        dropout=0.0,
    ),
    # Goodness of 6 is far for blocks whose weights have just been drawn.
    "scff-short": lambda: replace(
        scff.method(), objective=PositionThresholds(positive=(0.0,), negative=(1.0,), penalty=(0.0012,))
    ),
}
# Rows whose network is widened until it has the parameters of another method's, heads included.
WIDENED: dict[str, Callable[[], Method]] = {"backprop-muon-wide": superfecta.method}
COMPARISONS: dict[str, Callable[[], Method]] = METHODS | RIVALS | SHORT

# Test accuracy on CIFAR-10, in percent, as each paper reports it for a network and a training of its own:
# predsim's and backprop's are of VGG8B (Nøkland & Eidnes 2019); FF's, SymBa's (both of an MLP) and the
# Trifecta's stand as later papers quote them.
PUBLISHED_CIFAR10: dict[str, float] = {
    "ff": 59.0,
    "symba": 59.09,
    "trifecta": 83.51,
    "cwcomp": 78.11,
    "scff": 80.75,
    "deeper-forward": 86.22,
    "distance-forward": 88.2,
    "asge": 90.62,
    "hcl-ff": 91.68,
    "dtg-ff": 91.8,
    "rec-lra": 93.6,
    "predsim": 94.42,
    "backprop": 94.01,
}


def comparison_recipes(
    rows: Sequence[str],
    networks: Sequence[str],
    data: DataConfig,
    *,
    find_images: Callable[[], Images] | None = None,
) -> list[Recipe]:
    """One recipe for each row and network, by network and then by row.

    Args:
        rows: names in ``COMPARISONS``.
        networks: as in ``trifecta list``.
        data: the same for all.
        find_images: says what the images are, where ``data`` is not known by its name and a row's width
            depends on them.

    Raises:
        ValueError: no such row or network (names the nearest ones), or a row that is widened for images
            that nobody can tell.
    """
    for network in networks:
        get_network(network)
    return [
        Recipe(
            name=_name(row, network, data),
            title=f"{row}, {network}",
            base=RunConfig(data=data, method=lookup(COMPARISONS, row, "method")(), network=network),
            budgets=_budgets(row, network, data, find_images),
            source="ours: all methods on equal work",
        )
        for network in networks
        for row in rows
    ]


def comparison_command(recipe: Recipe, budget: str) -> str:
    """Return what makes a row at a budget, but for ``--seeds``."""
    row, _, network = recipe.title.partition(", ")
    source = data_of(recipe).source
    return f"trifecta compare --data {source} --methods {row} --networks {network} --budget {budget}"


def published_elsewhere(recipe: Recipe) -> float | None:
    """The accuracy in percent that the paper of a method reports; None but for the method's own row."""
    method, network, data = recipe.base.method.name, name_of(recipe.base.network), data_of(recipe)
    own = recipe.name == _name(method, network, data) and _short(data) == "cifar10"
    return PUBLISHED_CIFAR10.get(method) if own else None


def _budgets(
    row: str, network: str, data: DataConfig, find_images: Callable[[], Images] | None
) -> Mapping[str, Budget]:
    """The network's budgets; for a row that is widened each with a width of its own."""
    budgets = BUDGETS[network]
    if row not in WIDENED:
        return budgets
    images = known_images(data) or (None if find_images is None else find_images())
    if images is None:
        raise ValueError(
            f"{row} is as wide as its parameters say, which depend on the images, and {data.source} is not "
            "known by its name: leave it out, or say what the images are (find_images)"
        )
    method, wanted = COMPARISONS[row](), WIDENED[row]()
    return {
        name: replace(
            budget,
            width=width_with(parameters_at(budget.width, wanted, network, images), method, network, images),
        )
        for name, budget in budgets.items()
    }


def _name(row: str, network: str, data: DataConfig) -> str:
    return f"compared-{row}-{network}-{_short(data)}"


def _short(data: DataConfig) -> str:
    return data.source.rpartition("/")[2]
