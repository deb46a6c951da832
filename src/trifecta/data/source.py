"""Opening a source: a local folder, or a data set of the Hugging Face Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from trifecta.data.extras import require

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB_TIMEOUT_SECONDS = 10


def open_source(source: str, subset: str | None) -> "DatasetDict":
    """All splits of a source, undecoded. A local folder is read without the network.

    Args:
        source: a folder or a Hub id.
        subset: a configuration of the data set, or a folder within the folder.

    Raises:
        ValueError: there is no such source or subset, or it cannot be read.
        ImportError: ``datasets`` is not installed.

    """
    folder = _local_folder(source)
    if folder is None:
        with _hub(offline=not _hub_answers(source)):
            return _load(source, subset, f"'{source}' from the Hugging Face Hub")
    if subset is not None and (folder / subset).is_dir():
        folder, subset = folder / subset, None
    return _load(str(folder), subset, f"folder {source}")


def _local_folder(source: str) -> Path | None:
    """The folder that ``source`` names, None if it can only be a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ValueError(
            f"--data is a folder, a Hub id or 'digits', {source} is a file: give the folder that it lies in"
        )
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ValueError(f"no folder {source}: check the spelling, or try --data digits")
    return None


def _load(path: str, subset: str | None, what: str) -> "DatasetDict":
    datasets = require("datasets")
    errors = datasets.exceptions
    try:
        with _no_progress_bars():
            splits: DatasetDict = datasets.load_dataset(path, subset)
    except (errors.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"cannot load {what}: {_advice(reason, error)}") from error
    return splits
