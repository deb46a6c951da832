"""The encoded images of a split, row by row."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trifecta._utils.extras import require
from trifecta.data.columns import find_image_column
from trifecta.data.config import DataConfig
from trifecta.data.decode import Encoded
from trifecta.data.local_folder import is_within, readable_folders, warn_of_left_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def reader(
    split: "Dataset", name: str, column: str, source: str
) -> Callable[[int, int], Iterable[Encoded]]:
    """Return a function that gives the encoded images from one row up to another."""
    folders = readable_folders(source)
    encoded = _column(split, column)

    def read(start: int, stop: int) -> Iterable[Encoded]:
        rows = encoded.slice(start, stop - start).to_pylist()
        return [_encoded(row, index, name, folders) for index, row in enumerate(rows, start)]

    return read


def warn_of_unused(splits: "DatasetDict", config: DataConfig) -> None:
    """Warn of images in a local folder that are in no split, where the images of splits are files."""
    folder = Path(config.source).expanduser()
    if not folder.is_dir():
        return
    if config.subset is not None and (folder / config.subset).is_dir():
        folder = folder / config.subset
    used: set[str] = set()
    for rows in splits.values():
        paths = require("pyarrow.compute").struct_field(
            _column(rows, find_image_column(rows, config.image_column)), "path"
        )
        used.update(path for path in paths.to_pylist() if path)
    if any(is_within(path, (folder.resolve(),)) for path in used):
        warn_of_left_out(folder.resolve(), used)


def _column(split: "Dataset", name: str) -> Any:
    """Return a column of images, encoded, as an Arrow array of bytes and paths."""
    rows = split.select_columns(name).cast_column(name, require("datasets").Image(decode=False))
    return rows.data.column(name)


def _encoded(
    row: dict[str, bytes | str | None] | None, index: int, split: str, folders: tuple[Path, ...]
) -> Encoded:
    """One row of images; what it is called counts rows from 0."""
    where = f"in row {index} of split '{split}'"
    data, path = (row["bytes"], row["path"]) if row is not None else (None, None)
    if isinstance(data, bytes):
        return where, data
    if isinstance(path, str):
        if not is_within(path, folders):
            raise ValueError(
                f"the image {where} is a file outside the source, {path!r:.100}: it is not read"
            )
        return path, Path(path)
    raise ValueError(f"there is no image {where}")
