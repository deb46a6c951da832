"""Everything that decides a run, as plain data, and its YAML."""

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin

import cattrs

from trifecta._utils import checksums
from trifecta._utils.checks import require_finite
from trifecta._utils.names import lookup
from trifecta._utils.precision import PRECISIONS
from trifecta._utils.references import Imports, check_part, is_reference, reference_of
from trifecta._utils.yaml_files import read_yaml
from trifecta.data import Augmentation, DataConfig
from trifecta.losses import OBJECTIVES, TERMS, Objective, Term
from trifecta.method import Method
from trifecta.methods import superfecta
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.readout import CHOSEN

# A network or data set that was handed over in Python has no name that could be saved.
GIVEN = "given"
ON_NAN = ("stop", "skip")
_DECLARED: dict[str, type[Any]] = {**OBJECTIVES, **TERMS}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Vary it with ``dataclasses.replace``.

    Attributes:
        data: where the images come from and how they are split; None for data handed to :func:`train`.
        method: the choices on every axis of local learning.
        network: name of the blocks, as in ``trifecta list``, a builder of your own, or ``given`` for blocks
            handed to :func:`train`.
        width: multiplies the network's channels.
        channels: of each block, in place of ``width``'s; of a network that was shrunk.
        epochs: passes over the training split.
        batch_size: images a step; pairs pass twice as many samples.
        augmentation: random changes to training images.
        seed: of the weights, the order of the images, augmentation and wrong labels.
        device: ``auto`` (CUDA where there is one), or any name that PyTorch knows.
        precision: ``fp32``, ``bf16`` or ``auto``, the faster of the two on the run's device.
        on_nan: what to do where a loss or gradient is not finite: ``stop``, or ``skip`` the update.
        compiled: whether to compile blocks and losses by ``torch.compile``, which takes half a minute at
            the start and pays in long runs on a GPU.
        pipeline: how many blocks learn at the same time on a CPU, see :class:`trifecta.Pipeline`.
        recipe: the recipe that this started from, if any; a note, nothing follows from it.
        budget: the recipe's size, likewise.

    Raises:
        ValueError: a value that no run can use.
    """

    data: DataConfig | None = None
    method: Method = field(default_factory=superfecta)
    network: str | NetworkBuilder = "small"
    width: float = 1.0
    channels: tuple[int, ...] = ()
    epochs: int = 10
    batch_size: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    on_nan: str = "stop"
    compiled: bool = False
    pipeline: int = 1
    recipe: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        """Reject what no run can use, before anything is loaded."""
        require_finite(self)
        if self.network != GIVEN:
            check_part(NETWORKS, self.network, "network")
        lookup(dict.fromkeys(PRECISIONS), self.precision, "precision")
        lookup(dict.fromkeys(ON_NAN), self.on_nan, "choice of on_nan")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                "--epochs and --batch-size must be at least 1: received "
                f"{self.epochs} and {self.batch_size}"
            )
        if self.pipeline < 1:
            raise ValueError(f"pipeline is a number of threads, 1 or more: received {self.pipeline}")
        if not (self.width > 0 and math.isfinite(self.width)):
            raise ValueError(f"--width must be above 0: received {self.width}")
        if self.method.readout == CHOSEN and self.data is not None and not self.data.validation:
            raise ValueError(
                "a read-out is chosen on validation images: received readout chosen with --validation 0; "
                "give --validation 0.1, or name the blocks"
            )
        object.__setattr__(self, "channels", tuple(self.channels))
        if any(count < 1 for count in self.channels):
            raise ValueError(f"channels are whole numbers, 1 or more: received {self.channels}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative: received {self.seed}")


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as dictionaries, lists, strings and numbers.

    Raises:
        ValueError: a part of your own that cannot be found again by its name.
    """
    plain: dict[str, Any] = _writer().unstructure(config)
    return plain


def from_plain(plain: Mapping[str, Any], *, imports: Iterable[str | ModuleType] = ()) -> RunConfig:
    """Invert :func:`to_plain`.

    Args:
        plain: what it returned.
        imports: modules of your own whose parts the settings may name.

    Raises:
        ValueError: a key that no setting has, a value of the wrong type, or a part from another module.
    """
    allowed = tuple(imports)
    converter = _converter(Imports(allowed)) if allowed else _writer()
    try:
        return converter.structure(plain, RunConfig)
    except cattrs.BaseValidationError as error:
        found = cattrs.transform_error(error, format_exception=_complaint)
        # ``@ $.method.optimizer`` is cattrs' spelling of a place.
        places = [re.sub(r" @ \$\.?(.*)$", r" (in \1)", text).removesuffix(" (in )") for text in found]
        raise ValueError(f"not a run's settings: {'; '.join(places)}") from None


def _complaint(error: BaseException, kind: type | None) -> str:
    """Describe what is wrong with a value: our own message where there is one."""
    if isinstance(error, ValueError) and str(error):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def default_part(name: str, *, imports: Iterable[str | ModuleType] = ()) -> dict[str, Any]:
    """Return the settings of an objective or a term, by its kind, at their defaults.

    Raises:
        ValueError: no such kind (names the nearest ones), or one from another module.
    """
    allowed = Imports(imports)
    kind = allowed.resolve(name) if is_reference(name) else lookup(_DECLARED, name, "kind")
    plain: dict[str, Any] = _converter(allowed).unstructure(kind(), unstructure_as=Objective)
    return plain


def read_config(path: Path, *, imports: Iterable[str | ModuleType] = ()) -> RunConfig:
    """Read the settings of a ``config.yaml``, with or without what a run has added to them.

    A file that was changed after a run wrote it is read with a warning.

    Raises:
        ValueError: the file is missing or does not hold a run's settings.
    """
    plain, text = read_yaml(path)
    if checksums.is_whole_text(text) is False:
        warnings.warn(
            f"{path} was changed after a run wrote it, or is damaged: it is taken as it is", stacklevel=2
        )
    for added in ("dataset", "resolved"):
        plain.pop(added, None)
    return whole_config(plain, path, imports=imports)


def whole_config(
    plain: Mapping[str, Any], path: Path, *, imports: Iterable[str | ModuleType] = ()
) -> RunConfig:
    """Return the settings of a file that has all of them: one that was cut short would train another run.

    Raises:
        ValueError: a setting is missing, or as :func:`from_plain`.
    """
    config = from_plain(plain, imports=imports)
    missing = sorted(_names(to_plain(config)) - _names(dict(plain)))
    if missing:
        raise ValueError(
            f"{path} is not whole, {missing[0]} is missing: it was cut short, or written by "
            "hand; all settings are in trifecta list --settings"
        )
    return config


def _names(plain: Any, prefix: str = "") -> set[str]:
    """Name every setting in nested mappings."""
    if not isinstance(plain, dict):
        return {prefix}
    names = {prefix} if prefix else set()
    return names.union(
        *(_names(value, f"{prefix}.{key}" if prefix else key) for key, value in plain.items())
    )


@cache
def _writer() -> cattrs.Converter:
    """Return a converter for writing, where no module matters."""
    return _converter(Imports())


def _converter(imports: Imports) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    _register_declared(converter, Objective, OBJECTIVES, imports)
    _register_declared(converter, Term, TERMS, imports)
    converter.register_unstructure_hook_func(_is_named_part, _part_as_text)
    converter.register_structure_hook_func(_is_named_part, lambda text, _: _named_part(text, imports))
    return converter


def _register_declared(
    converter: cattrs.Converter, protocol: Any, table: Mapping[str, type], imports: Imports
) -> None:
    """Save a dataclass that fulfils ``protocol`` under its ``kind``: a name in the table, or a place."""
    names = {kind: name for name, kind in _DECLARED.items()}

    def unstructure(part: Any) -> dict[str, Any]:
        kind = names.get(type(part)) or reference_of(type(part))
        return {"kind": kind, **converter.unstructure(part, unstructure_as=type(part))}

    def structure(plain: Any, _: object) -> Any:
        if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
            raise ValueError(f"a part is settings with a kind ({', '.join(table)}): received {plain!r}")
        name = plain["kind"]
        kind = imports.resolve(name) if is_reference(name) else lookup(table, name, "kind")
        return converter.structure({k: v for k, v in plain.items() if k != "kind"}, kind)

    converter.register_unstructure_hook_func(lambda kind: kind is protocol, unstructure)
    converter.register_structure_hook_func(lambda kind: kind is protocol, structure)


def _is_named_part(kind: Any) -> bool:
    """Whether a field holds a name in a table, or a class or function."""
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return len(choices) == 2 and str in choices and type(None) not in choices


def _part_as_text(part: Any) -> str:
    return part if isinstance(part, str) else reference_of(part)


def _named_part(text: Any, imports: Imports) -> Any:
    if not isinstance(text, str):
        raise ValueError(f"a part is a name, or module:name: received {text!r}")
    return imports.resolve(text) if is_reference(text) else text
