"""Commands that are imported when they are called: a help text, or the shell's completion, needs none."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from trifecta.cli.fields import told
from trifecta.cli.groups import Group


class Place(NamedTuple):
    """A command's place, and the line that the help has of it."""

    module: str
    name: str
    help: str


class LazyGroup(Group):
    """Imports a command when it is asked for by its name.

    Args:
        places: of every command, by its name.
    """

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        place = self.places.get(cmd_name)
        if place is None:
            return None
        command = getattr(import_module(place.module), place.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self.places.items()])


def act(module: str, function: str, options: Mapping[str, Any]) -> None:
    """Call what a command does, with its options; what it raises speaks of options, too."""
    try:
        getattr(import_module(f"trifecta.cli.actions.{module}"), function)(**options)
    except click.ClickException:
        raise
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (told(error.args[0]),)
        raise
