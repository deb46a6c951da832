"""Samples and labels of any kind of array, brought to the few forms that training knows.

Shapes: N images (N, C, H, W), rows of a table (N, F), tokens (N, T) or other samples (N, …); labels (N,),
or (N, …) where every position has one; K classes.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from trifecta.data.augment import normalize
from trifecta.data.batches import epoch_order
from trifecta.data.config import DataConfig
from trifecta.data.images import ChannelStatistics, ImageData, ImageSet, channel_statistics, hold_out

# Class indices, or names of classes.
Labels = Tensor | NDArray[np.str_]


def samples_of(values: Any, where: str) -> Tensor:
    """Bring samples to uint8 (N, C, H, W), float32 (N, …) or int64 tokens (N, T).

    Floats of any width become float32, True and False 1 and 0; whole numbers 0 … 255 in images become
    bytes, other integers tokens. Images (N, H, W, C) with 3 or 4 channels, or square ones with 1, become
    (N, C, H, W), and bytes (N, H, W) become (N, 1, H, W).

    Args:
        values: arrays, tensors, data frames, or a list of those or of PIL images.
        where: which samples they are, for messages.

    Raises:
        ValueError: anything else.
    """
    samples = _tensor(values, f"samples of {where}")
    if samples.dtype.is_complex or samples.ndim < 2:
        raise ValueError(
            f"{where}: samples are images (N, C, H, W), rows (N, F) or others (N, …), of real numbers: "
            f"received {kind_of(samples)}"
        )
    if samples.dtype == torch.uint8 and samples.ndim == 3:
        samples = samples.unsqueeze(1)
    if samples.ndim == 4:
        samples = _channels_first(samples)
    if samples.is_floating_point() or samples.dtype == torch.bool:
        return samples.float()
    if samples.ndim == 4:
        return _as_bytes(samples, where)
    if samples.dtype == torch.uint8 or samples.ndim != 2:
        raise ValueError(
            f"{where}: integers are images (N, C, H, W) or tokens (N, T): received {kind_of(samples)}; for "
            "anything else give floats"
        )
    return samples.long()


def _channels_first(images: Tensor) -> Tensor:
    """Return images (N, H, W, C) as (N, C, H, W); others as they are."""
    _, first, second, last = images.shape
    has_last = (last in (3, 4) and first > 4) or (last == 1 and first == second > 1)
    return images.movedim(-1, 1) if has_last else images


def _as_bytes(images: Tensor, where: str) -> Tensor:
    if images.dtype == torch.uint8 or not images.numel():
        return images.to(torch.uint8)
    wide = images.long()
    least, most = int(wide.min()), int(wide.max())
    if least < 0 or most > 255:
        raise ValueError(
            f"{where}: whole numbers in images are 0 … 255: received {least} … {most} in "
            f"{_dtype(images)}; give floats, divided by the largest value that there can be"
        )
    return wide.to(torch.uint8)


def labels_of(values: Any, where: str, *, samples: Tensor) -> Labels:
    """Bring labels to class indices (N,) int64, or (N, …) for positions, or to names (N,).

    A column (N, 1) is flattened, one-hot rows (N, K) become the index of their 1, whole floats integers.

    Args:
        values: numbers or text, as arrays, tensors, series or lists.
        where: which labels they are, for messages.
        samples: what they belong to, (N, …).

    Raises:
        ValueError: anything else, such as a fraction or a missing label; names the sample.
    """
    text = _text(values, where)
    if text is not None:
        return text
    labels = _tensor(values, f"labels of {where}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.is_complex or not labels.ndim:
        raise ValueError(f"{where}: labels are class numbers (N,): received {kind_of(labels)}")
    if labels.is_floating_point():
        fractions = ~(labels == labels.floor()) | labels.isinf()
        if bool(fractions.any()):
            k = first_of(fractions)
            raise ValueError(
                f"{where}: labels are the numbers of classes: received {labels[k].tolist()!s:.60} for "
                f"sample {k}"
            )
    labels = labels.to(samples.device, torch.int64)
    if _is_one_hot(labels, samples):
        labels = labels.argmax(1)
    return labels


def _is_one_hot(labels: Tensor, samples: Tensor) -> bool:
    """Whether rows (N, K) have a single 1 among zeros, and are not the labels of positions."""
    # Tokens (N, T), signals (N, C, L) and sequences (N, T, width) may have a label at every position.
    positions = samples.shape[1:] if samples.ndim == 3 or samples.dtype == torch.int64 else ()
    if labels.ndim != 2 or not labels.numel() or labels.shape[1] in positions:
        return False
    return bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())


def _text(values: Any, where: str) -> NDArray[np.str_] | None:
    """Return labels that are names, (N,); None where they are numbers."""
    if isinstance(values, Tensor):
        return None
    if isinstance(values, list | tuple):
        if not any(isinstance(value, str) for value in values):
            return None
        values = np.array(values, dtype=object)
    array = np.asarray(values)
    if array.dtype.kind == "O":
        missing = [k for k, value in enumerate(array.flat) if value is None or value != value]
        if missing:
            raise ValueError(
                f"{where}: sample {missing[0]} has no label: received {array.flat[missing[0]]}"
            )
        if not any(isinstance(value, str) for value in array.flat):
            return None
    if array.dtype.kind not in "USOT":
        return None
    names: NDArray[np.str_] = array.reshape(-1).astype(str)
    return names


def _tensor(values: Any, what: str) -> Tensor:
    """Return values as a tensor of their own type, without any graph.

    Raises:
        ValueError: they are none, such as lists of different lengths.
    """
    if isinstance(values, Tensor):
        plain = values.detach()
        if plain.is_meta:
            raise ValueError(f"{what} have no values: received tensors on the device meta")
        return plain if plain.layout == torch.strided else plain.to_dense()
    if isinstance(values, list | tuple) and hasattr(next(iter(values), None), "__array__"):
        return stacked(values, what)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{what} are masked in places: fill or leave them out")
    if hasattr(values, "getbands"):  # an image of PIL's
        return _from_pil(values)
    try:
        # A table's columns may be of several types; its whole numbers are no tokens.
        is_table = hasattr(values, "iloc") and values.ndim == 2
        array = np.asarray(values, dtype=np.float32 if is_table else None)
        if array.dtype.kind == "O":
            array = np.array(array.tolist())
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        # A tensor over memory that cannot be written to, or that runs backwards, is not allowed.
        is_plain = native.flags.writeable and all(stride >= 0 for stride in native.strides)
        return torch.from_numpy(native if is_plain else native.copy())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are no array of numbers: {' '.join(str(error).split())!s:.120}") from None


def _from_pil(image: Any) -> Tensor:
    """Return an image of PIL's as bytes (1, H, W) or (3, H, W); of other depths as it is, (1, H, W)."""
    if image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.movedim(-1, 0)


def stacked(values: Sequence[Any], what: str) -> Tensor:
    """Stack arrays of one shape, (N, …).

    Raises:
        ValueError: their shapes differ, or they are none.
    """
    tensors = [_tensor(value, what) for value in values]
    for k, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{what} have one shape: received {tuple(tensors[0].shape)} and, {k} later, "
                f"{tuple(tensor.shape)}; resize them"
            )
    return torch.stack(tensors)


def as_names(labels: Labels) -> NDArray[np.str_]:
    """Return labels as names, numbers by their digits."""
    return labels if isinstance(labels, np.ndarray) else labels.cpu().numpy().astype(str)


def first_of(found: Tensor) -> int:
    """Return the first sample for which something is true, of (N,) or (N, …)."""
    return int(found.reshape(len(found), -1).any(1).nonzero()[0])


def kind_of(samples: Tensor) -> str:
    """Describe the type and the shape of samples."""
    return (
        f"{_dtype(samples)} (N, {', '.join(map(str, samples.shape[1:]))})" if samples.ndim else "one value"
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


Pairs = tuple[Tensor, Tensor]


class Items(Protocol):
    """A sequence: a tuple (samples, labels), or items of one sample and its label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


# Samples and labels, items of one of each, or a loader of batches.
Given = Items | Mapping[str, Any] | Dataset[Any] | DataLoader[Any]

TEST_SHARE = 0.2
# Items of a Dataset that are looked at before training: all of up to twice as many, else every k-th.
MOST_CHECKED = 5_000
_AT_ONCE = 256
# Standard deviations of training and test images that differ by a larger factor are not on one scale.
_LARGEST_FACTOR = 30.0
# Nor are channels, or a quarter of a table's columns, whose mean is so many standard deviations away.
_LARGEST_SHIFT, _SHIFTED_SHARE, _LEAST_SAMPLES = 4.0, 0.25, 10
# Labels of positions are mostly tokens of a vocabulary, not all of which come up.
_MOST_TOKENS = 2**17
_SAMPLE_KEYS = ("image", "images", "img", "sample", "samples", "pixel_values", "data", "x", "features")
_LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")


class EpochOrder(Sampler[int]):
    """The order of an epoch, which follows from the seed and the epoch alone.

    Attributes:
        epoch: from 0.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.count, seed=self.seed, epoch=self.epoch).tolist())

    def __len__(self) -> int:
        return self.count


class LoaderBatches:
    """Training batches from a ``DataLoader``, as it makes them.

    Nothing is augmented here: that is for the loader's own transforms. A loader's own sampler decides the
    order; only :class:`EpochOrder` makes a resumed run repeat it.

    Args:
        loader: with a length, of batches of samples (B, …) and labels (B,).
        device: where batches are to go.
        classes: names of the classes, for labels that are names.
        mean: to normalise bytes by, for each channel, in 0..1.
        std: likewise.
        checked: whether samples that are not finite are an error.
        expected: classes that other splits have, of which the first epoch must show some.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        device: torch.device,
        *,
        classes: Sequence[str] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        checked: bool = True,
        expected: Iterable[int] = (),
    ) -> None:
        self.loader, self.device, self.classes = loader, device, classes
        self.mean, self.std, self.checked = mean, std, checked
        self._missing = set(expected)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    @property
    def images_per_epoch(self) -> int:
        """Images in an epoch."""
        images = len(cast(Any, self.loader.dataset))
        size = self.loader.batch_size
        return images if size is None else min(images, len(self.loader) * size)

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[Pairs]:
        """Return the batches of an epoch from ``start`` on; those before it are made and left out.

        Raises:
            ValueError: a batch that cannot be trained on; names it and its sample.
        """
        if isinstance(self.loader.sampler, EpochOrder):
            self.loader.sampler.epoch = index
        for number, batch in enumerate(islice(iter(self.loader), start, self.steps_per_epoch), start + 1):
            where = f"train, batch {number} of epoch {index + 1}"
            samples, labels = _tensors(batch, where)
            if self.checked:
                require_finite_samples(samples, where)
            if samples.dtype == torch.uint8:
                samples = normalize(samples, self.mean, self.std)
            indices = _indices(labels, self.classes, where)
            if index == 0 and self._missing:
                self._missing -= set(indices.flatten().tolist())
            yield samples.to(self.device), indices.to(self.device)
        if index == 0 and start == 0 and self._missing:
            some = ", ".join(self.classes[k] for k in sorted(self._missing)[:5])
            warnings.warn(f"training has no sample of {some}, and other splits have some", stacklevel=2)


def data_from(
    train: Given,
    *,
    validation: Given | None = None,
    test: Given | None = None,
    share: float = 0.1,
    classes: Sequence[str] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> ImageData:
    """Make a data set of what a program has at hand.

    Images in bytes are normalised by the training images' mean and standard deviation; floats and integer
    tokens are taken as they are. A ``Dataset`` is loaded anew in every epoch, shuffled, so that its
    transforms stay random; its items are looked at once before that, all of them up to 10,000.

    Args:
        train: to train on: ``(samples, labels)``, a mapping of both, a ``Dataset`` or another sequence of
            items, or a ``DataLoader``. Items and batches are pairs, or mappings with keys such as
            ``image`` and ``label``.
        validation: to choose on; None keeps a stratified ``share`` of training tensors for it, and for a
            ``Dataset`` or ``DataLoader`` nothing.
        test: to measure on; None keeps a stratified fifth of training tensors for it.
        share: of training tensors that is kept for validation, 0 … below 1.
        classes: names, in label order; None numbers them, or sorts labels that are names.
        batch_size: of a ``Dataset``.
        seed: of the order of a ``Dataset``.

    Raises:
        ValueError: there is no test split, a loader without a length, an empty split, samples that are not
            finite or not of one shape and scale, or labels that are no classes or that training lacks.
    """
    look, loader = _training(train, test, batch_size, seed)
    parts = {"validation": validation, "test": test}
    others = {name: _collected(given, name) for name, given in parts.items() if given is not None}
    names = _names(classes or _declared_names(train), look, others.get("test"))
    by_name = classes is None and isinstance(look.labels, np.ndarray)
    labels = _indices(look.labels, names, "train")
    counts = _counts(labels, len(names)) if look.is_whole else None
    sets = {}
    for name, other in others.items():
        _check_alike(look.samples, other.samples, name)
        indices = _indices(as_names(other.labels) if by_name else other.labels, names, name)
        _check_trained(indices, counts, names, name)
        sets[name] = ImageSet(other.samples, indices)
    if loader is not None:
        kept, normalized = sets["test"].select(torch.arange(0)), look.samples
    else:
        kept = ImageSet(look.samples, labels)
        if "test" not in sets:
            kept, sets["test"] = hold_out(kept, TEST_SHARE)
        if "validation" not in sets and share:
            kept, sets["validation"] = hold_out(kept, share)
        normalized = kept.images
    found = _statistics(normalized)
    return ImageData(
        train=kept,
        validation=sets.get("validation"),
        test=sets["test"],
        classes=names,
        mean=found.mean,
        std=found.std,
        loader=loader,
        loader_counts=None if loader is None else counts,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    """Samples and labels of a split.

    Attributes:
        samples: all of them, or some where a loader has more.
        labels: those that were seen, which may be of more samples.
        is_whole: whether these are the labels of the whole split.
    """

    samples: Tensor
    labels: Labels
    is_whole: bool = True


def _training(
    train: Given, test: Given | None, batch_size: int, seed: int
) -> tuple[_Look, DataLoader[Any] | None]:
    """Return the training samples; of a Dataset or loader those that were looked at, and a loader."""
    if _is_collected(train):
        return _collected(train, "train"), None
    if test is None:
        raise ValueError("a Dataset or DataLoader needs test images beside it: give test=…")
    loader = train if isinstance(train, DataLoader) else _loader_of(train, batch_size, seed)
    return _looked_at(loader), loader


def _is_collected(given: Any) -> bool:
    """Whether data lie in memory; else they are items or batches that are made in every epoch.

    Raises:
        ValueError: neither.
    """
    if isinstance(given, str | Path | DataConfig):
        raise ValueError(
            f"data=… takes samples and labels: received {given!r:.80}; a source with a name belongs into "
            "RunConfig(data=…)"
        )
    if isinstance(given, tuple | list | Mapping | ImageSet):
        return True
    if isinstance(given, Tensor | np.ndarray) or hasattr(given, "iloc"):
        raise ValueError("samples came without labels: give data=(samples, labels)")
    if isinstance(given, DataLoader | Dataset) or hasattr(given, "__getitem__"):
        return False
    raise ValueError(
        "data is (samples, labels), a Dataset with a length, or a DataLoader: received "
        f"{type(given).__name__}"
    )


def _collected(given: Any, split: str) -> _Look:
    """Bring everything into memory, in order."""
    if isinstance(given, Mapping | ImageSet) or (_is_collected(given) and not _is_items(given)):
        samples, labels = _tensors(given, split)
    else:
        loader = given
        if not isinstance(given, DataLoader):
            loader = DataLoader(given, _AT_ONCE, collate_fn=_collate)
        batches = []
        for number, batch in enumerate(loader, 1):
            batches.append(_tensors(batch, split))
            _check_shapes(batches[0][0], batches[-1][0], f"{split}, batch {number}")
        if not batches:
            raise ValueError(f"{split} has no samples: give one of each class at least")
        samples = torch.cat([part for part, _ in batches])
        labels = _joined([part for _, part in batches])
    if not len(samples):
        raise ValueError(f"{split} has no samples: give one of each class at least")
    require_finite_samples(samples, split)
    return _Look(samples=samples, labels=labels)


def _is_items(given: Sequence[Any]) -> bool:
    """Whether a sequence holds items, each a sample with its label, and not samples and labels."""
    return bool(given) and all(isinstance(item, tuple | Mapping) for item in given)


def _loader_of(dataset: Any, batch_size: int, seed: int) -> DataLoader[Any]:
    """Return a loader of whole batches, shuffled by the seed where items have a number.

    Raises:
        ValueError: a length that is unknown, or smaller than a batch.
    """
    count = 0
    with suppress(TypeError):
        count = len(dataset)
    if count < batch_size:
        raise ValueError(_no_batches(f"{count} samples" if count else "none, or no length"))
    order = None if isinstance(dataset, IterableDataset) else EpochOrder(count, seed)
    return DataLoader(dataset, batch_size, sampler=order, drop_last=True, collate_fn=_collate)


def _no_batches(received: str) -> str:
    return (
        "a run needs to know the batches of an epoch: received a loader without a length, or of no batch "
        f"({received}); give a Dataset with a length and at least batch_size images"
    )


def _looked_at(loader: DataLoader[Any]) -> _Look:
    """Look at the items of a Dataset, or the first batch of a loader, and leave random states alone.

    Raises:
        ValueError: something that cannot be trained on; names the sample.
    """
    with _random_states(loader):
        samples, labels = _first_batch(loader)
        items = loader.dataset if _shows_items(loader) else None
        if items is not None and not isinstance(items, IterableDataset):
            return _looked_at_items(items)
    require_finite_samples(samples, "train, batch 1")
    if samples.dtype == torch.uint8:
        raise ValueError(
            "a loader with batches of its own gives float images, normalised as you like: received uint8; "
            "convert them in it, or hand over its Dataset"
        )
    return _Look(samples=samples, labels=labels, is_whole=False)


def _first_batch(loader: DataLoader[Any]) -> tuple[Tensor, Labels]:
    steps = 0
    with suppress(TypeError):
        steps = len(loader)
    try:
        batch = next(iter(loader), None) if steps else None
    except TypeError as error:
        if "collate" not in str(error):
            raise
        raise ValueError(
            "the loader cannot put its items together: hand over its Dataset, which may have images of PIL "
            f"and mappings ({' '.join(str(error).split())!s:.120})"
        ) from None
    if batch is None:
        raise ValueError(_no_batches("none"))
    return _tensors(batch, "train, batch 1")


def _shows_items(loader: DataLoader[Any]) -> bool:
    """Whether a loader's epoch has every item of its Dataset once, as it is."""
    is_plain = loader.collate_fn in (default_collate, _collate) and loader.batch_size is not None
    draws_anew = isinstance(loader.sampler, RandomSampler) and loader.sampler.replacement
    whole = isinstance(loader.sampler, EpochOrder | SequentialSampler | RandomSampler)
    if not (is_plain and whole) or draws_anew:
        return False
    return len(cast(Any, loader.sampler)) == len(cast(Any, loader.dataset))


def _looked_at_items(dataset: Any) -> _Look:
    step = max(1, len(dataset) // MOST_CHECKED)
    numbers = range(0, len(dataset), step)
    thin = max(1, len(numbers) // 1000)
    some: list[Tensor] = []
    labels: list[Labels] = []
    for start in range(0, len(numbers), _AT_ONCE):
        chosen = numbers[start : start + _AT_ONCE]
        samples, found = _tensors(_collate([dataset[k] for k in chosen]), "train")
        require_finite_samples(samples, "train", chosen)
        some.append(samples[::thin].clone())
        _check_shapes(some[0], samples, f"train, sample {chosen[0]}")
        labels.append(found)
    return _Look(samples=torch.cat(some), labels=_joined(labels), is_whole=step == 1)


@contextmanager
def _random_states(loader: DataLoader[Any]) -> Iterator[None]:
    """Let transforms and samplers draw the same numbers every time, and none of those that come after."""
    own = loader.generator
    states = random.getstate(), np.random.get_state(), None if own is None else own.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if own is not None and states[2] is not None:
            own.set_state(states[2])


def _collate(items: Sequence[Any]) -> tuple[Tensor, Any]:
    """Put items together: (N, …) and their labels, of any kind."""
    pairs = [_pair_of(item, "an item") for item in items]
    return stacked([sample for sample, _ in pairs], "items"), [label for _, label in pairs]


def _tensors(given: Any, where: str) -> tuple[Tensor, Labels]:
    """Bring samples and their labels to their one form."""
    values, classes = _pair_of(given, where)
    samples = samples_of(values, where)
    labels = labels_of(classes, where, samples=samples)
    if len(labels) != len(samples):
        raise ValueError(
            f"{where}: every sample has a label: received {len(samples)} samples {tuple(samples.shape)} "
            f"with labels {tuple(labels.shape)}"
        )
    return samples, labels


def _pair_of(given: Any, where: str) -> tuple[Any, Any]:
    """Return samples and labels of what has both.

    Raises:
        ValueError: it does not tell which is which.
    """
    if isinstance(given, ImageSet):
        return given.images if given.rows is None else given.images[given.rows], given.labels
    if isinstance(given, tuple) and any(name in _LABEL_KEYS for name in getattr(given, "_fields", ())):
        given = cast(Any, given)._asdict()
    if isinstance(given, Mapping):
        found = [[key for key in keys if key in given] for keys in (_SAMPLE_KEYS, _LABEL_KEYS)]
        if all(len(keys) == 1 for keys in found):
            return given[found[0][0]], given[found[1][0]]
        raise ValueError(
            f"{where} has keys {', '.join(map(str, given))!s:.200}: which one is the sample, and which one "
            "the label? name them image and label"
        )
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    count = f"{len(given)} values" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
    raise ValueError(
        f"{where} is a pair of sample and label: received {count}; give pairs, or mappings with the keys "
        "image and label"
    )


def _joined(labels: list[Labels]) -> Labels:
    if all(isinstance(part, Tensor) for part in labels):
        return torch.cat(cast(list[Tensor], labels))
    return np.concatenate([as_names(part) for part in labels])


def require_finite_samples(samples: Tensor, where: str, numbers: Sequence[int] | None = None) -> None:
    """Check that all values of samples (N, …) are numbers.

    Args:
        samples: of any type.
        where: which ones they are, for the message.
        numbers: of the samples, (N,); None counts from 0.

    Raises:
        ValueError: one is not; names its sample.
    """
    if not samples.is_floating_point():
        return
    for start in range(0, len(samples), _AT_ONCE):
        finite = samples[start : start + _AT_ONCE].isfinite()
        if not bool(finite.all()):
            first = int((~finite.flatten(1).all(1)).nonzero()[0])
            value = samples[start + first][~finite[first]][0].item()
            place = start + first if numbers is None else numbers[start + first]
            raise ValueError(
                f"sample {place} of {where} has a value that is {value}: mend it or leave it out"
            )


def _declared_names(train: Any) -> tuple[str, ...] | None:
    """Return the names of classes that a data set says it has, as Hugging Face's and torchvision's do."""
    features = getattr(train, "features", None)
    columns = features.items() if isinstance(features, Mapping) else ()
    found = [
        feature.names for name, feature in columns if name in _LABEL_KEYS and hasattr(feature, "names")
    ]
    names = found[0] if found else getattr(train, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None


def _names(classes: Sequence[str] | None, look: _Look, tested: _Look | None) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        ValueError: fewer than the labels need, or labels that leave numbers out.
    """
    labels = look.labels
    if isinstance(labels, Tensor):
        _require_numbers_from_0(labels, "train")
    if classes is not None:
        names = tuple(str(name) for name in classes)
        if isinstance(classes, str) or len(set(names)) < len(names):
            raise ValueError(f"classes are different names, one a label: received {classes!r:.100}")
        if isinstance(labels, Tensor) and int(labels.max()) >= len(names):
            raise ValueError(f"labels go up to {int(labels.max())}: received {len(names)} class names")
        return names
    if not look.is_whole and tested is not None:
        labels = _joined([labels, tested.labels])
    if isinstance(labels, np.ndarray):
        return tuple(np.unique(labels).tolist())
    count, found = int(labels.max()) + 1, len(torch.unique(labels))
    most = found if look.is_whole else max(1000, 10 * len(labels))
    if count > (most if labels.ndim == 1 else _MOST_TOKENS):
        raise ValueError(
            f"labels are 0 … K−1 for K classes, each with a training sample: received {found} different "
            f"ones, {int(labels.min())} … {count - 1}; number them by np.unique(labels, "
            "return_inverse=True)[1], or name all classes by classes=…"
        )
    return tuple(str(k) for k in range(count))


def _require_numbers_from_0(labels: Tensor, where: str) -> None:
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(
            f"{where}: labels are 0 … K−1: received {int(labels.min())} for sample {first_of(labels < 0)}"
        )


def _indices(labels: Labels, names: Sequence[str], where: str) -> Tensor:
    """Return labels as indices into the classes, int64.

    Raises:
        ValueError: one is none of the classes; names it and its sample.
    """
    if isinstance(labels, np.ndarray):
        index = {name: k for k, name in enumerate(names)}
        unknown = [k for k, label in enumerate(labels) if label not in index]
        if unknown:
            raise ValueError(_unknown(where, unknown[0], str(labels[unknown[0]]), names))
        return torch.tensor([index[label] for label in labels])
    _require_numbers_from_0(labels, where)
    above = labels >= len(names)
    if bool(above.any()):
        raise ValueError(_unknown(where, first_of(above), str(int(labels[above][0])), names))
    return labels


def _unknown(where: str, sample: int, label: str, names: Sequence[str]) -> str:
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"{where}: sample {sample} has label {label}, which is none of the {len(names)} classes of "
        f"training ({some}); leave such samples out, or train on some"
    )


def _check_trained(labels: Tensor, counts: Sequence[int] | None, names: Sequence[str], where: str) -> None:
    """Check that every class of a split has training samples, where their number is known.

    Raises:
        ValueError: one has none; names it.
    """
    if counts is None or labels.ndim > 1:
        return
    untrained = torch.tensor(counts, device=labels.device)[labels] == 0
    if bool(untrained.any()):
        k = first_of(untrained)
        raise ValueError(
            f"{where}: sample {k} is of class {names[int(labels[k])]}, and training has no sample of "
            "it; leave such samples out, or train on some"
        )


def _check_alike(train: Tensor, other: Tensor, where: str) -> None:
    """Check that a split's samples have the shape, the kind and the scale of training's.

    Raises:
        ValueError: they have not.
    """
    if other.shape[1:] != train.shape[1:] or other.dtype != train.dtype:
        raise ValueError(
            f"{where} has samples {kind_of(other)}, and train has {kind_of(train)}: bring them to one "
            "shape and scale"
        )
    if not train.is_floating_point() or train.ndim < 2:
        return
    some = [samples[:: max(1, len(samples) // (4 * _AT_ONCE))] for samples in (train, other)]
    if train.ndim >= 4:
        ours, theirs = (samples.std(correction=0).item() for samples in some)
        if min(ours, theirs) > 0 and max(ours, theirs) > _LARGEST_FACTOR * min(ours, theirs):
            raise ValueError(
                f"{where} has images on another scale than train: their standard deviations are "
                f"{theirs:.3g} and {ours:.3g}; divide both by the same value"
            )
    trained, tested = (samples.movedim(1, 0).flatten(1) for samples in some)
    _check_shift(trained, tested, where, is_table=train.ndim == 2)


def _check_shift(train: Tensor, other: Tensor, where: str, *, is_table: bool) -> None:
    """Check that means of channels, (C, …), are near those of training's; say it of a table's columns."""
    if other.shape[1] < _LEAST_SAMPLES:
        return
    means, spread = (train.mean(1), other.mean(1)), train.std(1, correction=0)
    is_far = ((means[1] - means[0]).abs() > _LARGEST_SHIFT * spread) & (spread > 0)
    if is_far.double().mean().item() < (_SHIFTED_SHARE if is_table else 1):
        return
    k = first_of(is_far)
    what = f"{where} has {'columns' if is_table else 'samples'} on another scale than train"
    part = "column" if is_table else "channel"
    told = f"the mean of {part} {k} is {means[1][k]:.3g}, of train's {means[0][k]:.3g}"
    if not is_table:
        raise ValueError(f"{what}: {told}; scale both alike")
    warnings.warn(f"{what}: {told}; scale both alike", stacklevel=4)


def _check_shapes(first: Tensor, other: Tensor, where: str) -> None:
    if other.shape[1:] != first.shape[1:] or other.dtype != first.dtype:
        raise ValueError(
            f"{where}: samples have one shape and type: received {kind_of(other)} after {kind_of(first)}"
        )


def _statistics(samples: Tensor) -> ChannelStatistics:
    """Return what to normalise by: bytes by their own statistics, others stay as they are."""
    if samples.dtype == torch.uint8:
        return channel_statistics(ImageSet(samples, torch.zeros(len(samples), dtype=torch.int64)))
    channels = samples.shape[1] if samples.ndim == 4 else 0
    return ChannelStatistics((0.0,) * channels, (1.0,) * channels)


def _counts(labels: Tensor, classes: int) -> tuple[int, ...] | None:
    """Return how many samples each class has; None where positions have labels."""
    return None if labels.ndim > 1 else tuple(torch.bincount(labels, minlength=classes).tolist())
