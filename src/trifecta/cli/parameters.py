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


def whole_numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Read ``0,0,1``; a callback of an option.

    Raises:
        click.BadParameter: something else stands between the commas.
    """
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    if not all(re.fullmatch(r"[0-9]+", word) for word in words):
        raise click.BadParameter(f"'{value}' is not a list of whole numbers such as 0,0,1")
    return tuple(int(word) for word in words)
