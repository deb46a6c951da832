"""The run folder: what a training run leaves, and how it is read again."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trifecta._utils import checksums
from trifecta._utils.files import StorageError, write_atomically
from trifecta._utils.yaml_files import read_yaml, yaml_text
from trifecta.distributed.faults import ProcessError
from trifecta.network import LocalNetwork
from trifecta.training.checkpoint import read_checkpoint, write_checkpoint
from trifecta.training.claimed_folder import ClaimedFolder
from trifecta.training.config import RunConfig, to_plain, written_config
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.interrupted import Interrupted
from trifecta.training.meter import DivergenceError
from trifecta.training.records import check_history, check_result

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
        self._write_text(self.config, checksums.signed_text(yaml_text(plain)))

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
        plain, text = read_yaml(self.config)
        if not checksums.is_whole_text(text):
            raise ValueError(
                f"{self.config} is not what the run wrote: it is damaged, or was changed; other settings "
                f"make another run: trifecta train --recipe {self.config} --out FOLDER"
            )
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
        resolved = read_yaml(self.config)[0].get("resolved")
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
