"""A trained network, ready to predict.

Shapes: N images (N, C, H, W); K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_memory_format, resolve_device
from trifecta._utils.precision import autocast
from trifecta.calibration import probabilities
from trifecta.data import normalize, read_images
from trifecta.network import LocalNetwork
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.evaluation import BATCH_SIZE
from trifecta.training.run_folder import Imported, RunFolder
from trifecta.training.saved_network import load_network, run_precision

Images = Tensor | Iterable[str | Path]


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
            ValueError: a file that is no image, or images of another shape than the network's.
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
