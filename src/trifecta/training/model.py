"""A trained network, ready to predict.

Shapes: N images (N, C, H, W); K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trifecta._utils.devices import (
    autocast,
    in_channels_last,
    in_memory_format,
    kept_precision,
    resolve_device,
    resolved_precision,
)
from trifecta.calibration import probabilities
from trifecta.data import normalize, read_images, require_finite_samples, samples_of
from trifecta.data.images import ChannelStatistics, require_scale
from trifecta.network import LocalNetwork, build_network
from trifecta.nn.drawing import SeededDraws
from trifecta.training.config import GIVEN, Imported, RunConfig, read_yaml
from trifecta.training.evaluation import BATCH_SIZE
from trifecta.training.folder import DatasetFacts, RunFolder

# Files, or images in memory: an array, or several.
Images = Tensor | NDArray[Any] | str | Path | Iterable[Any]
# How far beyond 0 … 1 resizing may take floats.
_OVERSHOOT = 0.5


def network_for(
    config: RunConfig, facts: DatasetFacts, *, blocks: Iterable[nn.Module] | None = None
) -> LocalNetwork:
    """Build the network of a run, with its initial weights; ``blocks`` are used as they are."""
    shared: dict[str, Any] = {"sample_shape": facts.sample_shape, "num_classes": len(facts.classes)}
    if blocks is not None:
        with SeededDraws(config.seed):
            return LocalNetwork(blocks, config.method, integer=facts.integer, **shared)
    if config.network == GIVEN:
        raise ValueError(
            "this run's blocks were made in Python and have no name: commands cannot make them; give "
            "them in Python, as network= of load or resume"
        )
    if facts.integer:
        raise ValueError(
            "networks with names take floats: received integer tokens; give floats, or blocks of your own "
            "as network="
        )
    size: dict[str, Any] = {name: getattr(config, name) for name in ("width", "channels", "seed")}
    return in_channels_last(build_network(config.method, config.network, **size, **shared))


def load_weights(network: LocalNetwork, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy ``tensors`` from the file ``source`` into ``network``; a ValueError names what differs."""
    own = network.state_dict()
    # Weights of earlier versions have neither.
    plain = {"temperature": torch.ones_like(own["temperature"]), "offset": torch.zeros_like(own["offset"])}
    tensors = {**plain, **tensors}
    for name in [*own, *tensors]:
        expected, received = (
            f"{tuple(held[name].shape)} {str(held[name].dtype).removeprefix('torch.')}"
            if name in held
            else "missing"
            for held in (own, tensors)
        )
        if expected != received:
            raise ValueError(
                f"{source} holds another network: {name} is {received}, this run's is {expected}"
            )
    network.load_state_dict(tensors)


def load_network(
    folder: RunFolder,
    device: torch.device,
    *,
    imports: Imported = (),
    blocks: Iterable[nn.Module] | None = None,
) -> tuple[LocalNetwork, DatasetFacts]:
    """Load the trained network of a run, in evaluation mode, and the facts about its data."""
    config, facts = folder.read_config(imports=imports)
    network = network_for(config, facts, blocks=blocks)
    load_weights(network, folder.read_model(), folder.model)
    return network.to(device).eval(), facts


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    network: Iterable[nn.Module] | None = None,
    imports: Imported = (),
) -> "TrainedModel":
    """Load the network that a run trained.

    Args:
        run: folder of the run.
        device: ``auto``, or any name that PyTorch knows.
        precision: ``fp32`` or ``bf16``; None or ``auto`` for that of the run's training. It is fp32, with a
            warning, if the run chose bf16 by itself and ``device`` does not have it in hardware.
        network: the blocks, if they were given to :func:`trifecta.train`.
        imports: modules of your own, or their names, whose parts the run's settings may name. No other
            module is imported, except those of installed plug-ins.
    """
    folder, where = RunFolder(run), resolve_device(device)
    loaded, facts = load_network(folder, where, imports=imports, blocks=network)
    if precision in (None, "auto"):
        asked, used = read_yaml(folder.config).get("precision"), folder.read_resolved().get("precision")
        precision = kept_precision(str(asked), str(used or "fp32"), where)
    return TrainedModel(network=loaded, facts=facts, precision=resolved_precision(str(precision), where))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network with the facts about its data.

    Methods take ``images`` as files, PIL images, or an array (N, C, H, W) or (N, H, W, C): uint8, or floats
    as the network was trained on (0 … 1 if it was trained on image files). A file that is no image,
    images of another shape or scale than the network's, or values that are not finite are a ``ValueError``.

    Attributes:
        network: the network, in evaluation mode.
        facts: image shape, class names and normalisation.
        precision: ``fp32`` or ``bf16``.
    """

    network: LocalNetwork
    facts: DatasetFacts
    precision: str = "fp32"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.facts.classes

    def predict(self, images: Images) -> list[Any]:
        """Return the class name of every image, or a list of names if every position has a class."""
        return self._named(self.scores(images).argmax(1).tolist())

    def predict_proba(self, images: Images) -> Tensor:
        """Return the probability of every class, (N, K) float64, on the CPU: the softmax of scores."""
        return probabilities(self.scores(images))

    def top_k(self, images: Images, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the ``k`` likeliest classes of every image with their probabilities, likeliest first."""
        if k < 1:
            raise ValueError(f"k is a number of classes, 1 or more: received {k}")
        if self.network.label_shape:
            raise ValueError("this network has a class at every position: use predict_proba")
        best = self.predict_proba(images).topk(min(k, len(self.classes)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [list(zip(self._named(indices), shares, strict=True)) for indices, shares in rows]

    def embeddings(self, images: Images, *, block: int | None = None) -> Tensor:
        """Return features of every image, (N, F), on the CPU, such as for a similarity search.

        They are those that the head of ``block`` reads (from 0, or −1 backwards; None is the last of the
        read-out), averaged over positions, see :meth:`LocalNetwork.embeddings`.
        """
        count = len(self.network.blocks)
        chosen = max(self.network.readout_blocks) if block is None else block
        if not -count <= chosen < count:
            raise ValueError(f"blocks are 0 … {count - 1}: received block {block}")
        width = self.network.feature_shapes[chosen][0]
        return self._rows(images, lambda x: self.network.embeddings(x, chosen % count), width)

    def scores(self, images: Images, *, on_scored: Callable[[int], None] = lambda images: None) -> Tensor:
        """Return the score of every class, (N, K), on the CPU; the highest predicts.

        Their softmax is the classes' probabilities, see :meth:`LocalNetwork.calibrated`. With many classes,
        a method that tries labels scores unlikely ones −∞, see :meth:`LocalNetwork.keep_labels`.
        ``on_scored`` receives the number of images of every batch.
        """
        return self._rows(images, self.network, len(self.classes), on_scored)

    @torch.inference_mode()
    def _rows(
        self,
        images: Images,
        compute: Callable[[Tensor], Tensor],
        width: int,
        on_done: Callable[[int], None] = lambda images: None,
    ) -> Tensor:
        """Compute ``width`` values or more for every image, a batch at a time, (N, width, …)."""
        facts, device, parts, seen = self.facts, self.network.device, [torch.empty(0, width)], 0
        for batch in self._batches(images):
            if tuple(batch.shape[1:]) != facts.sample_shape:
                takes = f"this network takes samples (N, {', '.join(map(str, facts.sample_shape))})"
                raise ValueError(f"{takes}: received {tuple(getattr(images, 'shape', batch.shape))}")
            require_finite_samples(batch, "images", range(seen, seen + len(batch)))
            seen += len(batch)
            if len(batch):
                check_scale(batch, facts)
                pixels = normalize(batch.to(device), facts.mean, facts.std)
                with autocast(self.precision, device):
                    parts.append(compute(in_memory_format(pixels)).float().cpu())
                on_done(len(batch))
        return torch.cat(parts[1:] or parts)

    def _batches(self, images: Images) -> Iterator[Tensor]:
        images = [images] if isinstance(images, str | Path) or hasattr(images, "getbands") else images
        is_array = hasattr(images, "__array__")
        given: Any = images if is_array else list(images)
        if is_array or (given and not isinstance(given[0], str | Path)):
            yield from torch.split(samples_of(given, "images"), BATCH_SIZE)
            return
        for start in range(0, len(given), BATCH_SIZE):
            files, greys = map(Path, given[start : start + BATCH_SIZE]), self.facts.grey_range or None
            yield read_images(list(files), image_shape=self.facts.image_shape, grey_range=greys)

    def _named(self, indices: list[Any]) -> list[Any]:
        return [self._named(k) if isinstance(k, list) else self.classes[k] for k in indices]


def check_scale(
    images: Tensor, facts: DatasetFacts, *, where: str = "this batch", refuses: bool = False
) -> None:
    """Check that images have the scale of the training images, as far as the facts tell.

    Bytes of another range are a warning, as there may be but one dark image, unless the check ``refuses``.
    """
    takes_bytes = any(facts.mean)
    if takes_bytes and images.is_floating_point():
        least, most = images.aminmax()
        if least < -_OVERSHOOT or most > 1 + _OVERSHOOT:
            raise ValueError(
                "this network was trained on bytes and takes them, or floats from 0 to 1: received "
                f"{least:.3g} to {most:.3g}; divide by the largest value that there can be"
            )
    if takes_bytes:
        require_scale(ChannelStatistics(facts.mean, facts.std), images, where, refuses=refuses)
    elif images.dtype == torch.uint8 and len(facts.sample_shape) == 3:
        warnings.warn(
            "this network was trained on floats: bytes are divided by 255, which may not be their scale; "
            "give floats as in training",
            stacklevel=4,
        )
