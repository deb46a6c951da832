"""CRC-32 checksums of what is stored: they tell damage, not malice.

A record of JSON carries its own as ``crc32``, a text as its last line, tensors in their file's metadata.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEY = "crc32"
_LAST_MEMBER = re.compile(r',\s+"crc32": "([0-9a-f]{8})"\s*\}\n?\Z')
_LAST_LINE = re.compile(r"# crc32 ([0-9a-f]{8})\n?\Z")


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of names, dtypes, shapes and values, 8 hexadecimal digits."""
    sum_so_far = 0
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        sum_so_far = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), sum_so_far)
        sum_so_far = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().tobytes(), sum_so_far)
    return f"{sum_so_far:08x}"


def record_text(record: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return ``record`` as JSON, the checksum of its text as the last member."""
    text = json.dumps(record, indent=indent)[:-1].rstrip()
    between, end = (", ", "}") if indent is None else (f",\n{' ' * indent}", "\n}")
    return f'{text}{between}"{KEY}": "{zlib.crc32(text.encode()):08x}"{end}'


def checked_record(text: str, where: str) -> dict[str, Any]:
    """Read what :func:`record_text` made, without its checksum.

    Args:
        text: of the JSON object.
        where: it comes from, for the message.

    Raises:
        ValueError: it is no such object, or is not what was written.
    """
    found = _LAST_MEMBER.search(text)
    is_whole = found is not None and int(found[1], 16) == zlib.crc32(text[: found.start()].encode())
    try:
        record = json.loads(text) if is_whole else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"{where} is damaged, or was written by an earlier version: its checksum is wrong or missing"
        )
    record.pop(KEY)
    return record


def signed_text(text: str) -> str:
    """Return lines of ``text`` with their checksum as a comment in the last one."""
    return f"{text}# {KEY} {zlib.crc32(text.encode()):08x}\n"


def is_whole_text(text: str) -> bool | None:
    """Whether the checksum at the end of ``text`` is right; None where there is none."""
    found = _LAST_LINE.search(text)
    return None if found is None else int(found[1], 16) == zlib.crc32(text[: found.start()].encode())
