"""A recipe: one published experiment, at its full size and at smaller ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trifecta._utils.references import lookup
from trifecta.data import Augmentation, DataConfig
from trifecta.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The size of an experiment.

    Attributes:
        width: multiplies the network's channels.
        epochs: passes over the training split.
        batch_size: images a step.
        augmentation: of the training images.
        compiled: whether to compile blocks, see :class:`trifecta.RunConfig`.
        validation: the share of the training split that is held out, for a curve over epochs; None for the
            data's own.
    """

    width: float
    epochs: int
    batch_size: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    compiled: bool = False
    validation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure: test accuracy in percent.

    Attributes:
        accuracy: the figure.
        source: where it stands.
        tolerance: points that a run at budget ``full`` may differ and still count as reproduced.
    """

    accuracy: float
    source: str
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment: call it with a budget and a seed for the run's full configuration.

    It keeps its last weights, so that its figure depends on no choice among epochs.

    Attributes:
        name: as in ``trifecta list``; its first words are what tables put into rows.
        title: what a table calls it.
        base: everything but the size, which its budget decides.
        budgets: sizes by name.
        source: the paper, or what in this project asked for it.
        published: the figure to compare with; None where there is none that could be verified.
    """

    name: str
    title: str
    base: RunConfig
    budgets: Mapping[str, Budget]
    source: str
    published: Published | None = None

    def __call__(self, budget: str | None = None, *, seed: int = 0) -> RunConfig:
        """The run; its largest budget where none is named.

        Raises:
            ValueError: the recipe has no such budget.
        """
        name = list(self.budgets)[-1] if budget is None else budget
        size = lookup(self.budgets, name, f"budget of {self.name}")
        data = data_of(self)
        return replace(
            self.base,
            data=data if size.validation is None else replace(data, validation=size.validation),
            width=size.width,
            epochs=size.epochs,
            batch_size=size.batch_size,
            augmentation=size.augmentation,
            compiled=size.compiled,
            keep="last",
            seed=seed,
            recipe=self.name,
            budget=name,
        )


def data_of(recipe: Recipe) -> DataConfig:
    """Return the recipe's data: every recipe has some."""
    assert recipe.base.data is not None
    return recipe.base.data
