"""What a stranger's folder may ask for: nothing outside itself, and nothing from the network."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trifecta._utils.extras import require
from trifecta._utils.yaml_files import parse_yaml
from trifecta.data.files import image_extensions

# Files in which ``datasets`` looks for patterns of data files.
_DESCRIPTIONS = ("README.md", ".huggingface.yaml")
_UNREADABLE = re.compile("[\\r\\n\\\\\\udc80-\\udcff]")
_MOST_NAMED = 10


def check_description(folder: Path) -> None:
    """Check that the folder's own description names no data files outside it.

    Raises:
        ValueError: it names a path out of the folder, an absolute one, or an address; or cannot be read.
    """
    for name in _DESCRIPTIONS:
        file = folder / name
        if not file.is_file():
            continue
        for pattern in _texts(_configs(file)):
            if _leads_out(pattern):
                raise ValueError(
                    f"{file} asks for data files outside its folder, {pattern!r:.100}: a local folder "
                    "reads only itself; remove that line, or move the files"
                )


def check_names(folder: Path) -> None:
    """Check that everything below ``folder`` has a name that ``datasets`` can read.

    Raises:
        ValueError: a name has a line break, a backslash or bytes that are no UTF-8; names it.
    """
    for parent, folders, files in _walk(folder):
        for name in (*folders, *files):
            if _UNREADABLE.search(name):
                raise ValueError(
                    f"a name in {str(parent)!a} has a line break, a backslash or bytes that are no UTF-8, "
                    f"{name!a}: rename it"
                )


def warn_of_left_out(folder: Path, used: set[str]) -> None:
    """Warn of image files below ``folder`` that are not among ``used``, and of folders without a file."""
    extensions, left_out = image_extensions(), []
    for parent, folders, files in _walk(folder):
        images = [parent / name for name in files if Path(name).suffix.lower() in extensions]
        left_out += [str(file.relative_to(folder)) for file in images if str(file) not in used]
        if not folders and not files and parent != folder:
            left_out.append(f"{parent.relative_to(folder)}/")
    if left_out:
        shown = ", ".join(sorted(left_out)[:_MOST_NAMED])
        more = f" and {len(left_out) - _MOST_NAMED:,} more" if len(left_out) > _MOST_NAMED else ""
        warnings.warn(f"not used, of what is in {folder}: {shown}{more}", stacklevel=5)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Everything that is not hidden, a folder at a time."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield Path(parent), folders, [name for name in files if not name.startswith(".")]


def readable_folders(source: str) -> tuple[Path, ...]:
    """The folders in which images of ``source`` may lie: itself, and where ``datasets`` keeps files."""
    config = require("datasets").config
    own = [Path(source).expanduser()] if Path(source).expanduser().is_dir() else []
    kept = (
        config.HF_CACHE_HOME,
        config.HF_DATASETS_CACHE,
        require("huggingface_hub").constants.HF_HUB_CACHE,
    )
    folders = [*own, *(Path(folder) for folder in kept)]
    return tuple(folder.absolute() for folder in [*folders, *(f.resolve() for f in folders)])


def is_within(path: str, folders: tuple[Path, ...]) -> bool:
    """Whether ``path`` lies in one of ``folders``, by its name: links in them are the user's own."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  (resolve would follow links)
    return any(whole.is_relative_to(folder) for folder in folders)


def _configs(file: Path) -> Any:
    """Return what the file says about data files; None where it says nothing."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            # The block that ``datasets`` itself will read.
            block = require("huggingface_hub.repocard").REGEX_YAML_BLOCK.search(text)
            text = block[2] if block else ""
        plain = parse_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    return plain.get("configs") if isinstance(plain, dict) else None


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        yield from (text for value in plain.values() for text in _texts(value))
    elif isinstance(plain, list):
        yield from (text for value in plain for text in _texts(value))


def _leads_out(pattern: str) -> bool:
    parts = pattern.replace("\\", "/").split("/")
    return ".." in parts or "://" in pattern or "::" in pattern or pattern.startswith(("/", "\\", "~"))
