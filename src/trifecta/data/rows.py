"""The rows of a split: labels by column, and images that are decoded later."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from trifecta._utils.extras import require
from trifecta.data.decode import Encoded

_FILES_PER_TASK = 256


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        kind: ``image``, ``class`` (integers with names), ``integer``, ``text``, ``binary`` or ``other``.
        type: for messages.
        names: of the classes, for ``class``.
    """

    kind: str
    type: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """The rows of a split.

    Attributes:
        split: its name.
        columns: by name.
        count: of the rows.
        values: returns a column as an Arrow array, whole.
        encoded: returns the images of a column from one row up to another.
        content: returns a digest of all that the pixels depend on.
        files: of each row, or of all of them, relative to the source; for recognising the rows again.
    """

    split: str
    columns: Mapping[str, Column]
    count: int
    values: Callable[[str], Any]
    encoded: Callable[[str, int, int], list[Encoded]]
    content: Callable[[], str]
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return self.count

    def select(self, kept: Sequence[int]) -> "Rows":
        """The rows at ``kept``, ascending."""

        def encoded(column: str, start: int, stop: int) -> list[Encoded]:
            wanted = kept[start:stop]
            every = self.encoded(column, wanted[0], wanted[-1] + 1)
            return [every[index - wanted[0]] for index in wanted]

        return replace(
            self,
            count=len(kept),
            values=lambda column: self.values(column).take(require("pyarrow").array(kept)),
            encoded=encoded,
            content=lambda: digest([self.content(), *map(str, kept)]),
            files=[self.files[index] for index in kept] if len(self.files) == self.count else self.files,
        )


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(text.encode(errors="surrogatepass") + b"\0")
    return total.hexdigest()


def file_rows(
    split: str,
    folder: Path,
    files: Sequence[str],
    labels: Mapping[str, Any],
    columns: Mapping[str, Column],
) -> Rows:
    """Rows of image files.

    Args:
        split: its name.
        folder: that the files lie in.
        files: relative to it.
        labels: Arrow arrays with a value a file, by column.
        columns: of ``labels``.
    """

    def encoded(_: str, start: int, stop: int) -> list[Encoded]:
        paths = [folder / file for file in files[start:stop]]
        return [(str(path), path) for path in paths]

    return Rows(
        split=split,
        columns={"image": Column("image", "Image"), **columns},
        count=len(files),
        values=labels.__getitem__,
        encoded=encoded,
        content=lambda: sampled([folder / file for file in files], pieces=16, size=2**11),
        files=files,
    )


def sampled(files: Sequence[Path], *, pieces: int, size: int) -> str:
    """Return a digest of files' sizes, dates and content.

    A file of at most ``pieces · size`` bytes is read whole, of a larger one ``pieces`` evenly spread ones.
    """

    def task(start: int) -> list[str]:
        return [_sampled(file, pieces, size) for file in files[start : start + _FILES_PER_TASK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = pool.map(task, range(0, len(files), _FILES_PER_TASK))
        return digest(text for texts in tasks for text in texts)


def _sampled(file: Path, pieces: int, size: int) -> str:
    total = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb", buffering=0) as opened:
            facts = os.fstat(opened.fileno())
            step = max(size, (facts.st_size - size) // (pieces - 1))
            for position in range(0, facts.st_size, step):
                opened.seek(position)
                total.update(opened.read(size))
    except OSError:  # its decoding says why
        return "unreadable"
    return f"{facts.st_size} {facts.st_mtime_ns} {total.hexdigest()}"
