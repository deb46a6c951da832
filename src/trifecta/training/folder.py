"""The folder of a run: the lock on it, its files, and the facts about its data."""

import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trifecta._utils.checks import tensor_checksum
from trifecta._utils.files import (
    StorageError,
    is_leftover,
    remove_leftovers,
    write_atomically,
)
from trifecta.data import ImageData
from trifecta.network import LocalNetwork
from trifecta.nn.shapes import ImageShape, SampleShape
from trifecta.training.config import RunConfig, read_yaml, to_plain, written_config, yaml_text

Imported = Iterable[str | ModuleType]
# Increase it when older checkpoints can no longer be resumed.
CHECKPOINT_FORMAT = 3
_CHECKSUM, _EPOCH = "crc32", "epoch"
_LISTS = {"sample_shape": int, "classes": str, "mean": float, "std": float, "grey_range": int}
# Types of the members that other code reads, and whether they may be None. A list has a number per block.
Kinds = Mapping[str, tuple[type, bool]]
EPOCH_KINDS: Kinds = {
    "epoch": (int, False),
    **dict.fromkeys(("seconds", "images_per_second"), (float, False)),
    **dict.fromkeys(("validation_accuracy", "evaluation_seconds"), (float, True)),
    "loss": (list, False),
    **dict.fromkeys(("first_loss", "block_accuracy", "positive_score", "negative_score"), (list, True)),
}
_RESULT_KINDS: Kinds = {
    **dict.fromkeys(("test_accuracy", "seconds", "images_per_second"), (float, False)),
    **dict.fromkeys(("parameters", "epochs", "seed"), (int, False)),
    **dict.fromkeys(("method", "network", "data", "locality"), (str, False)),
    "block_accuracy": (list, False),
}


class Interrupted(Exception):  # noqa: N818  (not an error)
    """Raised when a run stops because it was asked to; its checkpoint continues it."""


class DivergenceError(RuntimeError):
    """Training produced a number that is not finite."""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """The facts about a data set that a trained network needs in order to be used without it.

    Attributes:
        sample_shape: shape of one sample, (C, H, W) for images.
        classes: class names, in label order.
        mean: per-channel mean of the training split, with pixels in 0 … 1.
        std: per-channel standard deviation; both are empty if samples are used as they are.
        integer: whether samples are integer tokens.
        grey_range: greys of 16-bit training images that were mapped to 0 and 255; empty for 8 bits.
        rows: identifies the rows of the source's training split; empty if unknown.

    Raises:
        ValueError: the values cannot describe a data set.
    """

    sample_shape: SampleShape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    integer: bool = False
    grey_range: tuple[int, ...] = ()
    rows: str = ""

    def __post_init__(self) -> None:
        if not self.sample_shape or min(self.sample_shape) < 1:
            raise ValueError(f"sample_shape needs sizes of 1 or more: received {self.sample_shape}")
        if not self.classes:
            raise ValueError("classes needs one name or more: received none")
        if self.mean and len(self.mean) != self.sample_shape[0]:
            raise ValueError(f"mean needs {self.sample_shape[0]} values, one per channel: {self.mean}")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"std needs as many values as mean, all above 0: received {self.std}")
        if self.grey_range and (len(self.grey_range) != 2 or self.grey_range[0] > self.grey_range[1]):
            raise ValueError(f"grey_range needs a low and a high value: received {self.grey_range}")

    @property
    def image_shape(self) -> ImageShape:
        """Shape (C, H, W) of an image.

        Raises:
            ValueError: the network was trained on something else.
        """
        if len(self.sample_shape) != 3 or self.integer:
            raise ValueError(
                f"this run was trained on samples of shape {self.sample_shape}, not on image files: "
                "predict in Python, trifecta.load(RUN).predict(samples)"
            )
        channels, height, width = self.sample_shape
        return channels, height, width

    @classmethod
    def of(cls, data: ImageData) -> "DatasetFacts":
        """Return the facts about ``data``."""
        return cls(
            sample_shape=data.sample_shape,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            integer=data.test.images.dtype == torch.int64,
            grey_range=data.grey_range or (),
            rows=data.rows,
        )

    @classmethod
    def from_plain(cls, plain: Any) -> "DatasetFacts":
        """Return the facts that :meth:`to_plain` turned into plain values; absent ones are empty.

        Raises:
            ValueError: the values have other types, or cannot describe a data set.
        """
        try:
            lists: dict[str, Any] = {
                name: tuple(kind(value) for value in plain.get(name) or ()) for name, kind in _LISTS.items()
            }
            return cls(**lists, integer=bool(plain.get("integer")), rows=str(plain.get("rows", "")))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"dataset cannot be used: {error}") from None

    def to_plain(self) -> dict[str, Any]:
        """Return the facts as lists, text and numbers."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


class RunFolder:
    """The files of one run, see ``docs/training.md``, and the lock on them.

    Every file is written completely or not at all. Writing raises
    :class:`trifecta.training.StorageError` if the file system fails. Binary files carry a checksum; files
    that people edit do not.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.history = self.path / "history.jsonl"
        self.result = self.path / "result.json"
        self.model = self.path / "model.safetensors"
        self.report = self.path / "report.html"
        self.checkpoint = self.path / "checkpoint" / "state.pt"
        self.previous = self.path / "checkpoint" / "previous.pt"
        self._lock = self.path / "checkpoint" / "lock"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the folder against other processes, and create it if it is new.

        One thread may claim it again within its claim. The lock ends with the process at the latest.

        Raises:
            ValueError: another process holds the lock, or the folder cannot be written to.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
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
            for folder in (self.path, self._lock.parent):
                remove_leftovers(folder)
            yield
        finally:
            lock.release()

    @contextmanager
    def begin(self, config: RunConfig) -> Iterator[None]:
        """Claim the folder for a new run, which can be resumed from here on.

        A run that fails before it has trained anything is removed again, so that its folder is free for the
        next attempt.

        Raises:
            ValueError: as :meth:`claim` and :meth:`require_unused`.
        """
        self.require_unused()
        with self.claim():
            self.require_unused()  # Another process may have written to it in between.
            try:
                self.write_config(config)
                yield
            except (Interrupted, DivergenceError):
                raise
            except Exception:
                self.discard_untrained()
                raise

    def require_unused(self) -> None:
        """Check that a new run would overwrite nothing.

        Raises:
            ValueError: the path is a file, or a folder that is not empty.
        """
        ours = (self._lock, self._lock.parent)
        files = (file for file in self.path.rglob("*") if file not in ours and not is_leftover(file))
        if self.path.is_file() or any(files):
            raise ValueError(
                f"a run needs a folder of its own: {self.path} exists and is not empty; choose another "
                "one, or resume the run in it"
            )

    def discard_untrained(self) -> None:
        """Remove the run if it has trained nothing, and its folder if nothing else is in it."""
        if self.previous.is_file():
            return
        with suppress(OSError):
            for file in (self.config, self.checkpoint, self.history, self.model, self._lock):
                file.unlink(missing_ok=True)
            for folder in (self._lock.parent, self.path):
                folder.rmdir()

    @property
    def has_begun(self) -> bool:
        """Whether there is a checkpoint to continue from.

        Raises:
            ValueError: the run has trained, and its checkpoint is gone.
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
        resolved: Mapping[str, Any] | None = None,
    ) -> None:
        """Write settings, facts about the data once it is read, and what the run derived from both."""
        plain = to_plain(config)
        if facts is not None:
            plain["dataset"] = facts.to_plain()
        if resolved is not None:
            plain["resolved"] = dict(resolved)
        self._write_text(self.config, yaml_text(plain))

    def read_config(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts]:
        """Return the settings of the run and the facts about its data.

        Args:
            imports: modules of your own whose parts the settings may name.

        Raises:
            ValueError: this is not a run folder, its settings cannot be used, they name a part from another
                module, or the run was stopped before it had read its data.
        """
        config, facts = self.read_settings(imports=imports)
        if facts is None:
            raise ValueError(f"{self.path} was stopped before it began to train: resume it")
        return config, facts

    def read_settings(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts | None]:
        """Return the same, with no facts if the run was stopped before it had read its data."""
        plain = self.read_plain()
        facts = plain.pop("dataset", None)
        plain.pop("resolved", None)
        try:
            config = written_config(plain, imports=imports)
            return config, None if facts is None else DatasetFacts.from_plain(facts)
        except ValueError as error:
            raise ValueError(f"{self.config}: {error}") from None

    def read_resolved(self) -> dict[str, Any]:
        """Return what the run derived from its settings, its precision and processes; may be empty."""
        resolved = self.read_plain().get("resolved")
        return resolved if isinstance(resolved, dict) else {}

    def read_plain(self) -> dict[str, Any]:
        """Return everything in ``config.yaml`` as plain values.

        Raises:
            ValueError: this is not a run folder, or the file is not YAML.
        """
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml")
        return read_yaml(self.config)

    def write_history(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``history.jsonl``, one epoch per line."""
        self._write_text(self.history, "".join(f"{json.dumps(record)}\n" for record in records))

    def read_history(self) -> list[dict[str, Any]]:
        """Return the record of every epoch so far.

        Raises:
            ValueError: a line is no record of an epoch.
        """
        if not self.history.is_file():
            return []
        lines = self._read_text(self.history).split("\n")
        return [
            checked_record(_parse(line, where := f"{self.history}, line {number}"), where)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        self._write_text(self.result, f"{json.dumps(result, indent=2)}\n")

    def read_result(self) -> dict[str, Any]:
        """Return the result of the run.

        Raises:
            ValueError: the run has not ended, or the file holds no result.
        """
        if not self.result.is_file():
            self.read_plain()  # Raises if this is not a run folder.
            raise ValueError(f"{self.path} has no result.json: the run has not ended; resume it")
        result = _parse(self._read_text(self.result), str(self.result))
        return checked_record(result, str(self.result), _RESULT_KINDS)

    def write_model(self, network: LocalNetwork, *, epoch: int) -> None:
        """Write weights and buffers to ``model.safetensors``, with the epoch that they are from."""
        tensors: dict[str, Tensor] = {}
        written: set[int] = set()
        for name, tensor in network.state_dict().items():
            own = tensor.cpu().contiguous()
            # A tensor may have two names, but safetensors stores no memory twice.
            tensors[name] = own.clone() if own.untyped_storage().data_ptr() in written else own
            written.add(own.untyped_storage().data_ptr())
        metadata = {_CHECKSUM: tensor_checksum(tensors), _EPOCH: str(epoch)}
        self._write(self.model, lambda path: path.write_bytes(save(tensors, metadata)))

    def read_model(self) -> dict[str, Tensor]:
        """Return weights and buffers by name.

        Raises:
            ValueError: there are none, or the file is damaged.
        """
        return self._read_model()[0]

    def model_epoch(self) -> int | None:
        """Return the epoch that the stored weights are from; None if the file is damaged or has none."""
        try:
            return int(self._read_model()[1][_EPOCH])
        except (ValueError, KeyError):
            return None

    def _read_model(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        if not self.model.is_file():
            raise ValueError(f"{self.path} has no model.safetensors: train it first")
        try:
            with safe_open(self.model, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
            raise ValueError(f"cannot read {self.model}: {' '.join(str(error).split())}") from None
        if metadata.get(_CHECKSUM, "") not in ("", tensor_checksum(tensors)):
            raise ValueError(f"{self.model} is damaged: resuming the run writes it again")
        return tensors, metadata

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state of a run, and keep the checkpoint before it as ``previous.pt``."""
        whole = {"format": CHECKPOINT_FORMAT, **_owning_memory(state)}
        if self.checkpoint.is_file():
            self._write(self.previous, lambda path: _link(self.checkpoint, path))
        self._write(self.checkpoint, lambda path: _save(whole, path))

    def read_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """Return the last checkpoint, or the one before it, with a warning, if the last is damaged.

        Raises:
            ValueError: there is none, or neither can be read.
        """
        if not self.has_begun:
            raise ValueError(f"{self.path} has no checkpoint to resume from")
        try:
            return _read_checkpoint(self.checkpoint, device)
        except ValueError as error:
            if not self.previous.is_file():
                raise
            state = _read_checkpoint(self.previous, device)
            warnings.warn(f"{error}: resuming from the one before it, {self.previous}", stacklevel=3)
            return state

    def _write(self, file: Path, write: Callable[[Path], object]) -> None:
        try:
            write_atomically(file, write)
        except StorageError as error:
            safe = (
                f"the run is safe up to its last checkpoint, {self.checkpoint}: fix that, then resume it"
                if self.previous.is_file()
                else "nothing had been trained yet"
            )
            raise StorageError(f"{error}; {safe}") from None

    def _write_text(self, file: Path, text: str) -> None:
        self._write(file, lambda path: path.write_text(text, encoding="utf-8"))

    def _read_text(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object; earlier versions wrote a checksum as its last member."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object: received {text:.40}")
    record.pop(_CHECKSUM, None)
    return record


def checked_record(record: dict[str, Any], where: str, kinds: Kinds = EPOCH_KINDS) -> dict[str, Any]:
    """Return ``record`` if its members have their types; those that may be None may be missing, too.

    Raises:
        ValueError: one has not; names it.
    """
    for name, (kind, is_optional) in kinds.items():
        value = record.get(name)
        if not (_has_type(value, kind) or (value is None and is_optional)):
            raise ValueError(f"{where}: {name} is not a {kind.__name__}: received {value!r:.40}")
    return record


def _has_type(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(v is None or _has_type(v, float) for v in value)
    return isinstance(value, (int, float) if kind is float else kind)


def _read_checkpoint(file: Path, device: torch.device) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        written = state["format"]
        _require_plain_tensors(state)
    except Exception as error:  # Both readers raise whatever the damage happens to cause.
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(f"cannot read the checkpoint {file}, it is damaged ({reason})") from None
    if written != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{file} was written by another version of trifecta: resume with that version, or start a new "
            "run with the settings in config.yaml"
        )
    return state


def _require_plain_tensors(state: Any, name: str = "") -> None:
    """Refuse tensors that would train otherwise than their values say, such as expanded ones."""
    if isinstance(state, Tensor):
        is_plain = type(state) is Tensor and state.layout is torch.strided and not state.is_meta
        if not is_plain or _is_part(state):
            raise ValueError(f"{name} is not a plain tensor with memory of its own")
    members = state.items() if isinstance(state, Mapping) else ()
    for key, member in enumerate(state) if isinstance(state, list | tuple) else members:
        _require_plain_tensors(member, f"{name}.{key}" if name else str(key))


def _is_part(tensor: Tensor) -> bool:
    """Whether a tensor shares its memory with others, or its values share theirs."""
    is_expanded = any(n > 1 and not step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return is_expanded or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


@torch.no_grad()
def _owning_memory(state: Any) -> Any:
    """Copy tensors that are part of a larger memory, all of which would be stored with them."""
    if isinstance(state, Tensor):
        return state.detach().clone() if _is_part(state) or type(state) is not Tensor else state.detach()
    if isinstance(state, Mapping):
        return {key: _owning_memory(member) for key, member in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_owning_memory(member) for member in state)
    return state


def _link(file: Path, path: Path) -> None:
    """Give ``file`` a second name, or copy it if the file system has no links."""
    try:
        os.link(file, path)
    except OSError:
        shutil.copyfile(file, path)


def _save(state: Mapping[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # PyTorch's writer raises it in place of an OSError.
        raise OSError(str(error).partition("\n")[0]) from None
