"""Methods on equal work: every method, and rivals that differ from one in a single thing.

Data, network, epochs, batches and augmentation are the same for all rows; so is the width, except for a row
that is widened to the number of parameters of another. Optimizers, heads and their parameters are the
methods' own: the rivals set them equal, one at a time. A tenth of the training split is held out, so that
the seconds to an accuracy can be told.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

from trifecta._utils.references import lookup, name_of
from trifecta.data import DataConfig
from trifecta.losses import (
    Combined,
    GroupCrossEntropy,
    PositionThresholds,
    SupervisedContrastive,
    Temperature,
)
from trifecta.methods import METHODS, Method, deep_supervision, deeper_forward, hcl_ff, scff, superfecta
from trifecta.methods.superfecta import CLASSIFIER
from trifecta.network import build_network
from trifecta.nn.networks import get_network
from trifecta.nn.shapes import ImageShape
from trifecta.recipes import BUDGETS, SUPERFECTA_ROWS, Budget, Recipe, with_muon
from trifecta.training.config import RunConfig

# Backprop and deep supervision with what superfecta has, and superfecta with less.
RIVALS: dict[str, Method] = {
    "backprop-muon": SUPERFECTA_ROWS["backprop"][1],
    "backprop-muon-classifier": SUPERFECTA_ROWS["backprop-classifier"][1],
    "deep-supervision-muon-classifier": with_muon(replace(deep_supervision.method(), objective=CLASSIFIER)),
    "superfecta-small-heads": replace(
        superfecta.method(), objective=replace(CLASSIFIER, pool=2, hidden=16)
    ),
    "backprop-muon-wide": SUPERFECTA_ROWS["backprop"][1],
}
_SHARP_GROUPS = GroupCrossEntropy(goodness="mean", temperature=0.1)
# Settings for a few epochs of narrow networks; the published ones are for hundreds of wide ones.
SHORT: dict[str, Method] = {
    # Means of activations differ by little, so a softmax over them is flat; dropout needs time.
    "deeper-forward-short": replace(deeper_forward.method(), objective=_SHARP_GROUPS, dropout=0.0),
    # The published temperature begins to fall in its first epoch and takes fifty.
    "hcl-ff-short": replace(
        hcl_ff.method(),
        objective=Combined(
            scoring=_SHARP_GROUPS,
            terms=(SupervisedContrastive(temperature=Temperature(first=0.2, second=0.1)),),
        ),
        dropout=0.0,
    ),
    # Goodness of 6 is far for blocks whose weights have just been drawn.
    "scff-short": replace(
        scff.method(), objective=PositionThresholds(positive=(0.0,), negative=(1.0,), penalty=(0.0012,))
    ),
}
COMPARISONS: dict[str, Method] = {name: build() for name, build in METHODS.items()} | RIVALS | SHORT
# Rows whose network is widened until it has the parameters of another method's, heads included.
WIDENED: dict[str, Method] = {"backprop-muon-wide": superfecta.method()}

# Test accuracy on CIFAR-10, in percent, as each paper reports it for a network and a training of its own:
# predsim's and backprop's are of VGG8B (Nøkland & Eidnes 2019); FF's, SymBa's (both of an MLP) and the
# Trifecta's are as later papers quote them.
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


class Images(NamedTuple):
    """Shape (C, H, W) and number of classes of a data set, which decide the size of a network."""

    image_shape: ImageShape
    num_classes: int


# By the end of the data's name.
_IMAGES: dict[str, Images] = {
    "mnist": Images((1, 28, 28), 10),
    "fashion_mnist": Images((1, 28, 28), 10),
    "svhn": Images((3, 32, 32), 10),
    "cifar10": Images((3, 32, 32), 10),
    "digits": Images((1, 8, 8), 10),
}


def known_images(data: DataConfig) -> Images | None:
    """Return what is known of a data set by its name; None for others."""
    images = _IMAGES.get(_short(data))
    if images is None or data.image_size is None:
        return images
    return images._replace(image_shape=(images.image_shape[0], *data.image_size))


def comparison_recipes(
    rows: Sequence[str],
    networks: Sequence[str],
    data: DataConfig,
    *,
    find_images: Callable[[], Images] | None = None,
) -> list[Recipe]:
    """Return a recipe for each row and network, by network and then by row.

    Args:
        rows: names in ``COMPARISONS``.
        networks: names as in ``trifecta list``.
        data: data of all rows.
        find_images: called for the images' shape where a row's width depends on it and ``data`` is not
            known by its name.

    Raises:
        ValueError: there is no such row or network (the message names the nearest ones), or a row is
            widened for images of unknown shape.
    """
    for network in networks:
        get_network(network)
    return [
        Recipe(
            name=_name(row, network, data),
            title=f"{row}, {network}",
            base=RunConfig(data=data, method=lookup(COMPARISONS, row, "method"), network=network),
            budgets=_budgets(row, network, data, find_images),
            source="ours: all methods on equal work",
        )
        for network in networks
        for row in rows
    ]


def comparison_command(recipe: Recipe, budget: str) -> str:
    """Return the command that makes a row at a budget, without ``--seeds``."""
    row, _, network = recipe.title.partition(", ")
    source = recipe.data.source
    return f"trifecta compare --data {source} --methods {row} --networks {network} --budget {budget}"


def published_elsewhere(recipe: Recipe) -> float | None:
    """Return the accuracy in percent that a paper reports; None except for the row of its own method."""
    method, network, data = recipe.base.method.name, name_of(recipe.base.network), recipe.data
    own = recipe.name == _name(method, network, data) and _short(data) == "cifar10"
    return PUBLISHED_CIFAR10.get(method) if own else None


def _budgets(
    row: str, network: str, data: DataConfig, find_images: Callable[[], Images] | None
) -> Mapping[str, Budget]:
    """Return the network's budgets, each with a width of its own for a row that is widened."""
    budgets = BUDGETS[network]
    if row not in WIDENED:
        return budgets
    images = known_images(data) or (None if find_images is None else find_images())
    if images is None:
        raise ValueError(
            f"{row} is as wide as its parameters say, which depend on the images, and {data.source} is not "
            "known by its name: leave it out, or say what the images are (find_images)"
        )
    method, wanted = COMPARISONS[row], WIDENED[row]
    return {
        name: replace(
            budget,
            width=width_with(parameters_at(budget.width, wanted, network, images), method, network, images),
        )
        for name, budget in budgets.items()
    }


@cache
def parameters_at(width: float, method: Method, network: str, images: Images) -> int:
    """Count the parameters of a network with all its heads, without allocating them."""
    with torch.device("meta"):
        built = build_network(
            method,
            network,
            sample_shape=images.image_shape,
            num_classes=images.num_classes,
            width=width,
        )
    return sum(p.numel() for p in built.parameters())


def width_with(parameters: int, method: Method, network: str, images: Images) -> float:
    """Return the width, in thousandths, with the nearest number of parameters; the smallest of equals."""

    def count(thousandths: int) -> int:
        return parameters_at(thousandths / 1000, method, network, images)

    # More width never has fewer parameters. Finer widths than thousandths round to the same channels.
    high = 2
    while count(high) < parameters:
        high *= 2
    above = bisect_left(range(high), parameters, key=count, lo=high // 2 + 1)
    nearest = min((above - 1, above), key=lambda part: abs(count(part) - parameters))
    while count(nearest - 1) == count(nearest):
        nearest -= 1
    return nearest / 1000


def _name(row: str, network: str, data: DataConfig) -> str:
    return f"compared-{row}-{network}-{_short(data)}"


def _short(data: DataConfig) -> str:
    return data.source.rpartition("/")[2]
