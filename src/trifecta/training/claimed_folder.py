"""A folder that one process at a time writes to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trifecta._utils.files import is_leftover, sweep


class ClaimedFolder:
    """A folder of a run, and the lock on it, which lies in ``checkpoint/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inner = path / "checkpoint"
        self._lock = self._inner / "lock"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder against every other process that would write to it, and make it if it is new.

        A claim within a claim of the same thread is the same one. It ends with the process at the latest.

        Raises:
            ValueError: somebody else holds it, or the file system does not allow it.
        """
        try:
            self._inner.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock, timeout=0, is_singleton=True)
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"another process is training in {self.path}: wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise ValueError(
                f"cannot write to the run folder {self.path} ({error.strerror}): choose another one"
            ) from None
        try:
            sweep(self.path)
            sweep(self._inner)
            yield
        finally:
            lock.release()

    def require_unused(self) -> None:
        """Check that nothing would be overwritten.

        Raises:
            ValueError: the path is a file, or a folder that is not empty.
        """
        if self.path.is_file() or (self.path.is_dir() and any(self._contents())):
            raise ValueError(
                f"a run needs a folder of its own: {self.path} exists and is not empty; choose "
                f"another one, or continue that run: trifecta train --resume {self.path}"
            )

    def discard(self, *files: Path) -> None:
        """Remove ``files`` and the folder, if nothing else is in it."""
        try:
            for file in (*files, self._lock):
                file.unlink(missing_ok=True)
            for folder in (self._inner, self.path):
                folder.rmdir()
        except OSError:  # There is more in it, or the file system does not allow it: then it stays.
            return

    def _contents(self) -> Iterator[Path]:
        """Everything in the folder but what a claim alone leaves there."""
        of_claims = (self._lock, self._inner)
        return (file for file in self.path.rglob("*") if file not in of_claims and not is_leftover(file))
