"""Everything that decides a run, as plain data, and its YAML."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs
import yaml
from cattrs.strategies import configure_tagged_union

from trifecta.data import Augmentation, DataConfig
from trifecta.heads import Objective, PairObjective, ScoringObjective, Term
from trifecta.methods import Method, trifecta
from trifecta.names import lookup
from trifecta.networks import NETWORKS
from trifecta.precision import PRECISIONS
from trifecta.readout import CHOSEN


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Vary it with ``dataclasses.replace``.

    Attributes:
        data: where the images come from and how they are split.
        method: the choices on every axis of local learning.
        network: name of the blocks, as in ``trifecta list``.
        width: multiplies the network's channels.
        epochs: passes over the training split.
        batch_size: images a step; pairs pass twice as many samples.
        augmentation: random changes to training images.
        seed: of the weights, the order of the images, augmentation and wrong labels.
        device: ``auto`` (CUDA where there is one), or any name that PyTorch knows.
        precision: ``fp32``, ``bf16`` or ``auto``, the faster of the two on the run's device.
        recompute: see :class:`trifecta.learner.Learner`.
        compile: see :class:`trifecta.learner.Learner`.
        pipeline: how many blocks learn at the same time on a CPU, see :class:`trifecta.pipeline.Pipeline`.
        recipe: the recipe that this started from, if any; a note, nothing follows from it.
        budget: the recipe's size, likewise.
    """

    data: DataConfig
    method: Method = field(default_factory=trifecta)
    network: str = "small"
    width: float = 1.0
    epochs: int = 10
    batch_size: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    recompute: bool = False
    compile: bool = False
    pipeline: int = 1
    recipe: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        """Reject what no run can use, before anything is loaded."""
        lookup(NETWORKS, self.network, "network")
        lookup(dict.fromkeys(PRECISIONS), self.precision, "precision")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                "--epochs and --batch-size must be at least 1: received "
                f"{self.epochs} and {self.batch_size}"
            )
        if self.pipeline < 1:
            raise ValueError(f"--pipeline is a number of threads, 1 or more: received {self.pipeline}")
        if not (self.width > 0 and math.isfinite(self.width)):
            raise ValueError(f"--width must be above 0: received {self.width}")
        if self.method.readout == CHOSEN and not self.data.validation:
            raise ValueError(
                "a read-out is chosen on validation images: received --readout chosen with --validation 0; "
                "give --validation 0.1, or name the blocks"
            )
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative: received {self.seed}")


def to_plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as dictionaries, lists, strings and numbers."""
    plain: dict[str, Any] = _converter().unstructure(config)
    return plain


def from_plain(plain: Mapping[str, Any]) -> RunConfig:
    """The inverse of :func:`to_plain`.

    Raises:
        ValueError: a key that no setting has, or a value of the wrong type.
    """
    try:
        return _converter().structure(plain, RunConfig)
    except cattrs.BaseValidationError as error:
        raise ValueError(f"not a run's settings: {'; '.join(cattrs.transform_error(error))}") from None


def read_config(path: Path) -> RunConfig:
    """Read the settings of a ``config.yaml``, with or without what a run has added to them.

    Raises:
        ValueError: the file is missing or does not hold a run's settings.
    """
    plain = read_yaml(path)
    for added in ("dataset", "resolved"):
        plain.pop(added, None)
    return from_plain(plain)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ValueError: no such file, or something else in it.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read settings from {path}: {_first_line(error)}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"cannot read settings from {path}: expected `name: value` lines")
    return plain


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for union in (PairObjective, Term, ScoringObjective, Objective):
        configure_tagged_union(
            union, converter, tag_name="kind", tag_generator=lambda kind: str(vars(kind)["kind"])
        )
    return converter
