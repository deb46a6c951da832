"""Trained networks on the Hugging Face Hub: weights, settings and a card; no code, and nothing pickled."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from trifecta._utils.extras import require
from trifecta.training import RunFolder, TrainedModel, load

require("huggingface_hub", extra="hub")
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download  # noqa: E402

_NEEDED, _WELCOME = ("config.yaml", "model.safetensors"), ("result.json", "report.html")
_CARD = """---
library_name: trifecta
pipeline_tag: image-classification
tags:
- local-learning
- {method}
---

# {method}

Trained block by block, without end-to-end backpropagation, by trifecta.

| | |
|---|---|
{table}

Classes: {classes}

```python
from trifecta.integrations.hub import HubModel

model = HubModel.from_pretrained("THIS_REPOSITORY")
model.predict(["image.png"])
```
"""


class HubModel(ModelHubMixin):
    """A trained network from a run folder, from the Hub, or from a copy of either.

    ``HubModel("runs/first").push_to_hub("me/digits")`` shares a run, and
    ``HubModel.from_pretrained("me/digits")`` loads one. Arguments and errors are those of
    :func:`trifecta.load`; all methods of the :class:`trifecta.TrainedModel`, such as ``predict``, are
    available.

    Attributes:
        model: the :class:`trifecta.TrainedModel`.
    """

    def __init__(
        self, folder: str | Path, *, imports: Iterable[str | ModuleType] = (), device: str = "auto"
    ) -> None:
        self._hub_mixin_config = None  # The mixin would save these arguments, with a path of this machine.
        self.folder = Path(folder)
        self.model: TrainedModel = load(self.folder, imports=imports, device=device)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute or method of the trained model."""
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return a description of the run, from its ``result.json``."""
        folder, network = RunFolder(self.folder), self.model.network
        result = folder.read_result() if folder.result.is_file() else {}
        rows = {
            "method": network.method.name,
            "crosses a block": network.method.locality,
            "test accuracy": f"{result['test_accuracy']:.2%}" if "test_accuracy" in result else None,
            "log loss": f"{result['log_loss']:.3f}" if "log_loss" in result else None,
            "network": f"{result['network']}, width {result['width']:g}" if result else None,
            "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
            **{name: result.get(name) for name in ("data", "epochs", "hardware", "date")},
        }
        table = "\n".join(f"| {k} | {'not known' if v is None else v} |" for k, v in rows.items())
        classes = ", ".join(self.model.classes[:100])
        return ModelCard(_CARD.format(method=network.method.name, table=table, classes=classes))

    def _save_pretrained(self, save_directory: Path) -> None:
        for name in (*_NEEDED, *_WELCOME):
            if name in _NEEDED or (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, save_directory / name)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **given: Any) -> "HubModel":
        """Load a folder, or a snapshot of a repository; ``given`` are the mixin's arguments, then ours."""
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        download = {name: given.pop(name) for name in names}
        for name in ("proxies", "resume_download"):  # huggingface_hub before 1.0
            given.pop(name, None)
        if not Path(model_id).is_dir():
            model_id = snapshot_download(model_id, allow_patterns=[*_NEEDED, *_WELCOME], **download)
        return cls(model_id, **given)
