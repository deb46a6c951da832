"""A trained network, ready to predict.

Shapes: N images (N, C, H, W); K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import (
    autocast,
    in_channels_last,
    in_memory_format,
    kept_precision,
    resolve_device,
    resolved_precision,
)
from trifecta._utils.draws import SeededDraws
from trifecta.calibration import probabilities
from trifecta.data import normalize, read_images
from trifecta.network import LocalNetwork, build_network
from trifecta.training.config import GIVEN, RunConfig, read_yaml
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import BATCH_SIZE
from trifecta.training.folder import Imported, RunFolder, check_tensors

_TEMPERATURE = "temperature"


def load_network(
    folder: RunFolder,
    device: torch.device,
    *,
    imports: Imported = (),
    blocks: Iterable[nn.Module] | None = None,
) -> tuple[LocalNetwork, DatasetFacts]:
    """Load the trained network of a run, in evaluation mode, and the facts about its data.

    Args:
        folder: of the run.
        device: where the network is to be.
        imports: modules of your own whose parts the run's settings may name.
        blocks: of the network, where they were handed to :func:`trifecta.train`.

    Raises:
        ValueError: not a run folder, no model in it, a model of another network, a part from another
            module, or blocks that are missing.
    """
    config, facts = folder.read_config(imports=imports)
    network = network_for(config, facts, blocks=blocks)
    load_model(folder, network)
    return network.to(device).eval(), facts


def load_model(folder: RunFolder, network: LocalNetwork) -> None:
    """Copy what ``model.safetensors`` holds into ``network``.

    Raises:
        ValueError: there is none, it is damaged, or another network's.
    """
    own = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    # Room for the wrong type of number, which has a message of its own.
    tensors, is_whole = folder.read_model(16 * own + 2**20)
    load_weights(network, tensors, source=folder.model)
    if not is_whole:
        raise ValueError(
            f"{folder.model} is not what the run wrote: it is damaged, or was changed; trifecta train "
            f"--resume {folder.path} writes it again from the checkpoint"
        )


def run_precision(folder: RunFolder, device: torch.device, asked: str | None = None) -> str:
    """Return the precision in which to use the run in ``folder``, ``fp32`` or ``bf16``.

    It is the one that was ``asked`` for, or for None and ``auto`` the one that the run was trained in.
    Where the run chose bf16 and ``device`` has none in hardware, it is fp32, with a warning.

    Raises:
        ValueError: not a run folder, or not a precision.
    """
    if asked is not None and asked != "auto":
        return resolved_precision(asked, device)
    # A run that has not begun recorded none.
    trained = folder.read_resolved().get("precision", "fp32")
    return kept_precision(str(read_yaml(folder.config).get("precision")), str(trained), device)


def network_for(
    config: RunConfig, facts: DatasetFacts, *, blocks: Iterable[nn.Module] | None = None
) -> LocalNetwork:
    """Build the untrained network of a run.

    Args:
        config: of the run.
        facts: about its data.
        blocks: to use as they are, in place of those that ``config.network`` names.

    Raises:
        ValueError: the network is neither named nor given, or as :class:`LocalNetwork`.
    """
    num_classes = len(facts.classes)
    if blocks is not None:
        with SeededDraws(config.seed):
            return LocalNetwork(
                blocks,
                config.method,
                sample_shape=facts.sample_shape,
                num_classes=num_classes,
                integer=facts.integer,
            )
    if config.network == GIVEN:
        raise ValueError(
            "this run's blocks were made in Python and have no name: give them as network=, as when it was "
            "trained"
        )
    if facts.integer:
        raise ValueError(
            "networks with names take floats: received integer tokens; give floats, or blocks of your own "
            "as network="
        )
    network = build_network(
        config.method,
        config.network,
        sample_shape=facts.sample_shape,
        num_classes=num_classes,
        width=config.width,
        channels=config.channels,
        seed=config.seed,
    )
    return in_channels_last(network)


def load_weights(network: LocalNetwork, tensors: Mapping[Any, Any], *, source: Path) -> None:
    """Copy ``tensors`` into ``network``.

    Raises:
        ValueError: they are another network's, or no numbers that a network can have; names the first.
    """
    expected = network.state_dict()
    tensors = {_TEMPERATURE: network.temperature.new_ones(()), **tensors}  # older weights have none
    for name in [*expected, *tensors]:
        wanted, received = _kind(expected.get(name)), _kind(tensors.get(name))
        if wanted != received:
            raise ValueError(
                f"{source} holds another network: {name} is {received}, this run's is {wanted}"
            )
    check_tensors(tensors, source)
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{source} is damaged: {name} has values that are not finite")
    if not bool(tensors[_TEMPERATURE] > 0):
        raise ValueError(f"{source} is damaged: a {_TEMPERATURE} is above 0, not {tensors[_TEMPERATURE]}")
    network.load_state_dict(dict(tensors))


def _kind(tensor: Any) -> str:
    """Describe a tensor's shape and dtype."""
    if tensor is None:
        return "missing"
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


Images = Tensor | Iterable[str | Path]
# How far resizing may take floats beyond 0 … 1.
_OVERSHOOT = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network with what it must know of its data.

    Attributes:
        network: in evaluation mode.
        facts: image shape, class names and normalisation.
        precision: ``fp32`` or ``bf16``.
    """

    network: LocalNetwork
    facts: DatasetFacts
    precision: str = "fp32"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the scores."""
        return self.facts.classes

    def predict(self, images: Images) -> list[Any]:
        """Return the class name of every image; ``images`` as for :meth:`scores`.

        Where every position has a class, a list of names for each sample.
        """
        return self._named(self.scores(images).argmax(1).tolist())

    def predict_proba(self, images: Images) -> Tensor:
        """Return the probability of every class, (N, K) float64, on the CPU; rows sum to 1.

        Softmax of :meth:`scores`, see :func:`trifecta.calibration.probabilities`. ``images`` as there.
        """
        return probabilities(self.scores(images))

    def top_k(self, images: Images, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the ``k`` likeliest classes of every image with their probabilities, the likeliest first.

        ``images`` as for :meth:`scores`; all classes where there are fewer than ``k``.

        Raises:
            ValueError: k below 1, or a network with a class at every position.
        """
        if k < 1:
            raise ValueError(f"k is a number of classes, 1 or more: received {k}")
        if self.network.label_shape:
            raise ValueError("this network has a class at every position: use predict_proba")
        best = self.predict_proba(images).topk(min(k, len(self.classes)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [list(zip(self._named(places), shares, strict=True)) for places, shares in rows]

    def embeddings(self, images: Images, *, block: int | None = None) -> Tensor:
        """Return features of every image, (N, F), on the CPU, such as for a search by similarity.

        What the head of ``block`` reads, means over positions, see :meth:`LocalNetwork.embeddings`.

        Args:
            images: as for :meth:`scores`.
            block: from 0, or from −1 backwards; None is the last one of the read-out.

        Raises:
            ValueError: no such block, or as :meth:`scores`.
        """
        count = len(self.network.blocks)
        chosen = max(self.network.readout_blocks) if block is None else block
        if not -count <= chosen < count:
            raise ValueError(f"blocks are 0 … {count - 1}: received block {block}")
        width = self.network.feature_shapes[chosen][0]
        return self._rows(images, lambda x: self.network.embeddings(x, chosen % count), width)

    def scores(self, images: Images, *, on_scored: Callable[[int], None] = lambda images: None) -> Tensor:
        """Return the score of every class, (N, K), on the CPU; the highest predicts.

        They are over the read-out's temperature, so that their softmax is the classes' probabilities. With
        many classes, a method that tries labels leaves the unlikely ones out, whose score is −∞; see
        :meth:`LocalNetwork.keep_labels`.

        Args:
            images: files, or a tensor (N, C, H, W): uint8, or floats as the network was trained on (0 … 1
                where it was trained on image files).
            on_scored: called after every batch with its number of images.

        Raises:
            ValueError: a file that is no image, or images of another shape or scale than the network's.
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
        shape, device = self.facts.sample_shape, next(self.network.parameters()).device
        parts = []
        for batch in _batches(images, self.facts):
            if tuple(batch.shape[1:]) != shape:
                raise ValueError(
                    f"this network takes samples (N, {', '.join(map(str, shape))}): received "
                    f"{tuple(batch.shape)}"
                )
            if not len(batch):
                continue
            _check_scale(batch, self.facts)
            pixels = normalize(batch.to(device), self.facts.mean, self.facts.std)
            with autocast(self.precision, device):
                parts.append(compute(in_memory_format(pixels)).float())
            on_done(len(batch))
        return torch.cat(parts).cpu() if parts else torch.empty(0, width)

    def _named(self, places: list[Any]) -> list[Any]:
        return [self._named(p) if isinstance(p, list) else self.classes[p] for p in places]


def _batches(images: Images, facts: DatasetFacts) -> Iterator[Tensor]:
    """Split a tensor, or read files, a batch at a time."""
    if isinstance(images, Tensor):
        yield from torch.split(images, BATCH_SIZE)
        return
    files = [Path(file) for file in images]
    for start in range(0, len(files), BATCH_SIZE):
        yield read_images(
            files[start : start + BATCH_SIZE],
            image_shape=facts.image_shape,
            grey_range=facts.grey_range or None,
        )


def _check_scale(images: Tensor, facts: DatasetFacts) -> None:
    """Check that images have the scale of the training images, as far as the facts tell."""
    if len(facts.sample_shape) != 3:
        return
    takes_bytes = any(facts.mean)
    if takes_bytes and images.is_floating_point():
        least, most = images.aminmax()
        if least < -_OVERSHOOT or most > 1 + _OVERSHOOT:
            raise ValueError(
                "this network was trained on bytes and takes them, or floats from 0 to 1: received "
                f"{least:.3g} to {most:.3g}; divide by the largest value that there can be"
            )
    if not takes_bytes and images.dtype == torch.uint8:
        warnings.warn(
            "this network was trained on floats: bytes are divided by 255, which may not be their scale; "
            "give floats as in training",
            stacklevel=4,
        )


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    network: Iterable[nn.Module] | None = None,
    imports: Imported = (),
) -> TrainedModel:
    """Load the network that a run trained.

    Args:
        run: the run's folder.
        device: ``auto``, or any name that PyTorch knows.
        precision: ``fp32`` or ``bf16``; None for the run's own.
        network: the blocks, where they were handed to :func:`trifecta.train`.
        imports: modules of your own, or their names, whose parts the run's settings may name. No other
            module is imported, but those of installed plug-ins.

    Raises:
        ValueError: not a run folder, no model in it, a model of another network, or a part from another
            module.
    """
    folder, where = RunFolder(run), resolve_device(device)
    loaded, facts = load_network(folder, where, imports=imports, blocks=network)
    return TrainedModel(network=loaded, facts=facts, precision=run_precision(folder, where, precision))
