"""Options and values that several commands share."""

import re
import shlex

import click
from click.core import ParameterSource


def image_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Read ``32`` or ``32x48`` (height × width), in pixels; a callback of an option.

    Raises:
        click.BadParameter: the text is neither.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", value)
    if match is None:
        raise click.BadParameter(f"'{value}' is not a size in pixels such as 32 or 32x48")
    return int(match[1]), int(match[2] or match[1])


def command_line(context: click.Context) -> str:
    """Return the command with the options that the user gave: no folders, nor where its output goes."""
    from trifecta.bench.setting import data_name

    words = context.command_path.split()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("out", "figure", "as_json"):
            words += [parameter.opts[0], data_name(str(context.params[name]))]
    return shlex.join(words)


IMPORT = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Your own module, whose parts may be used as MODULE:NAME.",
)
