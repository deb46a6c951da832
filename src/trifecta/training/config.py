"""The settings of a run: plain data that decides everything, its YAML, and changes by path."""

import math
import operator
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache, wraps
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, cast, get_args, get_origin

import yaml

from trifecta._utils.devices import PRECISIONS
from trifecta._utils.references import Imports, UnknownName, check_part, lookup, nearest, reference_of
from trifecta.data import AUGMENTATIONS, Augmentation, DataConfig
from trifecta.losses import OBJECTIVES, RENAMED, TERMS, Objective, Term
from trifecta.method import Method
from trifecta.methods import get_method, superfecta
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.optim import OptimizerConfig
from trifecta.readout import CHOSEN
from trifecta.schedules import Schedule, parse_schedule

# A network or data set that was handed over in Python has no name that could be saved.
GIVEN = "given"
BALANCED = "balanced"
Imported = Iterable[str | ModuleType]
# Numbers in class order, or by class name.
ClassWeights = str | tuple[float, ...] | Mapping[str, float] | None
Part = TypeVar("Part")

if TYPE_CHECKING:

    class Named(Generic[Part]):
        """Type of a field that is given as a part or by its name, and read as the part."""

        def __get__(self, instance: object, owner: Any = None) -> Part: ...

        def __set__(self, instance: object, value: Part | str) -> None: ...

else:
    Named = Annotated[Part, "or its name"]

_CHOICES = {
    "precision": PRECISIONS,
    "on_nan": ("stop", "skip"),
    "keep": ("best", "last"),
    "statistics": ("estimated", "running"),
}
_LEAST = {"epochs": 1, "batch_size": 1, "pipeline": 1, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run; a value that no run can use is a ValueError. Vary it with ``dataclasses.replace``.

    Attributes:
        data: folder, Hub id or ``digits``; a :class:`DataConfig` for splits, columns and image size; None
            for data handed to :func:`train`.
        method: name of a method, see ``trifecta list``; or a :class:`Method`.
        network: name of a network, see ``trifecta list``; a builder of your own; or ``given`` for blocks
            handed to :func:`train`.
        width: factor on the network's channels.
        channels: of each block, in place of ``width``'s; of a network that was shrunk.
        epochs: passes over the training split.
        batch_size: samples per step; methods with pairs pass twice as many.
        augmentation: random changes to training images, by name, see ``trifecta list``; or an
            :class:`Augmentation`.
        class_weights: weight of each class in every loss, as in PyTorch's ``cross_entropy``: numbers in
            class order or by name (1 for the others), or ``balanced``, inversely to the number of samples.
        seed: seed of weights, order, augmentation and wrong labels. 0 … 2**63 − 1.
        device: ``cpu``, ``cuda``, ``cuda:1``, …, or ``auto``, which is CUDA if there is one.
        precision: ``fp32``, ``bf16``, or ``auto``, which depends on the device.
        on_nan: what to do if a loss or gradient is not finite: ``stop``, or ``skip`` the update.
        keep: final weights: of the epoch with the ``best`` validation accuracy (the latest of equals), or
            the ``last``, as without validation images.
        statistics: of batch normalization in predictions: ``estimated`` on training images in the first 80
            steps, while running averages lag, with a lower bound for the variances of single pixels as in
            ``mlp``; or always ``running``.
        compiled: whether to compile blocks and losses by ``torch.compile``, which takes half a minute and
            pays in long runs on a GPU.
        pipeline: number of blocks that learn at the same time on a CPU, see :class:`trifecta.Pipeline`.
        recipe: name of the recipe that this started from; a note without effect.
        budget: the recipe's size; a note without effect.
    """

    data: Named[DataConfig | None] = field(default=cast(Any, None))
    method: Named[Method] = field(default_factory=cast(Any, superfecta.method))
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
        """Replace names by parts, and validate every field."""
        for name, hint in _hints(RunConfig).items():
            object.__setattr__(self, name, read_value(getattr(self, name), hint, name))
        _require_finite(self)
        for name, choices in _CHOICES.items():
            lookup(dict.fromkeys(choices), getattr(self, name), name)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < 2**63:
                rule = f"{least} or more" if value < least else "below 2**63"
                raise ValueError(f"{name} is a whole number, {rule}: received {value}")
        if not self.width > 0:
            raise ValueError(f"width is a number above 0: received {self.width}")
        if not all(0 < count < 2**63 for count in self.channels):
            raise ValueError(f"channels are whole numbers, 1 or more: received {self.channels!r:.80}")
        if self.network != GIVEN:
            check_part(NETWORKS, self.network, "network")
        object.__setattr__(self, "class_weights", _class_weights(self.class_weights))
        if self.method.readout == CHOSEN and self.data is not None and not self.data.validation:
            raise ValueError(
                "a read-out is chosen on validation images: received method.readout=chosen with "
                "data.validation=0; give data.validation=0.1, or name the blocks"
            )


_build = RunConfig.__init__


@wraps(_build)
def _build_or_suggest(self: RunConfig, *values: Any, **settings: Any) -> None:
    inner = {"data": DataConfig, "method": Method, "method.optimizer": OptimizerConfig}
    places = {own: f"{own} of {place}" for place, kind in inner.items() for own in _hints(kind)}
    places |= {own: own for own in _hints(RunConfig)}
    for name in settings.keys() - _hints(RunConfig).keys():
        near = " or ".join(places[own] for own in nearest(name, places))
        hint = f"did you mean {near}?" if near else f"known: {', '.join(_hints(RunConfig))}"
        raise TypeError(f"unknown setting '{name}' of a RunConfig: {hint}")
    _build(self, *values, **settings)


RunConfig.__init__ = _build_or_suggest  # type: ignore[method-assign]


def _require_finite(value: Any, name: str = "") -> None:
    """Raise ValueError that names a number in dataclasses, sequences or mappings that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is a finite number: received {value}")
    members = dict(enumerate(value)) if isinstance(value, tuple | list) else value
    if is_dataclass(value) and not isinstance(value, type):
        members = {own: getattr(value, own) for own in _hints(type(value))}
    for key, member in members.items() if isinstance(members, dict) else ():
        _require_finite(member, f"{name}.{key}" if name else str(key))


def _class_weights(weights: Any) -> ClassWeights:
    if weights is None or (isinstance(weights, str) and weights == BALANCED):
        return weights
    given = list(weights.values()) if isinstance(weights, Mapping) else weights
    numbers: tuple[float, ...] = read_value(given, tuple[float, ...], "class_weights")
    if not numbers or min(numbers) <= 0:
        raise ValueError(f"class_weights are numbers above 0, {BALANCED} or None: received {weights!r:.80}")
    return dict(zip(map(str, weights), numbers, strict=True)) if isinstance(weights, Mapping) else numbers


def to_plain(config: Any) -> dict[str, Any]:
    """Return a dataclass of settings as dictionaries, lists, strings and numbers.

    A part of your own that cannot be found again by its name is a ValueError.
    """
    plain: dict[str, Any] = _plain(config, type(config))
    return plain


def from_plain(plain: Mapping[str, Any], *, imports: Imported = ()) -> RunConfig:
    """Return the settings of a run by their names; missing ones have their defaults.

    A method, augmentation, schedule or objective may be its name alone, and data their source. ``imports``
    are modules of your own whose parts may be named. An unknown setting, a value of the wrong type, or a
    part from another module is a ValueError.
    """
    config: RunConfig = read_value(plain, RunConfig, allowed=Imports(imports))
    return config


def read_config(path: Path, *, imports: Imported = ()) -> RunConfig:
    """Read the settings in a YAML file: a run's ``config.yaml``, or some that are written by hand."""
    plain = read_yaml(path)
    if any([plain.pop("dataset", None), plain.pop("resolved", None)]):
        # How runs behaved before these were settings.
        plain = {"keep": "last", "statistics": "running", **plain}
    try:
        return from_plain(plain, imports=imports)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def changed(config: RunConfig, changes: Mapping[str, Any], *, imports: Imported = ()) -> RunConfig:
    """Return ``config`` with settings changed by path, such as ``{"method.schedule.size": 2}``, in order.

    A part takes a name, which resets all of its settings: ``{"method.objective": "threshold",
    "method.schedule": "overlapping:2", "augmentation": "crop-flip"}``. Errors are those of
    :func:`from_plain`.
    """
    plain, allowed = to_plain(config), Imports(imports)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = plain
        for name in parents:
            place[name] = place[name] if isinstance(place.get(name), dict) else {}
            place = place[name]
        old = place.get(last)
        if isinstance(value, str) and (last in _PARTS or (isinstance(old, dict) and "kind" in old)):
            hint = _PARTS.get(last, Objective)
            value = _plain(read_value(value, hint, allowed=allowed), hint)
        place[last] = value
    settings: RunConfig = read_value(plain, RunConfig, allowed=allowed)
    return settings


# Losses and terms are saved with their kind: a name in the table, or a reference.
_DECLARED: dict[Any, Mapping[str, Any]] = {Objective: OBJECTIVES, Term: TERMS}
_PARTS = {"data": DataConfig, "method": Method, "augmentation": Augmentation, "schedule": Schedule}
# Parts that a name stands for, and how it finds them.
_FINDERS: dict[Any, Callable[[str, Imports], Any]] = {
    DataConfig: lambda source, _: DataConfig(source=source),
    Method: lambda name, allowed: get_method(name, imports=allowed.modules.values()),
    Augmentation: lambda name, _: lookup(AUGMENTATIONS, name, "augmentation"),
    Schedule: lambda name, _: parse_schedule(name),
    Objective: lambda name, allowed: _kind(name, Objective, allowed)(),
    Term: lambda name, allowed: _kind(name, Term, allowed)(),
}


def _kind(name: str, declared: Any, allowed: Imports) -> Any:
    """Return the class of a loss or term by its kind."""
    if ":" in name:
        return allowed.resolve(name)
    return lookup(_DECLARED[declared], RENAMED.get(name, name), "kind")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return {own.name: hints[own.name] for own in fields(kind) if own.init}


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the types that a field takes, besides None."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind is not NoneType)


def _plain(value: Any, hint: Any) -> Any:
    """Return the value of a field of type ``hint`` as dictionaries, lists, strings and numbers."""
    kind, *others = _choices(hint)
    if others and callable(value):
        return reference_of(value)
    own, is_part = value.__class__, is_dataclass(value) and not isinstance(value, type)
    if kind in _DECLARED and value is not None and not is_part:
        raise ValueError(
            f"a part is saved with its settings: {own.__qualname__} is no dataclass; "
            "write @dataclass(frozen=True, kw_only=True) above its class"
        )
    if is_part:
        names = {part: name for name, part in _DECLARED.get(kind, {}).items()}
        saved = {"kind": names.get(own) or reference_of(own)} if kind in _DECLARED else {}
        return saved | {name: _plain(getattr(value, name), each) for name, each in _hints(own).items()}
    if isinstance(value, list | tuple):
        return [_plain(member, (*get_args(kind), Any)[0]) for member in value]
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


class _PlacedError(ValueError):
    """A value that cannot be read, with its place in the message."""


def read_value(value: Any, hint: Any, place: str = "", allowed: Imports | None = None) -> Any:
    """Return ``value``, plain or read already, as a ``hint``; a ValueError names its place.

    It may name parts of the modules that are ``allowed``.
    """
    allowed = allowed or Imports()
    try:
        return _read(value, hint, place, allowed)
    except _PlacedError:
        raise
    except Exception as error:  # Also of a user's own part.
        told = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
        if isinstance(error, UnknownName):
            told, place = str(allowed.advised(error)), ""
        raise _PlacedError(f"{told} (in {place})" if place else told) from None


def _read(value: Any, hint: Any, place: str, allowed: Imports) -> Any:
    kind, *others = _choices(hint)
    if others:  # Its dataclass validates what is one of several.
        return allowed.resolve(value) if isinstance(value, str) and ":" in value else value
    if value is None and NoneType in get_args(hint):
        return None
    if isinstance(value, str | Path) and kind in _FINDERS:
        return _FINDERS[kind](str(value), allowed)
    if kind in _DECLARED or is_dataclass(kind):
        return _read_part(value, kind, place, allowed)
    if get_origin(kind) in (list, tuple):
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise ValueError(f"expected a list, received {value!r:.80}")
        hints = [member for member in get_args(kind) if member is not ...]
        return get_origin(kind)(
            read_value(own, hints[min(k, len(hints) - 1)], f"{place}.{k}", allowed)
            for k, own in enumerate(value)
        )
    if kind in (bool, int, float, str):
        return _scalar(value, kind)
    is_read = not isinstance(kind, type) or kind is Any or isinstance(value, kind)
    return value if is_read else kind(value)


def _read_part(value: Any, kind: Any, place: str, allowed: Imports) -> Any:
    """Return a dataclass, or the loss or term whose kind is given, from its settings by name."""
    if kind not in _DECLARED and isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a name or settings, received {value!r:.80}")
    settings = dict(value)
    if kind in _DECLARED:
        kind = _kind(str(settings.pop("kind", None)), kind, allowed)
    hints, inside = _hints(kind), f"{place}." if place else ""
    for name in settings:
        lookup(hints, name, f"setting of {place.rpartition('.')[2] or 'config'}")
    return kind(
        **{name: read_value(own, hints[name], inside + name, allowed) for name, own in settings.items()}
    )


def _scalar(value: Any, kind: type) -> Any:
    """Return a value as a number, text or flag; text may hold a number, but no number a flag."""
    is_one = value is not None and not isinstance(value, list | tuple | dict)
    if is_one and isinstance(value, bool) == (kind is bool):
        with suppress(ValueError, TypeError, OverflowError):
            return operator.index(value) if kind is int and not isinstance(value, str) else kind(value)
    raise ValueError(f"expected {kind.__name__}, received {value!r:.80}")


# Limits of a file from a stranger. Long values are limited because long numbers take long to read.
MOST_BYTES, MOST_DEPTH, MOST_CHARACTERS = 2**20, 32, 2**16
# Ten times as fast if PyYAML was built with it; it refuses names that are no Unicode.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts in full: :func:`read_yaml` takes no aliases."""
        return True


def yaml_text(plain: Mapping[str, Any]) -> str:
    """Return ``plain`` as YAML, in its order."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else is a ValueError.

    So is more than settings ever are: a megabyte, 32 levels, a value of 65,536 characters, or aliases,
    which can stand for gigabytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is larger than a megabyte")
        plain = parse_yaml(content.decode())
        if not isinstance(plain, dict):
            raise ValueError("expected `name: value` lines")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read settings from {path}: {' '.join(str(error).split())}") from None
    return plain


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text; errors as of :func:`read_yaml`."""
    loader, depth = yaml.SafeLoader if _SURROGATE.search(text) else _Loader, 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias, *{event.anchor}")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_CHARACTERS:
                raise ValueError(f"it has a value of more than {MOST_CHARACTERS:,} characters")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from None
