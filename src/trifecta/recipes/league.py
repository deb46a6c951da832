"""Methods beside each other on equal work: one recipe for every method on every network.

Everything but the method is the same: data, network, width, epochs, batches, augmentation, optimizer.
A tenth of the training split is held out, so that the seconds to an accuracy can be told.
"""

from collections.abc import Sequence

from trifecta.data import DataConfig
from trifecta.methods import get_method
from trifecta.networks import get_network
from trifecta.recipes.paper import BUDGETS
from trifecta.recipes.recipe import Recipe
from trifecta.training.config import RunConfig


def league_recipes(methods: Sequence[str], networks: Sequence[str], data: DataConfig) -> list[Recipe]:
    """One recipe a pair, by network and then by method.

    Raises:
        ValueError: no such method or network; names the nearest ones.
    """
    for network in networks:
        get_network(network)
    return [
        Recipe(
            name=f"league-{method}-{network}-{data.source.rpartition('/')[2]}",
            title=f"{method}, {network}",
            base=RunConfig(data=data, method=get_method(method), network=network),
            budgets=BUDGETS[network],
            source="ours: all methods on equal work",
        )
        for network in networks
        for method in methods
    ]
