"""A method: one choice on every axis of local learning."""

from dataclasses import dataclass, field

from trifecta.blocks import NORMALIZATIONS
from trifecta.heads import Head, Objective
from trifecta.heads.coarse import CoarseHead, check_superclasses
from trifecta.heads.head import FeatureShape
from trifecta.image_pairs import IMAGE_PAIRS
from trifecta.labels import EXTRA_CHANNELS, LABEL_INPUTS, ImageShape
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
        normalization: at the input of every block: ``batch``, ``running``, ``layer``, ``length`` or
            ``none``.
        schedule: which blocks learn together at which step.
        negatives: which wrong label a negative carries, ``uniform`` or ``hard`` (what the network believes
            in; finding that out costs a prediction of every image).
        superclasses: of every class, numbered from 0: the first half of the blocks learns to tell these
            apart, the second half the classes (coarse-to-fine targets); empty for classes throughout.
        readout: whose scores predict: ``last``, ``all``, ``all-but-first`` or block numbers ``2,3``.
        optimizer: its settings, and which weights share a state.
    """

    name: str
    label_input: str
    objective: Objective
    normalization: str
    schedule: Schedule
    negatives: str = "uniform"
    superclasses: tuple[int, ...] = ()
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
        object.__setattr__(self, "superclasses", tuple(self.superclasses))
        if self.superclasses and (self.objective.feeds_back or not self.objective.scores_classes):
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

    def head(self, block: int, num_blocks: int, feature_shape: FeatureShape, num_classes: int) -> Head:
        """The head on ``block`` of so many, whose output is (N, *feature_shape).

        Raises:
            ValueError: superclasses that do not fit the number of classes.
        """
        if not self.superclasses:
            return self.objective.head(feature_shape, num_classes)
        count = check_superclasses(self.superclasses, num_classes)
        if block >= num_blocks // 2:
            return self.objective.head(feature_shape, num_classes)
        return CoarseHead(self.objective.head(feature_shape, count), self.superclasses)

    @property
    def tries_labels(self) -> bool:
        """Whether a prediction passes the image once with every label."""
        return self.label_input in LABEL_INPUTS

    @property
    def pipelines(self) -> bool:
        """Whether a step can begin before the one ahead of it is done, as far as the method goes."""
        return not (self.schedule.size == 0 or self.objective.feeds_back or self.negatives == "hard")

    @property
    def locality(self) -> str:
        """What crosses a block: as its schedule says, or ``feedback`` where the network's error does."""
        return "feedback" if self.objective.feeds_back else self.schedule.locality

    def _expected(self) -> tuple[bool, bool]:
        """Whether the loss must compare pairs, and whether it must score classes."""
        if self.tries_labels:
            return True, False
        return self.label_input in IMAGE_PAIRS, True
