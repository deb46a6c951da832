"""A method: one choice on every axis of local learning."""

from dataclasses import dataclass, field

from trifecta.blocks import NORMALIZATIONS
from trifecta.heads import Objective
from trifecta.labels import EXTRA_CHANNELS, ImageShape
from trifecta.optimizers import OptimizerConfig
from trifecta.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Method:
    """Where the graph is cut and what each piece optimises. Vary it with ``dataclasses.replace``.

    Attributes:
        name: as in ``trifecta list``.
        label_input: how a label enters: ``channel``, ``pattern``, ``overlay`` or ``none``.
        objective: the local loss; says whether it compares pairs of true and wrong labels.
        normalization: at the input of every block: ``batch``, ``running``, ``layer``, ``length`` or
            ``none``.
        schedule: which blocks learn together at which step.
        readout: whose scores predict: ``last``, ``all``, ``all-but-first`` or block numbers ``2,3``.
        optimizer: its settings, and which weights share a state.
    """

    name: str
    label_input: str
    objective: Objective
    normalization: str
    schedule: Schedule
    readout: str = "last"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Reject choices that contradict each other."""
        if self.label_input not in EXTRA_CHANNELS:
            raise ValueError(
                f"a label enters by {', '.join(EXTRA_CHANNELS)}: received '{self.label_input}'"
            )
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalisation is {', '.join(NORMALIZATIONS)}: received '{self.normalization}'"
            )
        if self.schedule.every_block and self.optimizer.ownership == "objective":
            raise ValueError(
                "a window with a loss at every block has one gradient for all of them: received "
                "--ownership objective; use --ownership weight"
            )
        if self.objective.pairs != (self.label_input != "none"):
            raise ValueError(
                "a loss over pairs needs labels at the input, any other loss needs none there: "
                f"received loss {self.objective.kind} with label input {self.label_input}; "
                "change --loss or --label-input"
            )

    def input_shape(self, image_shape: ImageShape) -> ImageShape:
        """What the first block receives for images (C, H, W): the label may add a channel."""
        channels, height, width = image_shape
        return channels + EXTRA_CHANNELS[self.label_input], height, width
