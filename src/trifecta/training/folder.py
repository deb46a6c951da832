"""A folder that one process at a time writes to."""

import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trifecta._utils import files as checksums
from trifecta._utils.files import StorageError, is_leftover, sweep, write_atomically
from trifecta.network import LocalNetwork
from trifecta.parallel.faults import ProcessError
from trifecta.training.config import RunConfig, read_yaml, to_plain, written_config, yaml_text
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.meter import DivergenceError


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


_NUMBER = (int, float)
# Lists have one value a block; what may be missing was added by a version, or by validation images.
_OF_EPOCH = {"seconds": _NUMBER, "images_per_second": _NUMBER}
_BY_BLOCK = ("loss", "first_loss", "block_accuracy", "positive_score", "negative_score")
_OF_RESULT: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("test_accuracy", "seconds", "images_per_second"), _NUMBER),
    **dict.fromkeys(("parameters", "epochs", "seed"), (int,)),
    **dict.fromkeys(("method", "network", "data", "locality"), (str,)),
    "block_accuracy": (list,),
}


def check_history(records: Sequence[Any]) -> None:
    """Check that records are those of epochs 1, 2, …, each with a value a block.

    Raises:
        ValueError: they are not; names epoch and member.
    """
    blocks: int | None = None
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping) or record.get("epoch") != number:
            raise ValueError(f"epoch {number} is missing")
        _check(record, _OF_EPOCH, f"epoch {number}: ")
        if not _is_number_or_none(record.get("validation_accuracy")):
            accuracy = record["validation_accuracy"]
            raise ValueError(f"epoch {number}: validation_accuracy is {accuracy!r:.40}, not a number")
        if "evaluation_seconds" in record:
            _check(record, {"evaluation_seconds": _NUMBER}, f"epoch {number}: ")
        for name in _BY_BLOCK:
            values = record.get(name)
            if values is None and name != "loss":
                continue
            if not isinstance(values, list) or not all(map(_is_number_or_none, values)):
                raise ValueError(f"epoch {number}: {name} is {values!r:.40}, not a number a block")
            blocks = len(values) if blocks is None else blocks
            if len(values) != blocks:
                raise ValueError(f"epoch {number}: {name} has {len(values)} values for {blocks} blocks")


def check_result(result: Mapping[str, Any]) -> None:
    """Check that a result has what others read of it.

    Raises:
        ValueError: it has not; names the member.
    """
    _check(result, _OF_RESULT, "")


def _check(record: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    for name, allowed in kinds.items():
        value = record.get(name)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"{where}{name} is {value!r:.40}, not a {allowed[-1].__name__}")


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, _NUMBER) and not isinstance(value, bool))


# Raise it when a checkpoint of before could not be resumed.
FORMAT = 3
MOST_DEPTH = 16
MOST_DESCRIPTION_BYTES = 2**27
FIELDS = ("network", "learner", "position", "history", "epoch_seconds", "total_seconds", "meter")


def write_checkpoint(file: Path, previous: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, and keep the last checkpoint as ``previous``.

    Raises:
        StorageError: it cannot be written; both files are as they were, or both the last checkpoint.
    """
    whole = {"format": FORMAT, **state}
    if file.is_file():
        write_atomically(previous, lambda path: _link(file, path))
    write_atomically(file, lambda path: _save(whole, path))


def read_checkpoint(file: Path, previous: Path, device: torch.device) -> dict[str, Any]:
    """Read the last checkpoint, or the one before it with a warning where the last is damaged.

    Raises:
        ValueError: neither can be read.
    """
    try:
        return _read(file, device)
    except ValueError as error:
        if not previous.is_file():
            raise
        state = _read(previous, device)
        warnings.warn(f"{error}: going on from the checkpoint before it, {previous}", stacklevel=4)
        return state


@contextmanager
def reading(file: Path, field: str) -> Iterator[None]:
    """Turn whatever unfit contents of a checkpoint's ``field`` cause into one line that names it.

    Raises:
        ValueError: in place of any error within.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: {field} is not this run's ({reason:.200})") from None


def _read(file: Path, device: torch.device) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(archive)
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # both readers raise whatever the damage happens to cause
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(
            f"cannot read the checkpoint {file} ({reason}): it is damaged, or not one of trifecta train"
        ) from None
    written = state["format"] if isinstance(state, dict) and "format" in state else None
    if not isinstance(state, dict) or type(written) is not int or written != FORMAT:
        raise ValueError(
            f"{file} was written by another version of trifecta: resume with that one, or start again with "
            f"trifecta train --recipe {file.parent.parent / 'config.yaml'}"
        )
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise ValueError(f"the checkpoint {file} is not whole: it has no {missing[0]}")
    return state


def check_tensors(state: Any, source: Path, name: str = "", depth: int = 0) -> None:
    """Check that every tensor in nested mappings and lists holds its own values, and nothing else.

    Raises:
        ValueError: one does not; names it.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"{source} is nested more than {MOST_DEPTH} levels deep, at {name:.80}")
    if isinstance(state, Tensor):
        fault = _fault(state)
        if fault is not None:
            raise ValueError(f"{source}: {name} is {fault}, which no run writes")
        return
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, Mapping):
        members = state.items()
    elif isinstance(state, list | tuple):
        members = enumerate(state)
    for key, member in members:
        check_tensors(member, source, f"{name}.{key}" if name else str(key), depth + 1)


def _fault(tensor: Tensor) -> str | None:
    """Say what is unusual about a tensor; None where nothing is."""
    if type(tensor) is not Tensor:
        return f"a {type(tensor).__name__}"
    if tensor.layout is not torch.strided:
        return f"of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.is_quantized:
        return "quantised"
    if tensor.requires_grad:
        return "one that requires a gradient"
    if tensor.is_neg() or tensor.is_conj():
        return "a negated or conjugated view"
    if not is_dense(tensor) or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return f"a view of other memory (strides {tensor.stride()})"
    return None


def is_dense(tensor: Tensor) -> bool:
    """Whether the values of a tensor lie one behind the other, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


@torch.no_grad()
def _own_values(state: Any) -> Any:
    """Copy the tensors of a state that share memory with others, which would be stored with them."""
    if isinstance(state, Tensor):
        return state.clone() if _fault(state) else state
    if isinstance(state, Mapping):
        return {key: _own_values(member) for key, member in state.items()}
    if isinstance(state, list | tuple):
        copied = [_own_values(member) for member in state]
        return tuple(copied) if isinstance(state, tuple) else copied
    return state


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Check sizes before anything is read: PyTorch compresses nothing and describes in few words."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename:.80} is compressed")
        if entry.filename.endswith("/data.pkl") and entry.file_size > MOST_DESCRIPTION_BYTES:
            raise ValueError(f"its description has {entry.file_size:,} bytes")


def _link(file: Path, path: Path) -> None:
    """Give ``file`` the second name ``path``; copy it where the file system has no such names."""
    try:
        os.link(file, path)
    except OSError:
        shutil.copyfile(file, path)


def _save(state: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(_own_values(state), cast(IO[bytes], recorder))
        except RuntimeError:
            # PyTorch's writer forgets what the file system said.
            if recorder.error is not None:
                raise recorder.error from None
            raise


class _Recorder:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """A run stopped where it was asked to; its checkpoint continues it."""


# What a run goes on from.
WORTH_KEEPING = (Interrupted, DivergenceError, ProcessError, StorageError)
Imported = Iterable[str | ModuleType]
_EPOCH = "epoch"
# More than a history of a hundred thousand epochs, and than the names of a hundred thousand tensors.
MOST_BYTES = 2**26
MOST_RESULT_BYTES = MOST_HEADER_BYTES = 2**24


class RunFolder(ClaimedFolder):
    """The files of one run: the names are a contract, see the README.

    Each carries a checksum, and is written whole or not at all. What writes raises
    :class:`trifecta.training.StorageError` where the file system does not allow it; reading a damaged file
    raises a ValueError that names it.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(Path(path))
        self.config = self.path / "config.yaml"
        self.history = self.path / "history.jsonl"
        self.result = self.path / "result.json"
        self.model = self.path / "model.safetensors"
        self.checkpoint = self.path / "checkpoint" / "state.pt"
        self.previous = self.path / "checkpoint" / "previous.pt"
        self.report = self.path / "report.html"

    @contextmanager
    def begin(self, config: RunConfig) -> Iterator[None]:
        """Claim the folder for a new run, which can be resumed from here on.

        Where the run fails before it has trained anything, the folder is removed again: a mended one may
        have its name.

        Raises:
            ValueError: as :meth:`claim` and :meth:`require_unused`.
        """
        self.require_unused()
        with self.claim():
            self.require_unused()  # another process may have been here in between
            try:
                self.write_config(config)
                yield
            except WORTH_KEEPING as error:
                if isinstance(error, StorageError) and not self.checkpoint.is_file():
                    self.discard_untrained()
                raise
            except Exception:
                self.discard_untrained()
                raise

    def discard_untrained(self) -> None:
        """Remove the folder of a run that has trained nothing, if nothing else is in it."""
        if self.previous.is_file() or (self.history.is_file() and self.history.stat().st_size):
            return
        self.discard(self.config, self.checkpoint, self.history, self.model)

    @property
    def has_begun(self) -> bool:
        """Whether training has left anything to go on from.

        Raises:
            ValueError: it has, and its checkpoint is gone.
        """
        if self.checkpoint.is_file() or self.previous.is_file():
            return True
        if self.history.is_file() or self.model.is_file():
            raise ValueError(f"{self.path} has no checkpoint to resume from: {self.checkpoint} is missing")
        return False

    def write_config(
        self,
        config: RunConfig,
        facts: DatasetFacts | None = None,
        precision: str | None = None,
        replicas: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``config.yaml``: settings, facts about the data once it is read, what ``auto`` came to.

        Of a run of several processes also what its weights depend on, see :meth:`Alone.facts`.
        """
        plain = to_plain(config)
        if facts is not None:
            plain["dataset"] = facts.to_plain()
        if precision is not None:
            plain["resolved"] = {"precision": precision, **(replicas or {})}
        self._write_text(self.config, yaml_text(plain))

    def read_config(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts]:
        """Read settings and data facts of the run.

        Args:
            imports: modules of your own whose parts the settings may name.

        Raises:
            ValueError: this is not a run folder, its settings are not whole or name a part from another
                module, or it was stopped before it had read its data.
        """
        config, facts = self.read_settings(imports=imports)
        if facts is None:
            raise ValueError(
                f"{self.path} was stopped before it began to train: trifecta train --resume {self.path}"
            )
        return config, facts

    def read_settings(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts | None]:
        """Read the same; no facts where the run was stopped before it had read its data.

        Raises:
            ValueError: as :meth:`read_config`.
        """
        self._require_settings()
        plain = read_yaml(self.config)
        facts = plain.pop("dataset", None)
        plain.pop("resolved", None)
        config = written_config(plain, imports=imports)
        try:
            return config, None if facts is None else DatasetFacts.from_plain(facts)
        except ValueError as error:
            raise ValueError(f"{self.config}: dataset cannot be used: {error}") from None

    def _require_settings(self) -> None:
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml")

    def read_resolved(self) -> dict[str, Any]:
        """Return what a run has added to its settings: its precision and its processes; may be empty.

        Raises:
            ValueError: this is not a run folder.
        """
        self._require_settings()
        resolved = read_yaml(self.config).get("resolved")
        return resolved if isinstance(resolved, dict) else {}

    def write_history(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``history.jsonl``, one epoch a line."""
        self._write_text(self.history, "".join(f"{checksums.record_text(record)}\n" for record in records))

    def read_history(self) -> list[dict[str, Any]]:
        """The epochs so far.

        Raises:
            ValueError: a line is damaged, or epochs are missing.
        """
        if not self.history.is_file():
            return []
        lines = self._text(self.history).removesuffix("\n").split("\n")
        records = [
            checksums.checked_record(line, f"line {number} of {self.history}")
            for number, line in enumerate(lines, 1)
            if line
        ]
        try:
            check_history(records)
        except ValueError as error:
            raise ValueError(f"{self.history} is not a run's history: {error}") from None
        return records

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        self._write_text(self.result, f"{checksums.record_text(result, indent=2)}\n")

    def read_result(self) -> dict[str, Any]:
        """How the run ended.

        Raises:
            ValueError: it has not, the file is damaged, or this is not a run folder.
        """
        if not self.result.is_file():
            self._require_settings()
            raise ValueError(
                f"{self.path} has no result.json: it has not ended; trifecta train --resume {self.path}"
            )
        result = checksums.checked_record(self._text(self.result, MOST_RESULT_BYTES), str(self.result))
        try:
            check_result(result)
        except ValueError as error:
            raise ValueError(f"{self.result} is not a run's result: {error}") from None
        return result

    def remove_result(self) -> None:
        """Take away what says how the run ended, as it goes on."""
        for file in (self.result, self.report):
            file.unlink(missing_ok=True)

    def write_model(self, network: LocalNetwork, *, epoch: int) -> None:
        """Write weights and buffers to ``model.safetensors``, and the epoch at whose end they are."""
        tensors: dict[str, Tensor] = {}
        written: set[int] = set()
        for name, tensor in network.state_dict().items():
            own = tensor.cpu().contiguous()
            # A weight or buffer may have two names, but a file holds no memory twice.
            tensors[name] = own.clone() if own.untyped_storage().data_ptr() in written else own
            written.add(own.untyped_storage().data_ptr())
        metadata = {checksums.KEY: checksums.of_tensors(tensors), _EPOCH: str(epoch)}
        self._write(self.model, lambda path: path.write_bytes(save(tensors, metadata)))

    def read_model(self, most_bytes: int | None = None) -> tuple[dict[str, Tensor], bool]:
        """Read weights and buffers, and whether their checksum is right.

        Args:
            most_bytes: of the file, so that another network's does not fill the memory.

        Raises:
            ValueError: there are none, they are more, or they cannot be read.
        """
        if not self.model.is_file():
            raise ValueError(f"{self.path} has no model.safetensors: train it first")
        try:
            _check_header(self.model, most_bytes)
            with safe_open(self.model, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                stored = (file.metadata() or {}).get(checksums.KEY)
        except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
            raise ValueError(f"cannot read {self.model}: {' '.join(str(error).split())}") from None
        return tensors, stored == checksums.of_tensors(tensors)

    def model_epoch(self) -> int | None:
        """The epoch of the weights in ``model.safetensors``; None where it is damaged or does not say."""
        try:
            if not self.read_model()[1]:
                return None
            with safe_open(self.model, framework="pt") as file:
                return int(file.metadata()[_EPOCH])
        except (ValueError, KeyError):
            return None

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write what resuming needs; the checkpoint before it stays."""
        with self._advice():
            write_checkpoint(self.checkpoint, self.previous, state)

    def read_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """Read what :meth:`write_checkpoint` wrote last; where that is damaged, what it wrote before.

        Raises:
            ValueError: there is none, or neither can be read.
        """
        if not self.has_begun:
            raise ValueError(f"{self.path} has no checkpoint to resume from")
        return read_checkpoint(self.checkpoint, self.previous, device)

    def _write(self, file: Path, write: Callable[[Path], object]) -> None:
        """Write a file of the run.

        Raises:
            StorageError: it cannot be written; says what is safe.
        """
        with self._advice():
            write_atomically(file, write)

    def _write_text(self, file: Path, text: str) -> None:
        self._write(file, lambda path: path.write_text(text, encoding="utf-8"))

    @contextmanager
    def _advice(self) -> Iterator[None]:
        """Say what is safe where a file cannot be written."""
        try:
            yield
        except StorageError as error:
            safe = (
                f"the run is safe up to its last checkpoint, {self.checkpoint}: mend that, then "
                f"trifecta train --resume {self.path}"
                if self.checkpoint.is_file()
                else "nothing had been trained yet"
            )
            raise StorageError(f"{error}; {safe}") from None

    def _text(self, file: Path, most_bytes: int = MOST_BYTES) -> str:
        try:
            if file.stat().st_size > most_bytes:
                raise ValueError(f"it is larger than {most_bytes // 2**20} MiB")
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from None


def _check_header(file: Path, most_bytes: int | None) -> None:
    """Check sizes before anything is parsed: a file of safetensors begins with the size of its header."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > min(MOST_HEADER_BYTES, size):
        raise ValueError(f"its header is said to have {header:,} bytes")
    if most_bytes is not None and size - header > most_bytes:
        raise ValueError(f"it has {size:,} bytes, many more than this run's network")
