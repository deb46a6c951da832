"""A trained network as one graph, for ONNX or PyTorch's exported programs. Shapes: N samples; K classes."""

import copy
import json
import logging
import warnings
from contextlib import ExitStack
from io import BytesIO
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

# Suffixes that other programs take for one format.
_USUAL = {".onnx": "onnx", ".pt2": "torch", ".pt": "torch", ".pth": "torch"}


class WholeNetwork(nn.Module):
    """Class scores of the read-out in plain operations: every label is tried in one pass.

    Args:
        network: trained network.
        mean: mean of each channel to normalize by, in 0 … 1; with it images are bytes, (N, C, H, W) uint8.
        std: deviation of each channel.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, network: LocalNetwork, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        self.network, self.takes_bytes = network.eval(), bool(mean)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """Return class scores, (N, …) → (N, K)."""
        if self.takes_bytes:
            samples = (samples.float() / 255 - self.pixel_mean) / self.pixel_std
        network, count, classes = self.network, samples.shape[0], self.network.num_classes
        labels = torch.arange(classes, device=samples.device).repeat(count)
        if network.label_input is not None:
            samples = samples.repeat_interleave(classes, 0)
        x: Any = network.prediction_input(samples, labels)
        parts = []
        for k in range(max(network.readout_blocks) + 1):
            features, x = network.pass_block(k, x)
            if k in network.readout_blocks:
                parts.append(network.head(k).scores(features))
        scores = torch.stack(parts).sum(0)
        return network.calibrated(scores if network.label_input is None else scores.view(count, classes))


def export(
    model: TrainedModel, file: str | Path, *, format: str = "onnx", preprocess: bool = False
) -> Path:
    """Write a trained network as one graph from samples to class scores (N, K), for any N.

    Scores are those of :meth:`trifecta.TrainedModel.scores`; their softmax has the class probabilities.
    The graph tries every label, with a warning if the network has a shortlist.

    Args:
        model: from :func:`trifecta.load`.
        file: path to write to; must not exist.
        format: ``onnx``, or ``torch`` for :func:`torch.export.load`.
        preprocess: whether the graph takes images as bytes, (N, C, H, W) uint8, and normalizes them;
            otherwise it takes samples as the network was trained on them.

    Returns:
        The path of the file.

    Raises:
        ValueError: another format, a file that exists or has the other format's suffix, or ``preprocess``
            for a network that was not trained on bytes.
        ImportError: the extra is not installed.
    """
    write, path = lookup({"onnx": _write_onnx, "torch": _write_torch}, format, "format"), Path(file)
    usual = _USUAL.get(path.suffix.lower(), format)
    if usual != format:
        raise ValueError(f"a {path.suffix} file has format={usual}: received {path} for format={format}")
    if path.exists():
        raise ValueError(f"{path} exists, and an export overwrites no file: choose another one")
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
    mean, std = (model.facts.mean, model.facts.std) if preprocess else ((), ())
    dtype = torch.uint8 if preprocess else torch.int64 if model.facts.integer else torch.float32
    # Two samples: torch.export would take the size of a single one for a constant.
    example = torch.zeros(2, *model.facts.sample_shape, dtype=dtype)
    with torch.no_grad():
        program = torch.export.export(
            WholeNetwork(network, mean=mean, std=std),
            (example,),
            dynamic_shapes={"samples": {0: torch.export.Dim("batch")}},
            strict=False,
        )
    notes = {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "method": model.network.method.name,
        "trifecta": trifecta.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: write(program, temporary, notes))
    return path


def _write_torch(program: torch.export.ExportedProgram, path: Path, notes: dict[str, str]) -> None:
    content = BytesIO()  # A file would have to be called .pt2, and this is a temporary one.
    torch.export.save(program, content, extra_files=dict(notes))
    path.write_bytes(content.getvalue())


def _write_onnx(program: torch.export.ExportedProgram, path: Path, notes: dict[str, str]) -> None:
    require("onnxscript", extra="export")
    logger = logging.getLogger("torch.onnx")
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        # It names operators of libraries that are not installed.
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        # The exporter's optimizer would drop the 1e-8 under a root.
        converted = torch.onnx.export(
            program,
            input_names=["samples"],
            output_names=["scores"],
            dynamic_shapes={"samples": {0: "batch"}},  # the name of the program's axis
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props.update(notes)
    converted.save(path, external_data=False)
