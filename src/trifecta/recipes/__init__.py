"""Experiments as functions that return their full configuration."""

from collections.abc import Callable

from trifecta.names import lookup
from trifecta.recipes.demo import demo
from trifecta.recipes.paper import paper
from trifecta.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {"demo": demo, "paper": paper}


def get_recipe(name: str) -> RunConfig:
    """The configuration of the recipe called ``name``.

    Raises:
        ValueError: no such recipe; names the nearest ones.
    """
    return lookup(RECIPES, name, "recipe")()


__all__ = ["RECIPES", "demo", "get_recipe", "paper"]
