"""Options of the command line: derived from the settings of a run, under headings, named in messages.

An option has the name, type, default and help of a dataclass's field. Dataclasses are read from their
source, so that a help text imports no PyTorch.
"""

import ast
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from trifecta._utils.references import did_you_mean, nearest, printable

Decorator = Callable[[Any], Any]
USAGE = 2
STARTED_HERE = "trifecta-"
# Dataclasses whose fields are settings of a run, by their file.
_DATACLASSES = {
    "RunConfig": "training/config.py",
    "DataConfig": "data/load.py",
    "Augmentation": "data/augment.py",
    "Method": "method.py",
    "Schedule": "schedules.py",
    "OptimizerConfig": "optim/config.py",
}
# Names that other programs use.
SYNONYMS = {
    **dict.fromkeys(("--gpu", "--cuda", "--cpu"), "--device"),
    **dict.fromkeys(("--dtype", "--amp", "--fp16", "--bf16"), "--precision"),
    **dict.fromkeys(("--model", "--arch", "--architecture"), "--network"),
    **dict.fromkeys(("--workers", "--nproc"), "--processes"),
    **{"--checkpoint": "--resume", "--size": "--image-size", "help": "--help"},
    **{"fit": "train", "run": "train", "test": "evaluate", "score": "evaluate", "classify": "predict"},
    **{"infer": "predict", "models": "list", "methods": "list"},
}


class Terminated(BaseException):
    """The process was asked to end by SIGTERM, as by Ctrl-C."""


class ToldByProcess(click.ClickException):
    """Message and exit status of a process that was started here and failed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def tell_launcher(line: str) -> bool:
    """Leave an error to the process that started this one, which reports one for all; False if none did.

    The file and its form are those of PyTorch's launcher.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None or not os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(STARTED_HERE):
        return False
    Path(file).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")
    return True


class Setting(NamedTuple):
    """A setting of a run: its type as written, its default, and its description."""

    type: str
    default: Any
    help: str


@cache
def settings() -> Mapping[str, Setting]:
    """Return every setting of a run by its path, such as ``method.schedule.size``."""
    return dict(_fields("RunConfig", ""))


def _fields(name: str, prefix: str) -> Iterator[tuple[str, Setting]]:
    source = (Path(__file__).parent / _DATACLASSES[name]).read_text(encoding="utf-8")
    (found,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    told = _described(ast.get_docstring(found))
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            field, annotation = node.target.id, ast.unparse(node.annotation)
            yield f"{prefix}{field}", Setting(annotation, _literal(node.value), told.get(field, ""))
            for inner in _DATACLASSES.keys() & set(re.findall(r"\w+", annotation)):
                yield from _fields(inner, f"{prefix}{field}.")


def _literal(node: ast.expr | None) -> Any:
    """Return a default that is written as a literal, or the function of ``field(default_factory=…)``."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)] if node else []
        return next((name for name in reversed(names) if name not in ("Any", "cast", "field")), None)


def _described(docstring: str | None) -> dict[str, str]:
    """Return the descriptions in a docstring by name, without markup."""
    lines = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", docstring or "", re.MULTILINE)
    plain = {name: re.sub(r"\s+", " ", re.sub(r":\w+:(?=`)", "", text)) for name, text in lines}
    # A name in ``code`` keeps its spelling.
    return {name: f"{text[0].upper()}{text[1:]}".replace("`", "") for name, text in plain.items()}


def image_size(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read ``32`` or ``32x48`` (height × width), in pixels; a callback of an option.

    Raises:
        click.BadParameter: the text is neither.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", value)
    if match is None:
        raise click.BadParameter(f"'{value}' is not a size in pixels such as 32 or 32x48")
    return [int(match[1]), int(match[2] or match[1])]


class Option(click.Option):
    """An option under a heading of the help.

    Args:
        group: the heading.
        path: of the setting of a run that the option gives.
        rare: whether only ``--help-all`` shows it.
    """

    def __init__(
        self, *args: Any, group: str = "Options", path: str = "", rare: bool = False, **keywords: Any
    ) -> None:
        super().__init__(*args, **keywords)
        self.group, self.path, self.rare = group, path, rare


def option(*names: str, **keywords: Any) -> Decorator:
    """Add an option to a command; keywords as for ``click.option`` and :class:`Option`."""
    keywords.setdefault("show_default", keywords.get("default") is not None)
    return click.option(*names, cls=Option, **keywords)


def setting(path: str, *names: str, shown: str = "", passes: bool = False, **keywords: Any) -> Decorator:
    """Add the option of a run's setting, with the name, type, default and help of the field.

    Args:
        path: of the setting.
        names: of the option, if it is not called as the field is.
        shown: default in the help, if it is not the field's.
        passes: whether the command receives the default, and not None, if the option is not given.
        keywords: as for :func:`option`.
    """
    field = settings()[path]
    kind, metavar = {"int": (int, "N"), "float": (float, "X")}.get(field.type, (str, "NAME"))
    text = re.split(r"(?<=\.) |; ", field.help)[0].rstrip(".")
    default = shown or ("" if passes or field.default is None else field.default)
    derived = {
        "type": kind,
        "metavar": metavar,
        "help": f"{text}." + (f"  [default: {default}]" if default != "" else ""),
        "default": field.default if passes else None,
    }
    names = names or (f"--{path.rpartition('.')[2].replace('_', '-')}",)
    return option(*names, path=path, **(derived | keywords))


class Command(click.Command):
    """A command whose help has headings and whose errors speak of its options."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises names options in place of fields."""
        try:
            return super().invoke(ctx)
        except click.ClickException:
            raise
        except Exception as error:
            if len(error.args) == 1 and isinstance(error.args[0], str):
                error.args = (in_options(error.args[0], self),)
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, with ``--help-all`` if ``--help`` does not show all of them."""
        more = [_HELP_ALL] if any(getattr(p, "rare", False) for p in self.params) else []
        return [*super().get_params(ctx), *more]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group; with ``--help-all`` rare ones and all settings too."""
        shows_all = ctx.meta.get("shows_all", False)
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and (shows_all or not getattr(parameter, "rare", False)):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        if shows_all:
            groups["Settings, for --set SETTING=VALUE"] = [
                (path, f"{field.help}  [{field.type}]") for path, field in settings().items()
            ]
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """Commands in their order, with a suggestion for one that does not exist."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the file."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command.

        Raises:
            click.UsageError: there is none of that name; names the nearest ones.
        """
        name, known = args[0], list(self.commands)
        if name not in known and not ctx.resilient_parsing and not name.startswith("-"):
            near = [SYNONYMS[name]] if SYNONYMS.get(name) in (*known, "--help") else nearest(name, known)
            hint = did_you_mean(near) if near else f"known: {', '.join(known)}"
            raise click.UsageError(f"no command '{name}': {hint}", ctx)
        return super().resolve_command(ctx, args)


def _show_all(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta["shows_all"] = True
        click.echo(context.get_help())
        context.exit()


_HELP_ALL = Option(
    ["--help-all"],
    group="Other",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options and settings, and exit.",
)


def unknown_option(error: click.NoSuchOption) -> str:
    """Return a message that suggests an option, or a setting, in place of one that does not exist."""
    name, context = error.option_name, error.ctx
    command = "trifecta" if context is None else context.command_path
    params = [] if context is None else context.command.params
    known = [flag for parameter in params for flag in parameter.opts if flag.startswith("--")]
    path = _paths().get(name.strip("-").replace("-", "_"))
    if SYNONYMS.get(name) in known:
        near = [SYNONYMS[name]]
    elif path is not None and "--set" in known:
        near = [f"--set {path}=VALUE"]
    else:
        near = nearest(name, known)
    return f"{command} has no option {name}: {did_you_mean(near) if near else f'see {command} --help'}"


@cache
def _paths() -> Mapping[str, str]:
    """Return the paths of settings by the names that messages use: the path, or its last word."""
    short: dict[str, str] = {}
    for path in sorted(settings(), key=lambda path: path.count(".")):
        short.setdefault(path.rpartition(".")[2], path)
    return short | {path: path for path in settings()}


# A field, and the value proposed for it: no word of a path or of another name, nor one that is an option.
_FIELD = re.compile(
    r"(?<![\w./'=-])(?<!--set )(?<!\(in )([a-z_]+(?:\.[a-z_]+)*)(?:=([^\s;,:)…]+))?(?![\w/'(\[=…])"
)
# Between a rule and alternatives, some of which a command may not have.
_BETWEEN = re.compile(r"(: |; |, or | or (?=[a-z_.]+=))")
# What is so, and not what to do.
_STATED = re.compile(r"received|\b(is|are|must|needs?|has|have)\b")


def in_options(message: str, command: click.Command) -> str:
    """Return a message with the command's options in place of fields, without advice that it cannot follow.

    Args:
        message: of a ValueError, such as ``too large: use a smaller batch_size``.
        command: that raised it.
    """
    message = message.replace("see trifecta.RECIPES", "see trifecta list --recipes")
    message = re.sub(r"imports=\['([^']+)'\]", r"--import \1", message)
    message = re.sub(
        r"trifecta\.resume\('([^']*)'\)", lambda m: f"trifecta train --resume {shlex.quote(m[1])}", message
    )
    options = {p.name or "": p.opts[0] for p in command.params if p.opts[0].startswith("--")}
    options |= {p.path: p.opts[0] for p in command.params if isinstance(p, Option) and p.path}
    options |= {"data.source": options["data"]} if "data" in options else {}
    first, *rest = _BETWEEN.split(message)
    kept, separator = [_spelled(first, options)[0]], ""
    for between, piece in zip(rest[::2], rest[1::2], strict=True):
        spelled, is_possible = _spelled(piece, options)
        separator = separator or between
        if is_possible or _STATED.search(piece):
            kept += [separator, spelled]
            separator = ""
    return "".join(kept)


def _spelled(piece: str, options: Mapping[str, str]) -> tuple[str, bool]:
    """Return a piece with options for fields, and whether the command has all of them."""
    missing = []

    def spell(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        path = name if name in options else _paths().get(name)
        if path is None or (value is None and "_" not in name and "." not in name):
            return found[0]
        if path in options:
            return options[path] if value is None else f"{options[path]} {value}"
        if "assigned" in options:
            return f"--set {path}" if value is None else f"--set {path}={value}"
        missing.append(path)
        return found[0]

    return _FIELD.sub(spell, piece), not missing


def told(message: str) -> str:
    """Return a message for whoever typed the command that runs, on one line."""
    context = click.get_current_context(silent=True)
    return printable(
        " ".join((message if context is None else in_options(message, context.command)).split())
    )


def given_words(*, only: Iterable[str] = (), but: Iterable[str] = ()) -> list[str]:
    """Return the options that were given to the running command, as words; by parameter name."""
    context, words = click.get_current_context(), []
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not is_given or name in but or (only and name not in only):
            continue
        value, flag = context.params[name], parameter.opts[0]
        values = value if getattr(parameter, "multiple", False) else [value]
        words += [flag] if value is True else [word for each in values for word in (flag, _word(each))]
    return words


def _word(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def assignments(sets: Sequence[str], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what options and ``--set`` assign to settings of a run, by path, parts before what they hold.

    Args:
        sets: of ``--set``, such as ``epochs=3``.
        given: values of options by the path of their setting, instead of those of the running command.

    Raises:
        ValueError: a setting has two values, or ``--set`` is not given ``setting=value``.
    """
    from trifecta.training.config import parse_yaml

    context = click.get_current_context()
    options = {p.path: p for p in context.command.params if isinstance(p, Option) and p.path}
    if given is None:
        given = {path: context.params[option.name or ""] for path, option in options.items()}
    changes = {path: given[path] for path in sorted(given, key=lambda path: path.count("."))}
    changes = {path: value for path, value in changes.items() if value is not None}
    words = {path: f"{options[path].opts[0]} {_word(value)}" for path, value in changes.items()}
    words |= {"method.name": words["method"]} if "method" in words else {}
    for text in sets:
        path, equals, value = (word.strip() for word in text.partition("="))
        if not equals:
            raise ValueError(f"--set takes setting=value, such as method.dropout=0.1: received '{text}'")
        # A part may be refined: method.schedule=overlapping:2, then method.schedule.restarts=true.
        earlier = [word for known, word in words.items() if known == path or known.startswith(f"{path}.")]
        if earlier:
            raise ValueError(f"two values for {path}: received {earlier[0]} and --set {text}; drop one")
        words[path] = f"--set {text}"
        try:
            changes[path] = parse_yaml(value)
        except ValueError:
            raise ValueError(f"cannot read the value of --set {text}: quote it as YAML would") from None
    return changes
