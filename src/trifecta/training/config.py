"""Everything that decides a run, as plain data, and its YAML."""

import math
import operator
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, cast, get_args, get_origin

import cattrs
import torch

from trifecta._utils import files as checksums
from trifecta._utils.checks import require_finite
from trifecta._utils.devices import PRECISIONS
from trifecta._utils.files import read_yaml
from trifecta._utils.references import Imports, check_part, is_reference, lookup, reference_of
from trifecta.data import AUGMENTATIONS, Augmentation, DataConfig
from trifecta.losses import OBJECTIVES, TERMS, Objective, Term
from trifecta.method import Method
from trifecta.methods import get_method, superfecta
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.readout import CHOSEN

# A network or data set that was handed over in Python has no name that could be saved.
GIVEN = "given"
ON_NAN = ("stop", "skip")
KEEP = ("best", "last")
STATISTICS = ("estimated", "running")
BALANCED = "balanced"
# A number a class, in order or by name.
ClassWeights = str | tuple[float, ...] | Mapping[str, float] | None
Part = TypeVar("Part")

if TYPE_CHECKING:

    class Named(Generic[Part]):
        """A field that is given as a part or by its name, and read as the part."""

        def __get__(self, instance: object, owner: Any = None) -> Part: ...

        def __set__(self, instance: object, value: Part | str) -> None: ...

else:

    class Named:
        """The type of the part itself, which is what reading a file needs."""

        def __class_getitem__(cls, part: Any) -> Any:
            return part


# How runs behaved before these were settings, whose defaults are others.
_BEFORE_THEY_WERE_SETTINGS = {"keep": "last", "statistics": "running"}
_DECLARED: dict[str, type[Any]] = {**OBJECTIVES, **TERMS}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Vary it with ``dataclasses.replace``.

    Attributes:
        data: where the images come from and how they are split, or the source alone; None for data handed
            to :func:`train`.
        method: the choices on every axis of local learning, or a name as in ``trifecta list``.
        network: name of the blocks, as in ``trifecta list``, a builder of your own, or ``given`` for blocks
            handed to :func:`train`.
        width: multiplies the network's channels.
        channels: of each block, in place of ``width``'s; of a network that was shrunk.
        epochs: passes over the training split.
        batch_size: images a step; pairs pass twice as many samples.
        augmentation: random changes to training images, or a name as in ``trifecta list``.
        class_weights: what training samples of each class weigh in every loss, as in PyTorch's
            ``cross_entropy``: numbers in class order, or by name (1 for the others), or ``balanced``, which
            is inversely to how many there are; None for the same.
        seed: of the weights, the order of the images, augmentation and wrong labels; 0 … 2**63 − 1.
        device: ``auto`` (CUDA where there is one), or any name that PyTorch knows.
        precision: ``fp32``, ``bf16`` or ``auto``, the faster of the two on the run's device.
        on_nan: what to do where a loss or gradient is not finite: ``stop``, or ``skip`` the update.
        keep: the weights that the run ends with: ``best``, those of the epoch with the highest validation
            accuracy, of equals the latest; or ``last``, as without validation images.
        statistics: of batch normalisations in predictions: ``estimated`` on training images as long as
            running averages lag, in the first 80 steps; or always the ``running`` averages.
        compiled: whether to compile blocks and losses by ``torch.compile``, which takes half a minute at
            the start and pays in long runs on a GPU.
        pipeline: how many blocks learn at the same time on a CPU, see :class:`trifecta.Pipeline`.
        recipe: the recipe that this started from, if any; a note, nothing follows from it.
        budget: the recipe's size, likewise.

    Raises:
        ValueError: a value that no run can use.
    """

    data: Named[DataConfig | None] = field(default=cast(Any, None))
    method: Named[Method] = field(default_factory=cast(Any, superfecta))
    network: str | NetworkBuilder = "small"
    width: float = 1.0
    channels: tuple[int, ...] = ()
    epochs: int = 10
    batch_size: int = 128
    augmentation: Named[Augmentation] = field(default_factory=cast(Any, Augmentation))
    class_weights: ClassWeights = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    on_nan: str = "stop"
    keep: str = "best"
    statistics: str = "estimated"
    compiled: bool = False
    pipeline: int = 1
    recipe: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        """Reject what no run can use, before anything is loaded."""
        self._take_names()
        require_finite(self)
        for name in ("device", "precision", "on_nan"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a name: received {getattr(self, name)!r:.80}")
        if self.network != GIVEN:
            check_part(NETWORKS, self.network, "network")
        lookup(dict.fromkeys(PRECISIONS), self.precision, "precision")
        lookup(dict.fromkeys(ON_NAN), self.on_nan, "choice of on_nan")
        lookup(dict.fromkeys(KEEP), self.keep, "choice of keep")
        lookup(dict.fromkeys(STATISTICS), self.statistics, "choice of statistics")
        for name, least in (("epochs", 1), ("batch_size", 1), ("pipeline", 1), ("seed", 0)):
            object.__setattr__(self, name, _whole(name, getattr(self, name), least))
        if not isinstance(self.compiled, bool):
            raise ValueError(f"compiled is True or False: received {self.compiled!r:.80}")
        if isinstance(self.width, bool) or not isinstance(self.width, Real) or not self.width > 0:
            raise ValueError(f"width is a number above 0: received {self.width!r:.80}")
        if self.method.readout == CHOSEN and self.data is not None and not self.data.validation:
            raise ValueError(
                "a read-out is chosen on validation images: received method.readout=chosen with "
                "data.validation=0; give data.validation=0.1, or name the blocks"
            )
        if isinstance(self.channels, str) or not isinstance(self.channels, Iterable):
            raise ValueError(f"channels are whole numbers, 1 or more: received {self.channels!r:.80}")
        channels = tuple(_whole("a number of channels", count, 1) for count in self.channels)
        object.__setattr__(self, "channels", channels)
        object.__setattr__(self, "class_weights", _checked_weights(self.class_weights))

    def _take_names(self) -> None:
        """Put what a name stands for in its place, and check the kinds of parts."""
        if isinstance(self.method, str):
            object.__setattr__(self, "method", get_method(self.method))
        if isinstance(self.augmentation, str):
            named = lookup(AUGMENTATIONS, self.augmentation, "augmentation")
            object.__setattr__(self, "augmentation", named)
        if isinstance(self.data, str | Path):
            object.__setattr__(self, "data", DataConfig(source=str(self.data)))
        if isinstance(self.device, torch.device):
            object.__setattr__(self, "device", str(self.device))
        kinds = {"method": Method, "augmentation": Augmentation, "data": DataConfig}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "data" and value is None):
                article = "an" if kind is Augmentation else "a"
                raise ValueError(f"{name} is a name or {article} {kind.__name__}: received {value!r:.80}")


def _whole(name: str, value: Any, least: int) -> int:
    """Return a whole number of any kind as Python's, if it is ``least`` or more and has 63 bits."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number < 2**63:
        most = "" if number < least else " and below 2**63"
        raise ValueError(f"{name} is a whole number, {least} or more{most}: received {value!r:.80}")
    return number


def _checked_weights(weights: Any) -> ClassWeights:
    """Return weights of classes as plain values.

    Raises:
        ValueError: they are no numbers above 0, or another name than ``balanced``.
    """
    if weights is None or (isinstance(weights, str) and weights == BALANCED):
        return weights
    try:
        named = (
            {str(name): float(value) for name, value in weights.items()}
            if isinstance(weights, Mapping)
            else None
        )
        ordered = () if named is not None or isinstance(weights, str) else tuple(map(float, weights))
    except (TypeError, ValueError):
        named, ordered = None, ()
    values = ordered if named is None else named.values()
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError(
            f"class_weights are numbers above 0 by class, {BALANCED} or None: received {weights!r:.80}"
        )
    return ordered if named is None else named


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
    is_whole = checksums.is_whole_text(text)
    if is_whole is False:
        warnings.warn(
            f"{path} was changed after a run wrote it, or is damaged: it is taken as it is", stacklevel=2
        )
    for added in ("dataset", "resolved"):
        plain.pop(added, None)
    config = written_config(plain, imports=imports)
    # A file that was cut short would train another run.
    missing = sorted(_names(to_plain(config)) - _names(_BEFORE_THEY_WERE_SETTINGS | plain))
    if missing and not is_whole:
        raise ValueError(
            f"{path} is not whole, {missing[0]} is missing: it was cut short, or written by "
            "hand; all settings are in trifecta list --settings"
        )
    return config


def written_config(plain: Mapping[str, Any], *, imports: Iterable[str | ModuleType] = ()) -> RunConfig:
    """Return the settings of a file that a run wrote, of this version or one with fewer settings.

    Raises:
        ValueError: as :func:`from_plain`.
    """
    return from_plain(_BEFORE_THEY_WERE_SETTINGS | dict(plain), imports=imports)


def _names(plain: Any, prefix: str = "") -> set[str]:
    """Name every setting in nested mappings, but those that are None: what is off may be missing."""
    if not isinstance(plain, dict):
        return {prefix}
    names = {prefix} if prefix else set()
    return names.union(
        *(
            _names(value, f"{prefix}.{key}" if prefix else key)
            for key, value in plain.items()
            if value is not None
        )
    )


@cache
def _writer() -> cattrs.Converter:
    """Return a converter for writing, where no module matters."""
    return _converter(Imports())


def _converter(imports: Imports) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    _register_declared(converter, Objective, OBJECTIVES, imports)
    _register_declared(converter, Term, TERMS, imports)
    # They are checked by the configuration.
    converter.register_structure_hook_func(lambda kind: kind == ClassWeights, lambda value, _: value)
    converter.register_unstructure_hook_func(_is_named_part, _part_as_text)
    converter.register_structure_hook_func(_is_named_part, lambda text, _: _named_part(text, imports))
    return converter


def _register_declared(
    converter: cattrs.Converter, protocol: Any, table: Mapping[str, type], imports: Imports
) -> None:
    """Save a dataclass that fulfils ``protocol`` under its ``kind``: a name in the table, or a place."""
    names = {kind: name for name, kind in _DECLARED.items()}

    def unstructure(part: Any) -> dict[str, Any]:
        if not is_dataclass(part):
            raise ValueError(
                f"a part is saved with its settings: {type(part).__qualname__} is no dataclass; "
                "write @dataclass(frozen=True, kw_only=True) above its class"
            )
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
