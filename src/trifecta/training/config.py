"""The settings of a run: plain data that decides everything, its YAML, and changes by path."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, cast, get_args, get_origin

import cattrs
import torch
import yaml

from trifecta._utils.checks import require_finite
from trifecta._utils.devices import PRECISIONS
from trifecta._utils.references import Imports, UnknownName, check_part, lookup, reference_of
from trifecta.data import AUGMENTATIONS, Augmentation, DataConfig
from trifecta.losses import OBJECTIVES, RENAMED, TERMS, Objective, Term
from trifecta.method import Method
from trifecta.methods import get_method, superfecta
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.readout import CHOSEN
from trifecta.schedules import Schedule, parse_schedule

# A network or data set that was handed over in Python has no name that could be saved.
GIVEN = "given"
BALANCED = "balanced"
Modules = Iterable[str | ModuleType]
# Numbers in class order, or by class name.
ClassWeights = str | tuple[float, ...] | Mapping[str, float] | None
Part = TypeVar("Part")

if TYPE_CHECKING:

    class Named(Generic[Part]):
        """Type of a field that is given as a part or by its name, and read as the part."""

        def __get__(self, instance: object, owner: Any = None) -> Part: ...

        def __set__(self, instance: object, value: Part | str) -> None: ...

else:

    class Named:
        """Stands for the part's own type, which is what reading a file needs."""

        def __class_getitem__(cls, part: Any) -> Any:
            return part


_KINDS: dict[str, type[Any]] = {**OBJECTIVES, **TERMS}
_CHOICES: dict[str, tuple[str, ...] | None] = {
    "device": None,  # Those of the machine.
    "precision": PRECISIONS,
    "on_nan": ("stop", "skip"),
    "keep": ("best", "last"),
    "statistics": ("estimated", "running"),
}
_LEAST = {"epochs": 1, "batch_size": 1, "pipeline": 1, "seed": 0}
# Fields that take the name of a part: the part's type, and how it is found.
_NAMED: dict[str, tuple[type, Callable[[str, Imports], Any]]] = {
    "data": (DataConfig, lambda source, _: DataConfig(source=source)),
    "method": (Method, lambda name, allowed: get_method(name, imports=allowed.modules.values())),
    "augmentation": (Augmentation, lambda name, _: lookup(AUGMENTATIONS, name, "augmentation")),
    "schedule": (Schedule, lambda name, _: parse_schedule(name)),
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Vary it with ``dataclasses.replace``.

    Attributes:
        data: folder, Hub id or ``digits``. A :class:`DataConfig` says more: splits, columns, image size;
            None is for data handed to :func:`train`.
        method: name of a method, see ``trifecta list``; or a :class:`Method`.
        network: name of a network, see ``trifecta list``; or a builder of your own, or ``given`` for blocks
            handed to :func:`train`.
        width: factor on the network's channels.
        channels: of each block, in place of ``width``'s; of a network that was shrunk.
        epochs: passes over the training split.
        batch_size: samples a step. Pairs pass twice as many.
        augmentation: random changes to training images, by name, see ``trifecta list``; or an
            :class:`Augmentation`.
        class_weights: weight of each class in every loss: numbers in class order or by name (1 for the
            others), or ``balanced``, inversely to the number of samples. As in PyTorch's ``cross_entropy``.
        seed: seed of everything random: weights, order, augmentation, wrong labels. 0 … 2**63 − 1.
        device: ``cpu``, ``cuda``, ``cuda:1``, …, or ``auto``, which is CUDA if there is one.
        precision: ``fp32``, ``bf16``, or ``auto``, which is what the device is made for.
        on_nan: what follows a loss or gradient that is not finite: ``stop``, or ``skip`` the update.
        keep: final weights: of the epoch with the ``best`` validation accuracy, or the ``last``. Of equal
            epochs, the latest counts; without validation images, the last.
        statistics: of batch normalisation in predictions: ``estimated`` on training images while running
            averages lag, in the first 80 steps, or always ``running``.
        compiled: whether to compile blocks and losses by ``torch.compile``. It takes half a minute and pays
            in long runs on a GPU.
        pipeline: number of blocks that learn at the same time on a CPU, see :class:`trifecta.Pipeline`.
        recipe: name of the recipe that this started from; a note without effect.
        budget: the recipe's size; a note without effect.

    Raises:
        ValueError: a value that no run can use.
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
        for name in ("data", "method", "augmentation"):
            self._set(name, _part(name, getattr(self, name)))
        if isinstance(self.device, torch.device):
            self._set("device", str(self.device))
        require_finite(self)
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        if self.network != GIVEN:
            check_part(NETWORKS, self.network, "network")
        for name, least in _LEAST.items():
            self._set(name, _whole(name, getattr(self, name), least))
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
        self._set("channels", tuple(_whole("a number of channels", count, 1) for count in self.channels))
        self._set("class_weights", _class_weights(self.class_weights))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _part(name: str, value: Any) -> Any:
    """Return the part that a field is given as or by its name."""
    kind, find = _NAMED[name]
    if isinstance(value, kind) or (name == "data" and value is None):
        return value
    if isinstance(value, str) or (name == "data" and isinstance(value, Path)):
        return find(str(value), Imports())
    article = "an" if kind is Augmentation else "a"
    raise ValueError(f"{name} is a name or {article} {kind.__name__}: received {value!r:.80}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...] | None) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a name: received {value!r:.80}")
    if choices is not None:
        lookup(dict.fromkeys(choices), value, name)


def _whole(name: str, value: Any, least: int) -> int:
    """Return an integer of any kind as Python's, if it is ``least`` or more and has 63 bits."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number < 2**63:
        most = "" if number < least else " and below 2**63"
        raise ValueError(f"{name} is a whole number, {least} or more{most}: received {value!r:.80}")
    return number


def _class_weights(weights: Any) -> ClassWeights:
    if weights is None or (isinstance(weights, str) and weights == BALANCED):
        return weights
    try:
        numbers = list(map(float, weights.values() if isinstance(weights, Mapping) else weights))
    except (TypeError, ValueError):
        numbers = []
    if isinstance(weights, str) or not numbers or not all(0 < number < math.inf for number in numbers):
        raise ValueError(
            f"class_weights are numbers above 0 by class, {BALANCED} or None: received {weights!r:.80}"
        )
    return (
        dict(zip(map(str, weights), numbers, strict=True))
        if isinstance(weights, Mapping)
        else tuple(numbers)
    )


def to_plain(config: RunConfig) -> dict[str, Any]:
    """Return the settings as dictionaries, lists, strings and numbers.

    Raises:
        ValueError: a part of your own that cannot be found again by its name.
    """
    plain: dict[str, Any] = _writer().unstructure(config)
    return plain


def from_plain(plain: Mapping[str, Any], *, imports: Modules = ()) -> RunConfig:
    """Invert :func:`to_plain`. Settings that are missing have their defaults.

    Args:
        plain: settings by name. A method, augmentation, schedule or objective may be its name alone, and
            data their source.
        imports: modules of your own whose parts the settings may name.

    Raises:
        ValueError: an unknown setting, a value of the wrong type, or a part from another module.
    """
    allowed = Imports(imports)
    try:
        return _converter(allowed).structure(plain, RunConfig)
    except cattrs.BaseValidationError as error:

        def described(cause: BaseException, kind: type | None) -> str:
            if isinstance(cause, UnknownName):
                cause = allowed.advised(cause)
            no_number = re.fullmatch(r"(?:invalid literal|could not convert string) .*: ('.*')", str(cause))
            if no_number is not None and kind is not None:
                return f"expected {kind.__name__}, received {no_number[1]}"
            has_message = isinstance(cause, ValueError) and str(cause)
            return str(cause) if has_message else cattrs.v.format_exception(cause, kind)

        found = cattrs.transform_error(error, format_exception=described)
        # ``@ $.method.optimizer`` is cattrs' spelling of a place.
        places = [re.sub(r" @ \$\.?(.*)$", r" (in \1)", text).removesuffix(" (in )") for text in found]
        raise ValueError("; ".join(places)) from None


def written_config(plain: Mapping[str, Any], *, imports: Modules = ()) -> RunConfig:
    """Return the settings that a run wrote, of this version or one with fewer settings.

    Raises:
        ValueError: as :func:`from_plain`.
    """
    # How runs behaved before these were settings.
    return from_plain({"keep": "last", "statistics": "running", **plain}, imports=imports)


def read_config(path: Path, *, imports: Modules = ()) -> RunConfig:
    """Read the settings in a YAML file: a run's ``config.yaml``, or some that are written by hand.

    Raises:
        ValueError: the file is missing or does not hold a run's settings.
    """
    plain = read_yaml(path)
    added = [plain.pop(name, None) for name in ("dataset", "resolved")]
    try:
        return (written_config if any(added) else from_plain)(plain, imports=imports)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def changed(config: RunConfig, changes: Mapping[str, Any], *, imports: Modules = ()) -> RunConfig:
    """Return ``config`` with settings changed by path, such as ``{"method.schedule.size": 2}``, in order.

    A part takes a name, which resets all of its settings: ``{"method.objective": "threshold",
    "method.schedule": "overlapping:2", "augmentation": "crop-flip"}``.

    Raises:
        ValueError: an unknown setting (with the nearest ones), or a value that it does not take.
    """
    plain, allowed = to_plain(config), Imports(imports)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place, parent = plain, "config"
        for name in parents:
            place, parent = lookup(place, name, f"setting of {parent}"), name
            if not isinstance(place, dict):
                raise ValueError(f"{name} has no settings of its own: received {path}")
        # Arguments of an optimizer have names that only it knows.
        old = None if parent == "arguments" else lookup(place, last, f"setting of {parent}")
        is_part = last in _NAMED or (isinstance(old, dict) and "kind" in old)
        place[last] = _part_settings(last, value, allowed) if is_part and isinstance(value, str) else value
    return from_plain(plain, imports=allowed.modules.values())


def _part_settings(name: str, value: str, allowed: Imports) -> dict[str, Any]:
    """Return the settings of the part called ``value``, for a field ``name``."""
    try:
        part = _NAMED[name][1](value, allowed) if name in _NAMED else _kind(_KINDS, value, allowed)()
    except UnknownName as error:
        raise allowed.advised(error) from None
    plain: dict[str, Any] = _writer().unstructure(
        part, unstructure_as=type(part) if name in _NAMED else Objective
    )
    return plain


def _kind(table: Mapping[str, type[Any]], name: str, allowed: Imports) -> Any:
    return allowed.resolve(name) if ":" in name else lookup(table, RENAMED.get(name, name), "kind")


@cache
def _writer() -> cattrs.Converter:
    return _converter(Imports())


def _converter(allowed: Imports) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    _register_declared(converter, Objective, OBJECTIVES, allowed)
    _register_declared(converter, Term, TERMS, allowed)
    finders = dict(_NAMED.values())

    def by_name(kind: type) -> Callable[[Any, Any], Any]:
        from_settings: Callable[..., Any] = cattrs.gen.make_dict_structure_fn(
            kind, converter, _cattrs_forbid_extra_keys=True
        )
        return lambda plain, _: (
            finders[kind](plain, allowed) if isinstance(plain, str) else from_settings(plain, kind)
        )

    converter.register_structure_hook_factory(lambda kind: kind in tuple(finders), by_name)
    # The configuration validates them.
    converter.register_structure_hook_func(lambda kind: kind == ClassWeights, lambda value, _: value)

    def named(text: Any, _: object) -> Any:
        if not isinstance(text, str):
            raise ValueError(f"a part is a name, or module:name: received {text!r}")
        return allowed.resolve(text) if ":" in text else text

    converter.register_structure_hook_func(_is_named_part, named)
    converter.register_unstructure_hook_func(
        _is_named_part, lambda part: part if isinstance(part, str) else reference_of(part)
    )
    return converter


def _is_named_part(kind: Any) -> bool:
    """Whether a field holds a name in a table, or a class or function."""
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return len(choices) == 2 and str in choices and type(None) not in choices


def _register_declared(
    converter: cattrs.Converter, protocol: Any, table: Mapping[str, type], allowed: Imports
) -> None:
    """Save a dataclass that fulfils ``protocol`` with its ``kind``: a name in the table, or a reference."""
    names = {kind: name for name, kind in _KINDS.items()}

    def unstructure(part: Any) -> dict[str, Any]:
        if not is_dataclass(part):
            raise ValueError(
                f"a part is saved with its settings: {type(part).__qualname__} is no dataclass; "
                "write @dataclass(frozen=True, kw_only=True) above its class"
            )
        kind = names.get(type(part)) or reference_of(type(part))
        return {"kind": kind, **converter.unstructure(part, unstructure_as=type(part))}

    def structure(plain: Any, _: object) -> Any:
        if isinstance(plain, str):
            return _kind(table, plain, allowed)()
        if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
            raise ValueError(f"a part is settings with a kind ({', '.join(table)}): received {plain!r}")
        kind = _kind(table, plain["kind"], allowed)
        return converter.structure({k: v for k, v in plain.items() if k != "kind"}, kind)

    converter.register_unstructure_hook_func(lambda kind: kind is protocol, unstructure)
    converter.register_structure_hook_func(lambda kind: kind is protocol, structure)


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
    """Read a YAML mapping.

    Raises:
        ValueError: no such file, something else in it, or more than settings ever are: a megabyte, 32
            levels, a value of 65,536 characters, or aliases and merges, which can stand for gigabytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is larger than a megabyte")
        plain = parse_yaml(content.decode())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read settings from {path}: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"cannot read settings from {path}: expected `name: value` lines")
    return plain


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is no YAML, or as :func:`read_yaml`.
    """
    loader = yaml.SafeLoader if _SURROGATE.search(text) else _Loader
    try:
        _check_events(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _check_events(events: Iterator[yaml.Event]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("it merges mappings, <<")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_CHARACTERS:
            raise ValueError(f"it has a value of more than {MOST_CHARACTERS:,} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
