"""Types of command-line values that click does not have."""

import re

import click


class ImageSize(click.ParamType[tuple[int, int]]):
    """``32`` or ``32x48`` (height × width), in pixels."""

    name = "size"

    def convert(
        self,
        value: str | tuple[int, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, int]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", value)
        if match is None:
            self.fail(f"'{value}' is not a size in pixels such as 32 or 32x48", param, ctx)
        return int(match[1]), int(match[2] or match[1])


IMAGE_SIZE = ImageSize()
