"""The demo: handwritten digits that come with scikit-learn, half a minute on two CPU cores."""

from trifecta.data import DataConfig
from trifecta.experiments.recipes.recipe import Budget, Recipe
from trifecta.methods import trifecta
from trifecta.training.config import RunConfig

DEMO = Recipe(
    name="demo",
    title="Trifecta, digits",
    base=RunConfig(data=DataConfig(source="digits"), method=trifecta.method(), network="small"),
    budgets={"quick": Budget(width=0.25, epochs=60, batch_size=32)},
    source="ours: 95% in a minute",
)
