"""Values of command-line options that click has no type for."""

import re

import click


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


def superclass_levels(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[tuple[int, ...], ...] | None:
    """Read levels such as ``0,0,1,1/0,1,2,2``, or ``none`` for no level; a callback of an option.

    Raises:
        click.BadParameter: something else stands between the commas.
    """
    if value is None:
        return None
    if value == "none":
        return ()
    levels = [[word.strip() for word in level.split(",")] for level in value.split("/")]
    if not all(re.fullmatch(r"[0-9]+", word) for level in levels for word in level):
        raise click.BadParameter(
            f"'{value}' is not a list of whole numbers such as 0,0,1, or several such as 0,0,1/0,1,2"
        )
    return tuple(tuple(int(word) for word in level) for level in levels)
