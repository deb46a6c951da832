"""Options of a command in groups, each under a heading of the help."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Any], Any]


def in_group(title: str, *options: Decorator) -> Decorator:
    """Add options to a command of the class :class:`GroupedCommand`, under a heading."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
            function.__click_params__[-1].group = title
        return function

    return decorate


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
