"""Options of the command line: derived from the settings of a run, under headings, named in messages."""

import ast
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import click

from trifecta._utils.references import printable, suggestion

USAGE = 2
Decorator = Callable[[Any], Any]
# File for the error of a process that another one started.
MESSAGE_FILE = "TRIFECTA_MESSAGE_FILE"
# Options under this heading are shown by ``--help-all`` only.
RARE = "Rare"
# Options of a run in several processes, which resuming it needs again.
PROCESSES = ("processes", "parallel", "sync_batch_norm", "timeout")
# Dataclasses whose fields are settings of a run, by their file.
_DATACLASSES = {
    "RunConfig": "training/config.py",
    "DataConfig": "data/load.py",
    "Augmentation": "data/augment.py",
    "Method": "method.py",
    "Schedule": "schedules.py",
    "OptimizerConfig": "optim.py",
}
# Names that other programs use, by the name here.
_SYNONYMS = {
    "--device": ("--gpu", "--cuda", "--cpu"),
    "--precision": ("--dtype", "--amp", "--fp16", "--bf16"),
    "--network": ("--model", "--arch", "--architecture"),
    **{"--processes": ("--workers", "--nproc"), "--resume": ("--checkpoint",), "--image-size": ("--size",)},
    **{"train": ("fit", "run"), "evaluate": ("test", "score"), "predict": ("classify", "infer")},
    **{"list": ("models", "methods"), "--help": ("help",)},
}
_WORDS = f"{__name__}.words"


class Terminated(BaseException):
    """The process was asked to end by SIGTERM, as by Ctrl-C."""


def tell(line: str) -> None:
    """Print an error, or leave it to ``train --processes``, which started this process and prints one."""
    if file := os.environ.get(MESSAGE_FILE):
        Path(file).write_text(line, encoding="utf-8")
    else:
        click.echo(f"trifecta: {line}", err=True)


@cache
def settings(name: str = "RunConfig", prefix: str = "") -> Mapping[str, tuple[str, Any, str]]:
    """Return type, default (if that is a literal) and help of every setting of a run by its path.

    Paths are such as ``method.schedule.size``. Dataclasses are read from their source, so that a help text
    imports no PyTorch.
    """
    source = (Path(__file__).parent / _DATACLASSES[name]).read_text(encoding="utf-8")
    (found,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    told = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", ast.get_docstring(found) or "", re.MULTILINE))
    fields: dict[str, tuple[str, Any, str]] = {}
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        path, annotation, default = f"{prefix}{node.target.id}", ast.unparse(node.annotation), None
        with suppress(ValueError):
            default = None if node.value is None else ast.literal_eval(node.value)
        text = re.sub(r":\w+:(?=`)", "", " ".join(told.get(node.target.id, "").split()))
        # A name in ``code`` keeps its spelling.
        fields[path] = annotation, default, f"{text[:1].upper()}{text[1:]}".replace("`", "")
        for inner in _DATACLASSES.keys() & set(re.findall(r"\w+", annotation)):
            fields |= settings(inner, f"{path}.")
    return fields


@cache
def _paths() -> Mapping[str, str]:
    """Return the paths of settings by the names that messages use: the path, or its last word."""
    deepest_first = sorted(settings(), key=lambda path: path.count("."), reverse=True)
    return {path.rpartition(".")[2]: path for path in deepest_first} | {path: path for path in settings()}


class Option(click.Option):
    """An option under a heading of the help, which may give a setting of a run by its path."""

    def __init__(self, *args: Any, group: str = "Options", path: str = "", **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.group, self.path = group, path

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Keep the words by which the option was given, see :func:`given_words`."""
        if self.name in opts:
            typed = opts[self.name]
            values = typed if isinstance(typed, list) else [typed]
            words = ([self.opts[0]] if value is True else [self.opts[0], value] for value in values)
            ctx.meta.setdefault(_WORDS, {})[self.name] = list(chain.from_iterable(words))
        return super().handle_parse_result(ctx, opts, args)


def given_words() -> dict[str, list[str]]:
    """Return the words by which options were given to the running command, by parameter name."""
    context = click.get_current_context(silent=True)
    return {} if context is None else context.meta.get(_WORDS, {})


def option(*names: str, **keywords: Any) -> Decorator:
    """Add an option to a command; keywords as for ``click.option`` and :class:`Option`."""
    kind = type(keywords.get("type"))
    keywords.setdefault("metavar", {click.IntRange: "N", click.FloatRange: "X"}.get(kind))
    return click.option(*names, cls=Option, **keywords)


def setting(path: str, *names: str, shown: object = None, **keywords: Any) -> Decorator:
    """Add the option of a run's setting, with the field's name, type, help and ``shown`` default.

    The command receives None if the option is not given. Keywords are those of :func:`option`.
    """
    annotation, default, about = settings()[path]
    kind, metavar = {"int": (int, "N"), "float": (float, "X")}.get(annotation, (str, "NAME"))
    default = default if shown is None else shown
    text = re.split(r"(?<=\.) |; ", about)[0].rstrip(".")
    text += "." if default is None else f".  [default: {default}]"
    names = names or (f"--{path.rpartition('.')[2].replace('_', '-')}",)
    return option(*names, path=path, **({"type": kind, "metavar": metavar, "help": text} | keywords))


def assignments(sets: Sequence[str]) -> dict[str, Any]:
    """Return what options and ``--set`` assign to settings of a run, by path, parts before what they hold.

    Raises:
        ValueError: a setting has two values, or ``--set`` is not given ``setting=value``.
    """
    from trifecta.training.config import parse_yaml

    context, given = click.get_current_context(), given_words()
    own = [p for p in context.command.params if isinstance(p, Option) and p.path and p.name in given]
    own.sort(key=lambda option: option.path.count("."))
    changes = {option.path: context.params[option.name or ""] for option in own}
    words = {option.path: " ".join(given[option.name or ""]) for option in own}
    words |= {"method.name": words["method"]} if "method" in words else {}
    for text in sets:
        path, equals, value = (word.strip() for word in text.partition("="))
        if not equals:
            raise ValueError(f"--set takes setting=value, such as method.dropout=0.1: received '{text}'")
        # A part may be refined: method.schedule=overlapping:2, then method.schedule.restarts=true.
        for known, earlier in words.items():
            if known == path or known.startswith(f"{path}."):
                raise ValueError(f"two values for {path}: received {earlier} and --set {text}; drop one")
        words[path] = f"--set {text}"
        try:
            changes[path] = parse_yaml(value)
        except ValueError:
            raise ValueError(f"cannot read the value of --set {text}: quote it as YAML would") from None
    return changes


class Command(click.Command):
    """A command whose help has headings and whose errors speak of its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an empty word, as an unset variable of a shell leaves it, and read the others."""
        if "" in args and not ctx.resilient_parsing:
            raise click.UsageError("a value is empty: received ''; give one, or leave its option out", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its warnings and errors name options in place of fields."""
        warnings.showwarning = lambda message, *_: click.echo(
            f"warning: {printable(' '.join(in_options(str(message), self).split()))}", err=True
        )
        try:
            return super().invoke(ctx)
        except click.ClickException:
            raise
        except Exception as error:
            if len(error.args) == 1:
                error.args = (in_options(str(error.args[0]), self),)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; by group where there is ``--help-all``, which shows rare ones and settings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        has_groups = any("--help-all" in parameter.opts for parameter in self.params)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and record[1]:
                group = getattr(parameter, "group", "Other") if has_groups else "Options"
                groups.setdefault(group, []).append(record)
        if RARE in ctx.meta:
            fields = [(path, f"{about}  [{kind}]") for path, (kind, _, about) in settings().items()]
            groups["Settings, for --set SETTING=VALUE"] = fields
        else:
            groups.pop(RARE, None)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _show_all(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[RARE] = True
        click.echo(context.get_help())
        context.exit()


_EXITS: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "callback": _show_all}
HELP_ALL = option("--help-all", group="Other", help="Show all options and settings, and exit.", **_EXITS)


class Group(click.Group):
    """Commands in their order, with a suggestion for one that does not exist."""

    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the file."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; raise UsageError with the nearest names if there is none."""
        name = args[0]
        if name in self.commands or ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        hint = _hint(name, [*self.commands, "--help"], f"known: {', '.join(self.commands)}")
        raise click.UsageError(f"no command '{name}': {hint}", ctx)


def unknown_option(error: click.NoSuchOption) -> str:
    """Return a message that suggests an option, or a setting, in place of one that does not exist."""
    assert error.ctx is not None
    name, command = error.option_name, error.ctx.command_path
    dashed = name.replace("_", "-")
    known = [flag for parameter in error.ctx.command.params for flag in parameter.opts if flag[:2] == "--"]
    path = _paths().get(dashed.strip("-").replace("-", "_"))
    is_other = dashed not in (*known, *chain(*_SYNONYMS.values()))
    if path and is_other and _takes(error.ctx.command, path):
        return f"{command} has no option {name}: did you mean --set {path}=VALUE?"
    return f"{command} has no option {name}: {_hint(dashed, known, f'see {command} --help')}"


def _takes(command: click.Command, path: str) -> bool:
    """Whether ``--set`` of a command may assign a setting: of a run, or of the images to measure one on."""
    names = {parameter.name for parameter in command.params}
    return "assigned" in names and ("recipe" in names or path.startswith("data."))


def _hint(name: str, known: Sequence[str], otherwise: str) -> str:
    synonyms = [own for own, others in _SYNONYMS.items() if name in others and own in known]
    return suggestion((synonyms or [name])[0], known, otherwise)


# A field, and the value proposed for it: no word of a path or of another name, nor one that is an option.
_FIELD = re.compile(
    r"(?<![\w./'=-])(?<!--set )(?<!\(in )([a-z_]+(?:\.[a-z_]+)*)(?:=([^\s;,:)…]+))?(?![\w/'(\[=…])"
)
# Between a rule and alternatives, some of which a command may not have.
_BETWEEN = re.compile(r"(: |; |, or | or (?=[a-z_.]+=))")
# What is so, and not what to do.
_STATED = re.compile(r"received|\b(is|are|must|needs?|has|have)\b")


def in_options(message: str, command: click.Command) -> str:
    """Return an error's message with the command's options in place of fields.

    Advice that the command cannot follow is left out.
    """
    if message.startswith("unknown setting of "):  # It lists names as --set takes them.
        return message
    message = message.replace("see trifecta.RECIPES", "see trifecta list --recipes")
    message = re.sub(r"imports=\['([^']+)'\]", r"--import \1", message)
    resume = r"""trifecta\.resume\((["'])(.*?)\1\)"""
    message = re.sub(resume, lambda found: _resume_command(found[2]), message)
    flags = {p: p.opts[0] for p in command.params if p.opts[0].startswith("--")}
    options = {p.name or "": flag for p, flag in flags.items()}
    options |= {p.path: flag for p, flag in flags.items() if isinstance(p, Option) and p.path}
    named = {"data.source": options.get("data"), "method.name": options.get("method")}
    options |= {path: flag for path, flag in named.items() if flag}
    missing: list[str] = []

    def spell(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        path = name if name in options else _paths().get(name)
        if path is None or (value is None and "_" not in name and "." not in name):
            return found[0]
        if path in options:
            return options[path] if value is None else f"{options[path]} {value}"
        if _takes(command, path):
            return f"--set {path}" if value is None else f"--set {path}={value}"
        missing.append(path)
        return found[0]

    pieces, text, dropped = ["", *_BETWEEN.split(message)], "", ""
    for separator, piece in zip(pieces[::2], pieces[1::2], strict=True):
        missing.clear()
        spelled, dropped = _FIELD.sub(spell, piece), dropped or separator
        if not text or not missing or _STATED.search(piece):
            text, dropped = f"{text}{dropped}{spelled}", ""
    return text


def _resume_command(run: str) -> str:
    """Return the command that continues a run, with the processes and modules that it needs."""
    needed = [words for name, words in given_words().items() if name in (*PROCESSES, "imports")]
    return shlex.join(["trifecta", "train", "--resume", run, *chain(*needed)])
