"""Mappings in YAML files that may come from strangers."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**20
MOST_DEPTH = 32
# Of one value: numbers take long to read when they are long.
MOST_CHARACTERS = 2**16
# Ten times as fast, where PyYAML was built with it; it does not take names that are no Unicode.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out in full: :func:`read_yaml` takes no aliases."""
        return True


def yaml_text(plain: Mapping[str, Any]) -> str:
    """Return ``plain`` as YAML, in its order."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """Read a YAML mapping; return it and the file's text.

    Raises:
        ValueError: no such file, something else in it, or more than settings ever are: a megabyte, 32
            levels, a value of 65,536 characters, or aliases and merges, which can stand for gigabytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is larger than a megabyte")
        text = content.decode()
        plain = parse_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read settings from {path}: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"cannot read settings from {path}: expected `name: value` lines")
    return plain, text


def parse_yaml(text: str) -> Any:
    """Return what YAML stands for.

    Raises:
        ValueError, yaml.YAMLError: it is no YAML, or as :func:`read_yaml`.
    """
    loader = yaml.SafeLoader if _SURROGATE.search(text) else _Loader
    _check_events(yaml.parse(text, Loader=loader))
    try:
        return yaml.load(text, Loader=loader)
    except OverflowError as error:
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
