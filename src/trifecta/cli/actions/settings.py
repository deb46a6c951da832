"""``--set path=value``: any setting of a run, by its place in the configuration."""

from collections.abc import Iterable
from dataclasses import asdict
from types import ModuleType
from typing import Any

import yaml

from trifecta._utils.files import parse_yaml
from trifecta._utils.references import lookup
from trifecta.data import AUGMENTATIONS
from trifecta.schedules import parse_schedule
from trifecta.training import RunConfig, from_plain, to_plain
from trifecta.training.config import default_part

Modules = tuple[str | ModuleType, ...]


def with_settings(
    config: RunConfig, assignments: Iterable[str], *, imports: Iterable[str | ModuleType] = ()
) -> RunConfig:
    """Return ``config`` with settings such as ``method.schedule.size=2`` changed, in order.

    A part that has settings of its own takes a name, which sets them all to that part's defaults:
    ``method.objective=threshold``, ``method.schedule=overlapping:2``, ``augmentation=crop-flip``.

    Raises:
        ValueError: no such setting (names the nearest ones), or a value that it does not take.
    """
    plain, imports = to_plain(config), tuple(imports)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"--set takes setting=value, such as method.dropout=0.1: received '{assignment}'"
            )
        _assign(plain, path.strip(), _value(text, assignment), imports)
    return from_plain(plain, imports=imports)


def _assign(plain: dict[str, Any], path: str, value: Any, imports: Modules) -> None:
    *parents, last = path.split(".")
    place, walked = plain, "config"
    for name in parents:
        place, walked = lookup(place, name, f"setting of {walked}"), name
        if not isinstance(place, dict):
            raise ValueError(f"{name} has no settings of its own: received --set {path}=…")
    # An optimizer's own arguments have names that only it knows.
    if walked == "arguments":
        place[last] = value
        return
    old = lookup(place, last, f"setting of {walked}")
    place[last] = _whole_part(last, old, value, imports) if isinstance(value, str) else value


def _whole_part(name: str, old: Any, value: str, imports: Modules) -> Any:
    """Return all settings of the part called ``value``, where the setting ``name`` is such a part."""
    if isinstance(old, dict) and "kind" in old:
        return default_part(value, imports=imports)
    if name == "schedule":
        return asdict(parse_schedule(value))
    if name == "augmentation":
        return asdict(lookup(AUGMENTATIONS, value, "augmentation"))
    return value


def _value(text: str, assignment: str) -> Any:
    try:
        return parse_yaml(text)
    except (ValueError, yaml.YAMLError):
        raise ValueError(f"cannot read the value of --set {assignment}: quote it as YAML would") from None
