"""The folder of a run: the lock on it, its files, and the facts about its data."""

import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trifecta._utils import files
from trifecta._utils.files import StorageError, tensor_checksum
from trifecta.data import ImageData
from trifecta.data.images import sample_digests
from trifecta.network import LocalNetwork
from trifecta.nn.shapes import ImageShape, SampleShape
from trifecta.training.config import (
    Imported,
    RunConfig,
    read_config,
    read_value,
    read_yaml,
    to_plain,
    yaml_text,
)

# Increase it when older checkpoints can no longer be resumed.
CHECKPOINT_FORMAT = 3
# Training images whose digests a run keeps.
_MOST_SEEN = 16
# Types of the members that other code reads; those that may be None may be missing. A list is of blocks.
_NUMBERS = list[float | None]
EPOCH_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("seconds", "images_per_second"), float),
    **dict.fromkeys(("validation_accuracy", "evaluation_seconds"), float | None),
    **dict.fromkeys(("first_loss", "block_accuracy", "positive_score", "negative_score"), _NUMBERS | None),
    "epoch": int,
    "loss": _NUMBERS,
}
_RESULT_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("test_accuracy", "seconds", "images_per_second"), float),
    **dict.fromkeys(("parameters", "epochs", "seed"), int),
    **dict.fromkeys(("method", "network", "data", "locality"), str),
    "block_accuracy": _NUMBERS,
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
        seen: digests of some training images, separated by spaces; empty if unknown.
        checksum: of all samples and labels in memory, where no source has ``rows``; empty if unknown.
    """

    sample_shape: SampleShape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    integer: bool = False
    grey_range: tuple[int, ...] = ()
    rows: str = ""
    seen: str = ""
    checksum: str = ""

    def __post_init__(self) -> None:
        has_sizes = min(self.sample_shape, default=0) > 0 and min(self.std, default=1) > 0
        fits = len(self.std) == len(self.mean) in (0, *self.sample_shape[:1])
        if not (has_sizes and fits and self.classes and len(self.grey_range) in (0, 2)):
            raise ValueError(
                "a data set has sizes, classes, and a mean and an std above 0 for each channel or none: "
                f"received {self!r:.300}"
            )

    @property
    def image_shape(self) -> ImageShape:
        """Shape (C, H, W) of an image; a ValueError for a network of something else."""
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
        names = ("sample_shape", "classes", "mean", "std", "rows")
        same: Any = {name: getattr(data, name) for name in names}
        if data.train.images.dtype == torch.uint8 and len(data.train):
            spread = torch.arange(0, len(data.train), -(-len(data.train) // _MOST_SEEN))
            same["seen"] = " ".join(dict.fromkeys(sample_digests(data.train.select(spread))))
        return cls(**same, integer=data.test.images.dtype == torch.int64, grey_range=data.grey_range or ())

    @classmethod
    def from_plain(cls, plain: Any) -> "DatasetFacts":
        """Return the facts in a run's ``config.yaml``, without those that only other versions know."""
        if isinstance(plain, dict):
            plain = {own.name: plain[own.name] for own in fields(cls) if own.name in plain}
        facts: DatasetFacts = read_value(plain, cls, "dataset")
        return facts


class RunFolder:
    """The files of one run, see ``docs/training.md``, and the lock on them.

    Every file is written completely or not at all; a file system that fails is a
    :class:`trifecta.training.StorageError`. What cannot be read is a ``ValueError``. Binary files carry a
    checksum; files that people edit do not.
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
                files.remove_leftovers(folder)
            yield
        finally:
            lock.release()

    @contextmanager
    def begin(self, config: RunConfig) -> Iterator[None]:
        """Claim the folder for a new run, which can be resumed from here on.

        A run that fails before it has trained anything is removed, so that the next attempt may use it.
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
        """Raise a ValueError if a new run would overwrite something."""
        ours = (self._lock, self._lock.parent)
        there = (file for file in self.path.rglob("*") if file not in ours and not files.is_leftover(file))
        if self.path.is_file() or any(there):
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
        """Whether there is a checkpoint to continue from; a ValueError if there was one."""
        if self.checkpoint.is_file() or self.previous.is_file():
            return True
        if self.history.is_file() or self.model.is_file():
            raise ValueError(f"{self.path} has no checkpoint to resume from: {self.checkpoint} is missing")
        return False

    def write_config(self, config: RunConfig, **derived: Mapping[str, Any]) -> None:
        """Write settings, and what the run derived: facts about its ``dataset``, what it ``resolved``."""
        self._write_text(self.config, yaml_text(to_plain(config) | derived))

    def read_settings(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts | None]:
        """Return the settings of the run and the facts about its data, if it has read them.

        ``imports`` are modules of your own whose parts the settings may name.
        """
        facts = self._read_plain().get("dataset")
        config = read_config(self.config, imports=imports)
        try:
            return config, None if facts is None else DatasetFacts.from_plain(facts)
        except ValueError as error:
            raise ValueError(f"{self.config}: {error}") from None

    def read_config(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts]:
        """Return the same; a run that was stopped before it had read its data is a ValueError."""
        config, facts = self.read_settings(imports=imports)
        if facts is None:
            raise ValueError(f"{self.path} was stopped before it began to train: resume it")
        return config, facts

    def read_resolved(self) -> dict[str, Any]:
        """Return what the run derived from its settings, its precision and processes; may be empty."""
        resolved = self._read_plain().get("resolved")
        return resolved if isinstance(resolved, dict) else {}

    def _read_plain(self) -> dict[str, Any]:
        if not self.config.is_file():
            why = "it has no config.yaml" if self.path.exists() else "there is no such folder"
            raise ValueError(f"{self.path} is not a run folder: {why}{_runs_near(self.path)}")
        return read_yaml(self.config)

    def write_history(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``history.jsonl``, one epoch per line."""
        self._write_text(self.history, "".join(f"{json.dumps(record)}\n" for record in records))

    def read_history(self) -> list[dict[str, Any]]:
        """Return the record of every epoch so far."""
        text = self.history.read_text("utf-8", "replace") if self.history.is_file() else ""
        lines = enumerate(text.split("\n"), 1)
        return [checked_record(line, f"{self.history}, line {k}") for k, line in lines if line.strip()]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        self._write_text(self.result, f"{json.dumps(result, indent=2)}\n")

    def read_result(self) -> dict[str, Any]:
        """Return the result of the run, if it has ended."""
        if not self.result.is_file():
            self._read_plain()  # Raises if this is not a run folder.
            raise ValueError(f"{self.path} has no result.json: the run has not ended; resume it")
        return checked_record(self.result.read_text("utf-8", "replace"), str(self.result), _RESULT_KINDS)

    def write_model(self, network: LocalNetwork, *, epoch: int) -> None:
        """Write weights and buffers to ``model.safetensors``, with the epoch that they are from."""
        # Copies, because a tensor may have two names, and safetensors stores no memory twice.
        tensors = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in network.state_dict().items()
        }
        metadata = {"crc32": tensor_checksum(tensors), "epoch": str(epoch)}
        self._write(self.model, lambda path: path.write_bytes(save(tensors, metadata)))

    def read_model(self) -> dict[str, Tensor]:
        """Return weights and buffers by name."""
        return self._read_model()[0]

    def model_epoch(self) -> int | None:
        """Return the epoch that the stored weights are from; None if the file is damaged or has none."""
        try:
            return int(self._read_model()[1]["epoch"])
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
        if metadata.get("crc32", "") not in ("", tensor_checksum(tensors)):
            raise ValueError(f"{self.model} is damaged: resuming the run writes it again")
        return tensors, metadata

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state of a run, and keep the checkpoint before it as ``previous.pt``."""
        whole = {"format": CHECKPOINT_FORMAT, **_map_tensors(_owning_memory, state)}
        if self.checkpoint.is_file():
            self._write(self.previous, lambda path: _link(self.checkpoint, path))
        self._write(self.checkpoint, lambda path: _save(whole, path))

    def read_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """Return the last checkpoint, or the one before it, with a warning, if the last is damaged."""
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
            files.write_atomically(file, write)
        except StorageError as error:
            safe = f"the run is safe up to its last checkpoint, {self.checkpoint}: fix that, then resume it"
            told = safe if self.previous.is_file() else "nothing had been trained yet"
            raise StorageError(f"{error}; {told}") from None

    def _write_text(self, file: Path, text: str) -> None:
        self._write(file, lambda path: path.write_text(text, encoding="utf-8"))


def checked_record(
    record: str | Mapping[str, Any], where: str, kinds: Mapping[str, Any] = EPOCH_KINDS
) -> dict[str, Any]:
    """Return a record, or the one in a JSON text, whose members have the types of ``kinds``."""
    try:
        members = json.loads(record) if isinstance(record, str) else record
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(members, Mapping):
        raise ValueError(f"{where} is not a JSON object: received {members!r:.40}")
    try:
        return dict(members) | {
            name: read_value(members.get(name), kind, name)
            for name, kind in kinds.items()
            if name in members or NoneType not in get_args(kind)
        }
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_checkpoint(file: Path, device: torch.device) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        written = state["format"]
        _map_tensors(_require_plain, state)
    except Exception as error:  # Both readers raise whatever the damage happens to cause.
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(f"cannot read the checkpoint {file}, it is damaged ({reason})") from None
    if written != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{file} was written by another version of trifecta: resume with that version, or start a new "
            "run with the settings in config.yaml"
        )
    return state


def _map_tensors(change: Callable[[Tensor, str], Tensor], state: Any, name: str = "") -> Any:
    """Change every tensor of a state, by itself and its name."""
    if isinstance(state, Tensor):
        return change(state, name.removeprefix("."))
    if isinstance(state, Mapping):
        return {key: _map_tensors(change, member, f"{name}.{key}") for key, member in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_map_tensors(change, member, f"{name}.{k}") for k, member in enumerate(state))
    return state


def _require_plain(tensor: Tensor, name: str) -> Tensor:
    """Refuse a tensor that would train otherwise than its values say, such as an expanded one."""
    is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta
    if not is_plain or _is_part(tensor):
        raise ValueError(f"{name} is not a plain tensor with memory of its own")
    return tensor


def _owning_memory(tensor: Tensor, _: str) -> Tensor:
    """Copy a tensor that is part of a larger memory, all of which would be stored with it."""
    tensor = tensor.detach()
    return tensor.clone() if _is_part(tensor) or type(tensor) is not Tensor else tensor


def _is_part(tensor: Tensor) -> bool:
    """Whether a tensor shares its memory with others, or its values share theirs."""
    is_expanded = any(n > 1 and not step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return is_expanded or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


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


def _runs_near(path: Path) -> str:
    """Return a hint with the runs in a folder, beside it or in ``runs``; empty if there are none."""
    for place in (path, path.parent, Path("runs")):
        names = [str(config.parent) for config in sorted(place.glob("*/config.yaml"))]
        if names:
            return f"; runs in {place}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
    return ""
