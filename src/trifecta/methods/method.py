"""A method: one choice on every axis of local learning."""

from dataclasses import dataclass, field

from trifecta.blocks import ACTIVATIONS, BlockStyle
from trifecta.heads import Head, Objective
from trifecta.heads.coarse import Levels, check_superclasses, coarsened, superclasses_of
from trifecta.heads.head import FeatureShape, at_block
from trifecta.image_pairs import IMAGE_PAIRS
from trifecta.labels import EXTRA_CHANNELS, LABEL_INPUTS, ImageShape
from trifecta.norms import NORMALIZATIONS
from trifecta.optimizers import OptimizerConfig
from trifecta.schedules import Schedule

NONE = "none"
NEGATIVES = ("uniform", "hard")
INPUTS = (*LABEL_INPUTS, NONE, *IMAGE_PAIRS)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Where the graph is cut and what each piece optimises. Vary it with ``dataclasses.replace``.

    Attributes:
        name: as in ``trifecta list``.
        label_input: how a label enters (``channel``, ``pattern``, ``overlay``), or that it does not:
            ``none``, or pairs made of images alone (``other-image``, ``masked-mix``).
        objective: the local loss; says whether it compares pairs, whether it scores classes, and whether
            it needs the network's error.
        normalization: of every block: ``batch``, ``running``, ``layer`` (a gain per channel),
            ``layer-elementwise`` (a gain per element), ``class-groups``, ``length`` or ``none`` at its
            input, or ``batch-output``.
        activation: ``relu`` or ``triangle``.
        dropout: the share of a block's activations that are set to 0 while training.
        schedule: which blocks learn together at which step.
        negatives: which wrong label a negative carries, ``uniform`` or ``hard`` (what the network believes
            in; finding that out costs a prediction of every image).
        superclasses: levels of coarse targets, coarsest first, each with the superclass of every class,
            numbered from 0. The levels and then the classes share the blocks equally
            (:func:`trifecta.heads.coarse.superclasses_of`); empty for classes throughout.
        finds_superclasses: whether training begins by finding them in its images, where none are given
            (:func:`trifecta.superclasses.find_superclasses`).
        readout: whose scores predict: ``last``, ``all``, ``all-but-first`` or block numbers ``2,3``.
        optimizer: its settings, and which weights share a state.
    """

    name: str
    label_input: str
    objective: Objective
    normalization: str
    schedule: Schedule
    activation: str = "relu"
    dropout: float = 0.0
    negatives: str = "uniform"
    superclasses: Levels = ()
    finds_superclasses: bool = False
    readout: str = "last"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Reject choices that contradict each other."""
        if self.label_input not in INPUTS:
            raise ValueError(f"a label enters by {', '.join(INPUTS)}: received '{self.label_input}'")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalisation is {', '.join(NORMALIZATIONS)}: received '{self.normalization}'"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"an activation is {' or '.join(ACTIVATIONS)}: received '{self.activation}'")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share, 0 or more and below 1: received {self.dropout}")
        if self.schedule.every_block and self.optimizer.ownership == "objective":
            raise ValueError(
                "a window with a loss at every block has one gradient for all of them: received "
                "--ownership objective; use --ownership weight"
            )
        if self.negatives not in NEGATIVES:
            raise ValueError(f"negatives are {' or '.join(NEGATIVES)}: received '{self.negatives}'")
        if self.negatives == "hard" and not self.tries_labels:
            raise ValueError(
                f"hard negatives are wrong labels: received --negatives hard with label input "
                f"{self.label_input}, where no label enters; drop --negatives"
            )
        object.__setattr__(self, "superclasses", tuple(tuple(level) for level in self.superclasses))
        if (self.superclasses or self.finds_superclasses) and (
            self.objective.feeds_back or self.objective.pairs or not self.objective.scores_classes
        ):
            raise ValueError(
                "superclasses need a loss that scores classes from a block alone: received --superclasses "
                f"with loss {self.objective.kind}; drop --superclasses"
            )
        if (self.objective.pairs, self.objective.scores_classes) != self._expected():
            raise ValueError(
                "a loss over pairs needs labels at the input, or pairs of images and a read-out; "
                f"any other loss needs none there: received loss {self.objective.kind} with label input "
                f"{self.label_input}; change --loss or --label-input"
            )

    def input_shape(self, image_shape: ImageShape) -> ImageShape:
        """What the first block receives for images (C, H, W): the label may add a channel."""
        channels, height, width = image_shape
        return channels + EXTRA_CHANNELS.get(self.label_input, 0), height, width

    def block_style(self, num_classes: int) -> BlockStyle:
        """What all blocks of a network for K classes have in common."""
        return BlockStyle(
            normalization=self.normalization,
            activation=self.activation,
            dropout=self.dropout,
            num_classes=num_classes,
        )

    def head(self, block: int, num_blocks: int, feature_shape: FeatureShape, num_classes: int) -> Head:
        """The head on ``block`` of so many, which reads features (N, *feature_shape).

        Raises:
            ValueError: superclasses that do not fit the number of classes.
        """
        check_superclasses(self.superclasses, num_classes)
        head: Head = at_block(self.objective, block).head(feature_shape, num_classes)
        coarse = superclasses_of(block, num_blocks, self.superclasses)
        return head if coarse is None else coarsened(head, coarse)

    @property
    def tries_labels(self) -> bool:
        """Whether a prediction passes the image once with every label."""
        return self.label_input in LABEL_INPUTS

    @property
    def pipelines(self) -> bool:
        """Whether a step can begin before the one ahead of it is done, as far as the method goes."""
        return not (self.schedule.size == 0 or self.steered_by_later_blocks)

    @property
    def steered_by_later_blocks(self) -> bool:
        """Whether the network's own prediction decides what a block learns, without any gradient."""
        return self.objective.feeds_back or self.negatives == "hard"

    @property
    def locality(self) -> str:
        """What crosses a block: as its schedule says, or ``feedback`` where a prediction does."""
        if self.steered_by_later_blocks and self.schedule.size:
            return "feedback"
        return self.schedule.locality

    def _expected(self) -> tuple[bool, bool]:
        """Whether the loss must compare pairs, and whether it must score classes."""
        if self.tries_labels:
            return True, False
        return self.label_input in IMAGE_PAIRS, True
