"""A method: one choice on every axis of local learning."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from trifecta._utils.references import check_part, lookup, name_of, part_of
from trifecta.inputs import IMAGE_PAIRS, LABEL_INPUTS, ImagePairs, LabelInput
from trifecta.losses.combined import Levels, coarsened
from trifecta.losses.head import Head, Objective, Site, build_head
from trifecta.nn.blocks import ACTIVATIONS, BlockStyle
from trifecta.nn.norms import NORMALIZATIONS, NormSite
from trifecta.nn.shapes import SampleShape
from trifecta.optim import OptimizerConfig
from trifecta.schedules import LAYER_WISE, Schedule

NONE = "none"
NEGATIVES = ("uniform", "hard")
READS = ("output", "unpooled", "response")
INPUTS: dict[str, type[nn.Module] | None] = {**LABEL_INPUTS, NONE: None, **IMAGE_PAIRS}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A local-learning method: a choice on every axis. Vary it with ``dataclasses.replace``.

    Attributes:
        name: as in ``trifecta list``.
        objective: the local loss.
        label_input: how a label enters (``channel``, ``pattern``, ``overlay`` or a subclass of
            :class:`LabelInput`), ``none``, or pairs made of images alone (``other-image``, ``masked-mix``
            or a subclass of :class:`ImagePairs`).
        normalization: of a block's input: ``batch``, ``running``, ``layer`` (a gain per channel),
            ``layer-elementwise`` (per element), ``class-groups``, ``length``, ``none`` or a function of a
            :class:`NormSite`; ``batch-output`` is of its output.
        activation: ``relu``, ``triangle`` or a module class.
        dropout: share of a block's activations that are set to 0 while training.
        schedule: which blocks learn together at which step.
        negatives: wrong labels of negatives, ``uniform`` or ``hard`` (those that the network believes in,
            which costs a prediction of every image).
        superclasses: levels of coarse targets, coarsest first, each with the superclass of every class
            (:func:`trifecta.losses.combined.coarsened`); empty for classes throughout.
        finds_superclasses: whether training finds them in its images if none are given
            (:func:`trifecta.training.trainer.find_superclasses`).
        readout: blocks whose scores predict: ``last``, ``all``, ``all-but-first`` or numbers ``2,3``.
        optimizer: its settings, and which weights share a state.

    Raises:
        ValueError: a name that no table has, or choices that contradict each other.
    """

    name: str
    objective: Objective
    label_input: str | type[nn.Module] = NONE
    normalization: str | Callable[[NormSite], nn.Module] = "batch"
    activation: str | Callable[[], nn.Module] = "relu"
    dropout: float = 0.0
    schedule: Schedule = LAYER_WISE
    negatives: str = "uniform"
    superclasses: Levels = ()
    finds_superclasses: bool = False
    readout: str = "last"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Validate every choice, and that they do not contradict each other."""
        loss = self.objective
        if isinstance(loss, str | type):
            raise ValueError(f"an objective is an object such as CrossEntropy(): received {loss!r}")
        lookup(dict.fromkeys(READS), loss.reads, "reads of an objective")
        lookup(dict.fromkeys(NEGATIVES), self.negatives, "negatives")
        check_part(INPUTS, self.label_input, "label input")
        check_part(NORMALIZATIONS, self.normalization, "normalization")
        check_part(ACTIVATIONS, self.activation, "activation")
        object.__setattr__(self, "superclasses", tuple(tuple(level) for level in self.superclasses))
        kinds = loss.pairs, loss.scores_classes
        received = f"received loss {getattr(loss, 'kind', type(loss).__name__)}"
        enters = f"label input {name_of(self.label_input)}"
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share, 0 or more and below 1: received {self.dropout}")
        if self.schedule.deep_supervision and self.optimizer.ownership == "objective":
            raise ValueError("a loss at every block needs optimizer ownership weight: received objective")
        if self.negatives == "hard" and not self.tries_labels:
            raise ValueError(f"negatives hard are wrong labels, and none enters: received {enters}")
        is_coarse = bool(self.superclasses) or self.finds_superclasses
        if is_coarse and (loss.uses_feedback or loss.pairs or not loss.scores_classes):
            raise ValueError(f"superclasses need a loss that scores classes from a block alone: {received}")
        makes_pairs = self.tries_labels or self._enters_as(ImagePairs)
        if kinds != (makes_pairs, not self.tries_labels):
            raise ValueError(
                "a loss over pairs needs labels at the input, or pairs of images and a read-out; any other "
                f"loss needs none there: {received} (pairs={kinds[0]}, scores_classes={kinds[1]}) with "
                f"{enters}, which needs pairs={makes_pairs}, scores_classes={not self.tries_labels}: "
                "change one of them"
            )

    @staticmethod
    def require(method: object) -> None:
        """Raise a ValueError if an object is no method, such as the name of one."""
        if not isinstance(method, Method):
            raise ValueError(f"method is a Method: received {method!r:.80}; get_method(name) makes one")

    def input_shape(self, sample_shape: SampleShape, num_classes: int) -> SampleShape:
        """Return the first block's input shape for samples (C, …): a label may add channels."""
        kind = self.input_class
        if kind is None or not issubclass(kind, LabelInput):
            return tuple(sample_shape)
        return kind.input_shape(sample_shape, num_classes)

    def block_style(self, num_classes: int) -> BlockStyle:
        """Return the settings that all blocks of a network for K classes share."""
        return BlockStyle(
            normalization=self.normalization,
            activation=self.activation,
            dropout=self.dropout,
            num_classes=num_classes,
        )

    def head(self, site: Site) -> Head:
        """Return the head of a block; raise a ValueError for superclasses of another number of classes."""
        return coarsened(build_head(self.objective, site), site, self.superclasses)

    def at_positions(self) -> "Method":
        """Return the method for labels at every position of a sample, such as the next token."""
        if self.objective.per_position:
            return self
        if not hasattr(self.objective, "at_positions"):
            raise ValueError(
                f"method {self.name} learns one label a sample: received one at every position; use "
                "superfecta, mono-forward, deep-supervision or backprop"
            )
        return replace(self, objective=self.objective.at_positions())

    @property
    def input_class(self) -> type[nn.Module] | None:
        """The class of the label input or of the image pairs; None without either."""
        return part_of(INPUTS, self.label_input, "label input")

    @property
    def tries_labels(self) -> bool:
        """Whether a prediction passes the image once with every label."""
        return self._enters_as(LabelInput)

    @property
    def pipelines(self) -> bool:
        """Whether a step can begin before the previous one is done, as far as the method goes."""
        return self.schedule.size > 0 and not self.steered_by_later_blocks

    @property
    def steered_by_later_blocks(self) -> bool:
        """Whether the network's prediction changes what a block learns, without any gradient."""
        return self.objective.uses_feedback or self.negatives == "hard"

    @property
    def locality(self) -> str:
        """The kind of signal that crosses a block: the schedule's, or ``feedback`` for a prediction."""
        is_steered = self.steered_by_later_blocks and self.schedule.size > 0
        return "feedback" if is_steered else self.schedule.locality

    def _enters_as(self, base: type[nn.Module]) -> bool:
        return self.input_class is not None and issubclass(self.input_class, base)
