"""Options of a command in groups, each under a heading of the help, and what a wrong word may stand for."""

from collections.abc import Callable
from typing import Any

import click

from trifecta._utils.references import nearest

# What other programs call these.
OPTION_NAMES = {
    "--gpu": "--device",
    "--cuda": "--device",
    "--cpu": "--device",
    "--dtype": "--precision",
    "--amp": "--precision",
    "--fp16": "--precision",
    "--bf16": "--precision",
    "--model": "--network",
    "--arch": "--network",
    "--architecture": "--network",
    "--workers": "--processes",
    "--nproc": "--processes",
    "--checkpoint": "--resume",
    "--size": "--image-size",
}

COMMAND_NAMES = {
    "help": "--help",
    "fit": "train",
    "run": "train",
    "test": "evaluate",
    "score": "evaluate",
    "classify": "predict",
    "infer": "predict",
    "models": "list",
    "methods": "list",
}

Decorator = Callable[[Any], Any]


def in_group(title: str, *options: Decorator) -> Decorator:
    """Add options to a command of the class :class:`GroupedCommand`, under a heading."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
            function.__click_params__[-1].group = title
        return function

    return decorate


class Group(click.Group):
    """Says which command may be meant by one that there is not."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; where there is none of that name, say which may be meant."""
        name, known = args[0], self.list_commands(ctx)
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            near = (
                [COMMAND_NAMES[name]]
                if COMMAND_NAMES.get(name) in (*known, "--help")
                else nearest(name, known)
            )
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise click.UsageError(f"no command '{name}': {hint}", ctx)
        return super().resolve_command(ctx, args)


def unknown_option(error: click.NoSuchOption) -> str:
    """Say which option, or which setting, may be meant by one that there is not."""
    name, command = error.option_name, "trifecta" if error.ctx is None else error.ctx.command_path
    options = [] if error.ctx is None else _options(error.ctx.command)
    near = [OPTION_NAMES[name]] if OPTION_NAMES.get(name) in options else _setting(name, options)
    near = near or nearest(name, options)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see {command} --help"
    return f"{command} has no option {name}: {hint}"


def _setting(option: str, options: list[str]) -> list[str]:
    """Return how a setting is given that has no option of its own, but such a name."""
    if "--set" not in options:
        return []
    from trifecta.cli.fields import settings

    path = settings().get(option.strip("-").replace("-", "_"))
    return [] if path is None else [f"--set {path}=VALUE"]


def _options(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("--")]


class GroupedCommand(click.Command):
    """Shows options under the headings that :func:`in_group` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
