"""Facts about its data that a trained network needs to be used without it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from trifecta._utils.checks import require_finite
from trifecta.data import ImageData
from trifecta.nn.shapes import ImageShape, SampleShape

_KINDS: dict[str, tuple[type, ...]] = {
    "sample_shape": (int,),
    "classes": (str,),
    "mean": (float, int),
    "std": (float, int),
    "grey_range": (int,),
}


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Facts about its data that a trained network needs to be used without it.

    Attributes:
        sample_shape: of one sample, (C, H, W) of images.
        classes: names, in label order.
        mean: per channel of the training split, of pixels in 0 … 1.
        std: likewise; both are empty where samples are taken as they are.
        integer: whether samples are integer tokens.
        grey_range: the greys of 16-bit training images that became 0 and 255; empty where they had 8 bits.
        rows: stands for the rows of the source's training split; empty where it is not known.

    Raises:
        ValueError: values that no data set has.
    """

    sample_shape: SampleShape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    integer: bool = False
    grey_range: tuple[int, ...] = ()
    rows: str = ""

    def __post_init__(self) -> None:
        """Reject what cannot be: a file may hold anything."""
        require_finite(self)
        if not self.sample_shape or min(self.sample_shape) < 1:
            raise ValueError(f"sample_shape has numbers of 1 or more: received {self.sample_shape}")
        if not self.classes:
            raise ValueError("classes are one name or more: received none")
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ValueError("mean and std have as many values, and those of std are above 0")
        if self.grey_range and (
            len(self.grey_range) != 2 or not 0 <= self.grey_range[0] <= self.grey_range[1]
        ):
            raise ValueError(f"grey_range is a low and a higher number: received {self.grey_range}")
        if self.mean and len(self.mean) != self.sample_shape[0]:
            raise ValueError(
                f"mean has a value a channel, {self.sample_shape[0]}: received {len(self.mean)}"
            )

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W), for what reads image files.

        Raises:
            ValueError: the network was trained on something else.
        """
        if len(self.sample_shape) != 3 or self.integer:
            raise ValueError(
                f"this run was trained on samples of shape {self.sample_shape}, not on image files: "
                "predict in Python, trifecta.load(RUN).predict(samples)"
            )
        channels, height, width = self.sample_shape
        return channels, height, width

    @classmethod
    def of(cls, data: ImageData) -> "DatasetFacts":
        """The facts about ``data``."""
        return cls(
            sample_shape=data.sample_shape,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            integer=data.test.images.dtype == torch.int64,
            grey_range=data.grey_range or (),
            rows=data.rows,
        )

    @classmethod
    def from_plain(cls, plain: Any) -> "DatasetFacts":
        """Invert :meth:`to_plain`.

        Raises:
            ValueError: something else, or a value that no data set has.
        """
        names = {field.name for field in fields(cls)}
        # What runs from before these two were noted lack.
        if isinstance(plain, Mapping):
            plain = {"grey_range": [], "rows": "", **plain}
        if not isinstance(plain, Mapping) or set(plain) != names:
            raise ValueError(f"the facts about its data are {', '.join(sorted(names))}")
        for name, kinds in _KINDS.items():
            if not isinstance(plain[name], list) or any(type(value) not in kinds for value in plain[name]):
                raise ValueError(f"{name} is a list of {kinds[0].__name__}: received {plain[name]!r:.80}")
        if not isinstance(plain["rows"], str):
            raise ValueError(f"rows is a text: received {plain['rows']!r:.80}")
        lists = {name: tuple(plain[name]) for name in _KINDS}
        return cls(**lists, integer=plain["integer"] is True, rows=plain["rows"])

    def to_plain(self) -> dict[str, Any]:
        """Return the facts as lists, text and numbers."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
