"""The fields of a run's settings, as options of the command that runs.

The core names fields in its messages (``data.hold_out``, ``batch_size``, ``precision=fp32``); a person at
the command line is told the option, where the command has one.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import click

OPTIONS = {
    "data.source": "--data",
    "data.image_size": "--image-size",
    "data.validation": "--validation",
    "method.optimizer.learning_rate": "--learning-rate",
    "augmentation": "--augment",
    "method": "--method",
    "network": "--network",
    "width": "--width",
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "seed": "--seed",
    "on_nan": "--on-nan",
    "device": "--device",
    "precision": "--precision",
    # Of a launch or a command, and no setting of a run.
    "parallel": "--parallel",
    "split": "--split",
}
ANY_OTHER = "--set"
# A field, and a value that is proposed for it; not within a path or another name, nor spelled as an option.
_FIELD = re.compile(
    r"(?<![\w./'=-])(?<!--set )(?<!\(in )([a-z_]+(?:\.[a-z_]+)*)(?:=([^\s;,:)…]+))?(?![\w/'(\[=…])"
)
_IMPORTS = re.compile(r"imports=\['([^']+)'\]")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
_COMMAND = re.compile(r"\b(trifecta|evaluate|train|compare|pip) [a-z -]*--")
# What a message says after its rule: alternatives, of which some may be of no use here.
_BETWEEN = re.compile(r"(: |; |, or | or (?=[a-z_.]+=|--))")

# What a message says is so, and not what to do.
_STATED = re.compile(r"received|\b(is|are|must|needs?|has|have)\b")


def in_options(message: str, options: Iterable[str]) -> str:
    """Return a message of the core with options in place of fields, without advice that cannot be followed.

    Args:
        message: as a ValueError has it.
        options: that the command has, such as ``--epochs``.
    """
    known = set(options)
    first, *rest = _BETWEEN.split(_IMPORTS.sub(r"--import \1", message))
    kept = [_spelled(first, known) or first]
    separator = ""
    for between, piece in zip(rest[::2], rest[1::2], strict=True):
        spelled = _spelled(piece, known)
        if spelled is None and not _STATED.search(piece):
            separator = separator or between
            continue
        kept += [separator or between, piece if spelled is None else spelled]
        separator = ""
    return "".join(kept)


def _spelled(piece: str, known: set[str]) -> str | None:
    """Return a piece with options for fields; None where it needs one that the command lacks."""
    spelled = _FIELD.sub(lambda found: _option(found, known), piece)
    named = [] if _COMMAND.search(spelled) else _OPTION.findall(spelled)
    return spelled if all(option in known for option in named) else None


def _option(found: re.Match[str], known: set[str]) -> str:
    path = _path(found[1], has_value=found[2] is not None)
    if path is None:
        return found[0]
    option = OPTIONS.get(path)
    if option is not None and (option in known or ANY_OTHER not in known):
        return option if found[2] is None else f"{option} {found[2]}"
    value = "" if found[2] is None else f"={found[2]}"
    return f"{ANY_OTHER} {path}{value}"


def _path(name: str, *, has_value: bool) -> str | None:
    """Return the whole path of a field; None for a word that only looks like one."""
    if not (has_value or "_" in name or "." in name):
        return None
    return settings().get(name)


@cache
def settings() -> Mapping[str, str]:
    """The paths of all settings, by the names that messages use: the path, or its last word."""
    from trifecta.data import DataConfig
    from trifecta.training import RunConfig, to_plain

    paths = list(_paths(to_plain(RunConfig(data=DataConfig(source="digits")))))
    short: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: path.count(".")):
        short.setdefault(path.rpartition(".")[2], path)
    return short | {path: path for path in [*paths, *OPTIONS]}


def _paths(plain: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in plain.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")


def told(message: str) -> str:
    """Return a message for whoever typed the command that runs."""
    context = click.get_current_context(silent=True)
    if context is None:
        return message
    return in_options(message, [name for p in context.command.params for name in p.opts])


def check_given_once(given: Mapping[str, Any], assignments: Iterable[str]) -> None:
    """Check that no setting has two values.

    Args:
        given: the values of options, by the paths of their fields.
        assignments: of ``--set``, in order, such as ``epochs=3``.

    Raises:
        ValueError: a later one replaces what an earlier one said.
    """
    said = {path: f"{OPTIONS[path]} {value}" for path, value in given.items()}
    if "method" in said:
        said["method.name"] = said["method"]
    for assignment in assignments:
        path = assignment.partition("=")[0].strip()
        # A whole part may be refined: method.schedule=overlapping:2, then method.schedule.cycle=3.
        replaced = [earlier for earlier in said if earlier == path or earlier.startswith(f"{path}.")]
        if replaced:
            raise ValueError(
                f"two values for {path}: received {said[replaced[0]]} and --set {assignment}; drop one"
            )
        said[path] = f"--set {assignment}"
