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
