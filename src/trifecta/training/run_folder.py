"""The run folder: what a training run leaves, and how it is read again."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from safetensors.torch import save

from trifecta._utils.files import write_atomically
from trifecta.data import ImageData
from trifecta.network import LocalNetwork
from trifecta.nn.shapes import ImageShape, SampleShape
from trifecta.training.config import RunConfig, read_yaml, to_plain, whole_config

Imported = Iterable[str | ModuleType]


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Facts about its data that a trained network needs to be used without it.

    Attributes:
        sample_shape: of one sample, (C, H, W) of images.
        classes: names, in label order.
        mean: per channel of the training split, of pixels in 0 … 1.
        std: likewise; both are empty where samples are taken as they are.
        integer: whether samples are integer tokens.
    """

    sample_shape: SampleShape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    integer: bool = False

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W), for what reads image files.

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
        """The facts about ``data``."""
        return cls(
            sample_shape=data.sample_shape,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
            integer=data.test.images.dtype == torch.int64,
        )


# Raise it when a checkpoint of before could not be resumed.
CHECKPOINT_FORMAT = 2


class RunFolder:
    """The files of one run: the names are a contract, see the README."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.history = self.path / "history.jsonl"
        self.result = self.path / "result.json"
        self.model = self.path / "model.safetensors"
        self.checkpoint = self.path / "checkpoint" / "state.pt"
        self.report = self.path / "report.html"

    def require_unused(self) -> None:
        """Check that nothing would be overwritten.

        Raises:
            ValueError: the path is a file, or a folder that is not empty.
        """
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise ValueError(
                f"a run needs a folder of its own: {self.path} exists and is not empty; choose "
                f"another --out, or continue that run with --resume {self.path}"
            )

    def create(self) -> None:
        """Make the folder.

        Raises:
            ValueError: the file system does not allow it.
        """
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot create the run folder {self.path} ({error.strerror}): choose another --out"
            ) from None

    def write_config(self, config: RunConfig, facts: DatasetFacts, precision: str | None = None) -> None:
        """Write ``config.yaml``: settings, facts about the data, and what ``auto`` came to."""
        plain = to_plain(config) | {"dataset": _listed(asdict(facts))}
        if precision is not None:
            plain["resolved"] = {"precision": precision}
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        write_atomically(self.config, lambda path: path.write_text(text))

    def read_config(self, *, imports: Imported = ()) -> tuple[RunConfig, DatasetFacts]:
        """Read settings and data facts of the run.

        Args:
            imports: modules of your own whose parts the settings may name.

        Raises:
            ValueError: this is not a run folder, or its settings name a part from another module.
        """
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml")
        plain = read_yaml(self.config)
        facts = plain.pop("dataset", None)
        resolved = plain.pop("resolved", None)
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
            known = DatasetFacts(**values)
        except (AttributeError, TypeError):
            known = None
        is_whole = known is not None and set(facts) == {field.name for field in fields(DatasetFacts)}
        if known is None or not is_whole or resolved is None or len(known.mean) != len(known.std):
            raise ValueError(
                f"{self.config} does not hold a run's facts (dataset: …, resolved: …): it was cut short"
            )
        return whole_config(plain, self.config, imports=imports), known

    def write_history(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write ``history.jsonl``, one epoch a line."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.history, lambda path: path.write_text(text))

    def read_history(self) -> list[dict[str, Any]]:
        """The epochs so far."""
        if not self.history.is_file():
            return []
        return [json.loads(line) for line in self.history.read_text().splitlines()]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        text = json.dumps(result, indent=2) + "\n"
        write_atomically(self.result, lambda path: path.write_text(text))

    def remove_result(self) -> None:
        """Take away what says how the run ended, as it goes on."""
        for file in (self.result, self.report):
            file.unlink(missing_ok=True)

    def write_model(self, network: LocalNetwork) -> None:
        """Write weights and buffers to ``model.safetensors``."""
        tensors = {name: t.cpu().contiguous() for name, t in network.state_dict().items()}
        write_atomically(self.model, lambda path: path.write_bytes(save(tensors)))

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write what resuming needs."""
        whole = {"format": CHECKPOINT_FORMAT, **state}
        write_atomically(self.checkpoint, lambda path: torch.save(whole, path))

    def read_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """Read what :meth:`write_checkpoint` wrote.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        if not self.checkpoint.is_file():
            raise ValueError(f"{self.path} has no checkpoint to resume from")
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises whatever the damage happens to cause
            raise ValueError(
                f"cannot read the checkpoint {self.checkpoint}: {type(error).__name__}; "
                "it is damaged or was not written by trifecta train"
            ) from None
        if state.get("format") != CHECKPOINT_FORMAT:
            raise ValueError(
                f"{self.checkpoint} was written by another version of trifecta: resume with that one, or "
                f"start again with --recipe {self.config}"
            )
        return state


def _listed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in facts.items()}
