"""A trained network as one graph, for other runtimes: ONNX, or PyTorch's own exported program.

Shapes: N samples (N, …); K classes.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trifecta
from trifecta._utils.extras import require
from trifecta._utils.files import write_atomically
from trifecta._utils.references import lookup
from trifecta.network import LocalNetwork
from trifecta.training import TrainedModel

_EXTRA = '"trifecta[export]"'


class WholeNetwork(nn.Module):
    """Class scores of the read-out in plain operations: every label tried in one pass, nothing fused.

    Args:
        network: trained.
        mean: to normalise each channel by, in 0 … 1; with it images come as bytes, (N, C, H, W) uint8.
        std: likewise.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, network: LocalNetwork, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        self.network = network.eval()
        self.takes_bytes = bool(mean)
        if self.takes_bytes:
            self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1))
            self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """(N, …) → (N, K)."""
        if self.takes_bytes:
            samples = (samples.float() / 255 - self.pixel_mean) / self.pixel_std
        network, count = self.network, samples.shape[0]
        if network.label_input is not None:
            labels = torch.arange(network.num_classes, device=samples.device).repeat(count)
            scores = self._fused(
                network.labelled(samples.repeat_interleave(network.num_classes, 0), labels)
            )
            return scores.view(count, network.num_classes)
        if network.image_pairs is not None:
            samples = network.image_pairs.neutral(samples)
        return self._fused(samples)

    def _fused(self, x: Any) -> Tensor:
        """Sum the scores of the blocks that predict; those behind them are left out."""
        network, parts = self.network, []
        for k in range(max(network.readout_blocks) + 1):
            features, x = network.pass_block(k, x)
            if k in network.readout_blocks:
                parts.append(network.head(k).scores(features))
        return torch.stack(parts).sum(0) / network.temperature


def export(
    model: TrainedModel, file: str | Path, *, format: str = "onnx", preprocess: bool = False
) -> Path:
    """Write a trained network as one graph: samples in, class scores (N, K) out, any batch size.

    Scores are those of :meth:`trifecta.TrainedModel.scores`: their softmax is the classes' probabilities.
    The graph tries every label to the end, also where the network has a shortlist, which is said.

    Args:
        model: from :func:`trifecta.load`.
        file: to write; nothing is overwritten.
        format: ``onnx``, or ``torch`` for :func:`torch.export.load`.
        preprocess: whether images come as bytes, (N, C, H, W) uint8, and are normalised in the graph;
            otherwise samples come as the network was trained on them.

    Returns:
        The file.

    Raises:
        ValueError: another format, a file that exists, or bytes where the network was trained on none.
        ImportError: the extra is not installed.
    """
    write, path = lookup(_FORMATS, format, "format"), Path(file)
    if path.exists():
        raise ValueError(f"an export overwrites nothing: {path} exists; choose another file")
    if preprocess and not model.facts.mean:
        raise ValueError(
            f"preprocess is for images that come as bytes: this network was trained on samples of shape "
            f"{model.facts.sample_shape}, taken as they are; leave it out"
        )
    if model.network.shortlist is not None:
        warnings.warn(
            "the graph tries every label, and this network a shortlist: probabilities differ a little; "
            "model.network.keep_labels(0) tries every label here too",
            stacklevel=2,
        )
    network = copy.deepcopy(model.network).cpu()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    whole = WholeNetwork(
        network,
        mean=model.facts.mean if preprocess else (),
        std=model.facts.std if preprocess else (),
    )
    dtype = torch.uint8 if preprocess else torch.int64 if model.facts.integer else torch.float32
    # Two of them: a single one would be taken for a constant.
    example = torch.zeros(2, *model.facts.sample_shape, dtype=dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: write(whole, example, temporary, _notes(model)))
    return path


def _notes(model: TrainedModel) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "method": model.network.method.name,
        "trifecta": trifecta.__version__,
    }


def _program(whole: WholeNetwork, example: Tensor) -> torch.export.ExportedProgram:
    shapes = {"samples": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        return torch.export.export(whole, (example,), dynamic_shapes=shapes, strict=False)


def _write_torch(whole: WholeNetwork, example: Tensor, path: Path, notes: dict[str, str]) -> None:
    torch.export.save(_program(whole, example), path, extra_files=dict(notes))


def _write_onnx(whole: WholeNetwork, example: Tensor, path: Path, notes: dict[str, str]) -> None:
    require("onnxscript", install=_EXTRA)
    with warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx")):
        # The exporter's own.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _program(whole, example),
            input_names=["samples"],
            output_names=["scores"],
            dynamo=True,
            # Its optimizer takes the 1e-8 under a root for nothing.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(notes)
    program.save(path, external_data=False)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Let only errors through for a while."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_FORMATS: dict[str, Callable[[WholeNetwork, Tensor, Path, dict[str, str]], None]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
}
