"""Trained networks on the Hugging Face Hub: weights, settings and a card; no code, and nothing pickled."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from trifecta._utils.extras import require
from trifecta.training import RunFolder, TrainedModel, load

require("huggingface_hub", install='"trifecta[hub]"')
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download  # noqa: E402

_NEEDED, _WELCOME = ("config.yaml", "model.safetensors"), ("result.json", "report.html")


class HubModel(ModelHubMixin):
    """A trained network from a run folder, from the Hub, or from a copy of either.

    ``HubModel("runs/first").push_to_hub("me/digits")`` shares a run, and
    ``HubModel.from_pretrained("me/digits")`` loads one. All methods of
    :class:`trifecta.TrainedModel`, such as ``predict``, are available.

    Args:
        folder: run folder.
        imports: your own modules whose parts the run's settings may name; no others are imported.
        device: ``auto``, or any name that PyTorch knows.

    Attributes:
        model: the :class:`trifecta.TrainedModel`.

    Raises:
        ValueError: as :func:`trifecta.load`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        imports: Iterable[str | ModuleType] = (),
        device: str = "auto",
    ) -> None:
        # The mixin would save these arguments, including a path of this machine.
        self._hub_mixin_config = None
        self.folder = Path(folder)
        self.model: TrainedModel = load(self.folder, imports=imports, device=device)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute or method of the trained model."""
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return a description of the run, from its ``result.json``."""
        folder = RunFolder(self.folder)
        result = folder.read_result() if folder.result.is_file() else {}
        return ModelCard(_card(self.model, result))

    def _save_pretrained(self, save_directory: Path) -> None:
        for name in (*_NEEDED, *_WELCOME):
            source = self.folder / name
            if name in _NEEDED or source.is_file():
                shutil.copyfile(source, save_directory / name)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        proxies: Any = None,  # this and the next argument come from huggingface_hub before 1.0
        resume_download: Any = None,
        **own: Any,
    ) -> "HubModel":
        if Path(model_id).is_dir():
            return cls(model_id, **own)
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=[*_NEEDED, *_WELCOME],
        )
        return cls(folder, **own)


def _card(model: TrainedModel, result: dict[str, Any]) -> str:
    """Return a model's card, in Markdown."""
    method = model.network.method.name
    accuracy = f"{100 * result['test_accuracy']:.2f}%" if "test_accuracy" in result else "not measured"
    rows = {
        "method": method,
        "crosses a block": model.network.method.locality,
        "test accuracy": accuracy,
        "log loss": f"{result['log_loss']:.3f}" if "log_loss" in result else "not measured",
        "data": result.get("data", "not known"),
        "network": f"{result['network']}, width {result['width']:g}" if result else "not known",
        "epochs": result.get("epochs", "not known"),
        "parameters": f"{sum(p.numel() for p in model.network.parameters()):,}",
        "hardware": result.get("hardware", "not known"),
        "date": result.get("date", "not known"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    names = ", ".join(model.classes[:100])
    return (
        "---\nlibrary_name: trifecta\npipeline_tag: image-classification\n"
        f"tags:\n- local-learning\n- {method}\n---\n\n# {method}\n\n"
        "Trained block by block, without end-to-end backpropagation, by trifecta.\n\n"
        f"| | |\n|---|---|\n{table}\n\nClasses: {names}\n\n"
        "```python\nfrom trifecta.integrations.hub import HubModel\n\n"
        'model = HubModel.from_pretrained("THIS_REPOSITORY")\n'
        'model.predict(["image.png"])\n```\n'
    )
