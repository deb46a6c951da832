"""Data made in Python (arrays, tensors, frames, images, Datasets, loaders) in the one form of training.

Shapes: N images (N, C, H, W) uint8 or float32, rows of a table (N, F) or other samples (N, …) float32, or
tokens (N, T) int64; labels (N,), or (N, …) where every position has one; K classes.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple, cast

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
from trifecta.data.images import ChannelStatistics, ImageData, ImageSet, channel_statistics, hold_out
from trifecta.data.rows import IMAGE_NAMES, LABEL_NAMES

# Class indices, or class names.
Labels = Tensor | NDArray[np.str_]


# Samples and labels, items of one of each, or a loader of batches.
Given = Sized | Dataset[Any]

TEST_SHARE = 0.2
# Items of a Dataset that are looked at before training: all of up to twice as many, else every k-th.
_MOST_CHECKED = 5_000
_AT_ONCE = 256
# Images whose standard deviations differ by a larger factor are not on one scale, nor are channels, or a
# quarter of a table's columns, whose mean is so many standard deviations away.
_LARGEST_FACTOR, _LARGEST_SHIFT, _SHIFTED_SHARE, _LEAST_SAMPLES = 30.0, 4.0, 0.25, 10
# Labels of positions are mostly tokens of a vocabulary, not all of which come up.
_MOST_TOKENS = 2**17


class EpochOrder(Sampler[int]):
    """The order of an epoch, by the seed and the epoch alone.

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
    """Training batches of a ``DataLoader``, as it makes them, without augmentation.

    The loader's own sampler decides the order; only :class:`EpochOrder` makes a resumed run repeat it.

    Args:
        loader: with a length, of batches of samples (B, …) and labels (B,).
        device: where batches are to go.
        classes: class names, for labels that are names.
        mean: mean of each channel to normalise bytes by, in 0..1.
        std: standard deviation of each channel; likewise.
        checked: whether samples that are not finite are an error.
        expected: classes of other splits, of which the first epoch must show some.
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
        """Number of batches in an epoch."""
        return len(self.loader)

    @property
    def images_per_epoch(self) -> int:
        """Number of images in an epoch."""
        images = len(cast(Any, self.loader.dataset))
        size = self.loader.batch_size
        return images if size is None else min(images, len(self.loader) * size)

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from ``start`` on; those before it are made and left out.

        Raises:
            ValueError: a batch that cannot be trained on; names it and its sample.
        """
        if isinstance(self.loader.sampler, EpochOrder):
            self.loader.sampler.epoch = index
        for number, batch in enumerate(islice(iter(self.loader), start, self.steps_per_epoch), start + 1):
            where = f"train, batch {number} of epoch {index + 1}"
            samples, labels = pairs_of(batch, where)
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


class _Split(NamedTuple):
    """Samples and labels of a split: all, or of a Dataset or loader those that were looked at."""

    samples: Tensor
    labels: Labels
    is_whole: bool = True


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
    """Make a data set of samples and labels in Python.

    Images in bytes are normalised by the training images' mean and standard deviation; floats and integer
    tokens are taken as they are. A ``Dataset`` is loaded anew in every epoch, shuffled, so that its
    transforms stay random; its items are looked at once before that, all of them up to 10,000.

    Args:
        train: ``(samples, labels)``, a mapping of both, a ``Dataset`` or another sequence of items, or a
            ``DataLoader``. Items and batches are pairs, or mappings with keys such as ``image`` and
            ``label``.
        validation: to choose on; None keeps a stratified ``share`` of training tensors for it, and for a
            ``Dataset`` or ``DataLoader`` nothing.
        test: to measure on; None keeps a stratified fifth of training tensors for it.
        share: of training tensors to validate on, 0 … below 1.
        classes: names, in label order; None numbers them, or sorts labels that are names.
        batch_size: of a ``Dataset``.
        seed: of the order of a ``Dataset``.

    Raises:
        ValueError: there is no test split, a loader without a length, an empty split, samples that are not
            finite or not of one shape and scale, or labels that are no classes or that training lacks.
    """
    loader = None
    if not _is_in_memory(train):
        if test is None:
            raise ValueError("a Dataset or DataLoader needs test images beside it: give test=…")
        loader = _loader_of(train, batch_size, seed)
    seen = _collected(train, "train") if loader is None else _looked_at(loader)
    parts = {"validation": validation, "test": test}
    others = {name: _collected(given, name) for name, given in parts.items() if given is not None}
    names = _class_names(classes or _declared_names(train), seen, others.get("test"))
    labels = _indices(seen.labels, names, "train")
    is_counted = seen.is_whole and labels.ndim == 1
    counts = tuple(torch.bincount(labels, minlength=len(names)).tolist()) if is_counted else None
    sets = {}
    for name, other in others.items():
        _check_alike(seen.samples, other.samples, name)
        by_name = classes is None and isinstance(seen.labels, np.ndarray)
        own = _as_names(other.labels) if by_name else other.labels
        sets[name] = ImageSet(other.samples, _indices(own, names, name, counts))
    if loader is not None:
        kept = sets["test"].select(torch.arange(0))
    else:
        kept = ImageSet(seen.samples, labels)
        if "test" not in sets:
            kept, sets["test"] = hold_out(kept, TEST_SHARE)
        if "validation" not in sets and share:
            kept, sets["validation"] = hold_out(kept, share)
    mean, std = _statistics(kept.images if loader is None else seen.samples)
    return ImageData(
        train=kept,
        validation=sets.get("validation"),
        test=sets["test"],
        classes=names,
        mean=mean,
        std=std,
        loader=loader,
        loader_counts=None if loader is None else counts,
    )


def _is_in_memory(given: Any) -> bool:
    """Whether data lie in memory; else they are items or batches that are made in every epoch."""
    if isinstance(given, tuple | list | Mapping | ImageSet):
        return True
    is_array = isinstance(given, str | Tensor | np.ndarray) or hasattr(given, "iloc")
    if is_array or not (isinstance(given, DataLoader | Dataset) or hasattr(given, "__getitem__")):
        raise ValueError(
            "data=… takes (samples, labels), a Dataset with a length, or a DataLoader, and a source with a "
            f"name belongs into RunConfig(data=…): received a {type(given).__name__}"
        )
    return False


def _collected(given: Any, split: str) -> _Split:
    """Bring a whole split into memory, in order."""
    has_items = isinstance(given, tuple | list) and all(isinstance(item, tuple | Mapping) for item in given)
    if _is_in_memory(given) and not (has_items and given):
        return _joined([given], split)
    is_loader = isinstance(given, DataLoader)
    return _joined(given if is_loader else DataLoader(given, _AT_ONCE, collate_fn=_collate), split)


def _joined(batches: Iterable[Any], split: str, *, step: int = 1, thin: int = 1) -> _Split:
    """Put batches of every ``step``-th sample of a split together, every ``thin``-th sample of them."""
    samples, labels, seen = list[Tensor](), list[Labels](), 0
    for batch in batches:
        some, own = pairs_of(batch, split)
        require_finite_samples(some, split, range(seen * step, (seen + len(some)) * step, step))
        if samples and (some.shape[1:], some.dtype) != (samples[0].shape[1:], samples[0].dtype):
            raise ValueError(
                f"{split}: samples have one shape and type: received {_kind_of(some)} after "
                f"{_kind_of(samples[0])}, from sample {seen * step} on"
            )
        samples.append(some if thin == 1 else some[::thin].clone())
        labels.append(own)
        seen += len(some)
    if not seen:
        raise ValueError(f"{split} has no samples: give one of each class at least")
    return _Split(samples[0] if len(samples) == 1 else torch.cat(samples), _joined_labels(labels))


def _joined_labels(labels: Sequence[Labels]) -> Labels:
    if all(isinstance(part, Tensor) for part in labels):
        return torch.cat(cast(list[Tensor], labels))
    return np.concatenate([_as_names(part) for part in labels])


def _loader_of(given: Any, batch_size: int, seed: int) -> DataLoader[Any]:
    """Return a loader as it is, or one of a Dataset's whole batches, shuffled by the seed."""
    is_loader, count = isinstance(given, DataLoader), 0
    with suppress(TypeError):
        count = len(given)
    if count < (1 if is_loader else batch_size):
        raise ValueError(
            "a run needs to know the batches of an epoch: received a loader without a length, or of no "
            f"batch ({f'{count} samples' if count else 'none, or no length'}); give a Dataset with a "
            "length and at least batch_size images"
        )
    if is_loader:
        return cast(DataLoader[Any], given)
    order = None if isinstance(given, IterableDataset) else EpochOrder(count, seed)
    return DataLoader(given, batch_size, sampler=order, drop_last=True, collate_fn=_collate)


def _looked_at(loader: DataLoader[Any]) -> _Split:
    """Look at the items of a Dataset, or at the first batch of a loader that makes its own."""
    with _own_random_numbers(loader):
        try:
            first = _joined(islice(iter(loader), 1), "train, batch 1")
        except TypeError as error:
            if "collate" not in str(error):
                raise
            raise ValueError(
                "the loader cannot put its items together: hand over its Dataset, which may have images of "
                f"PIL and mappings ({' '.join(str(error).split())!s:.120})"
            ) from None
        if _shows_items(loader):
            items: Any = loader.dataset
            step = max(1, len(items) // _MOST_CHECKED)
            numbers = range(0, len(items), step)
            starts = range(0, len(numbers), _AT_ONCE)
            batches = (_collate([items[k] for k in numbers[start : start + _AT_ONCE]]) for start in starts)
            seen = _joined(batches, "train", step=step, thin=max(1, len(numbers) // 1000))
            return seen._replace(is_whole=step == 1)
    if first.samples.dtype == torch.uint8:
        raise ValueError(
            "a loader with batches of its own gives float images, normalised as you like: received uint8; "
            "convert them in it, or hand over its Dataset"
        )
    return first._replace(is_whole=False)


def _shows_items(loader: DataLoader[Any]) -> bool:
    """Whether a loader's epoch has every item of its Dataset once, as it is."""
    is_plain = loader.collate_fn in (default_collate, _collate) and loader.batch_size is not None
    sampler: Any = loader.sampler
    is_whole = isinstance(sampler, EpochOrder | SequentialSampler | RandomSampler)
    if isinstance(loader.dataset, IterableDataset) or not (is_plain and is_whole):
        return False
    return not getattr(sampler, "replacement", False) and len(sampler) == len(cast(Any, loader.dataset))


@contextmanager
def _own_random_numbers(loader: DataLoader[Any]) -> Iterator[None]:
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
    """Put items together: samples (N, …), and their labels of any kind."""
    pairs = [_pair_of(item, "an item") for item in items]
    return _stacked([sample for sample, _ in pairs], "items"), [label for _, label in pairs]


def pairs_of(given: Any, where: str) -> tuple[Tensor, Labels]:
    """Bring samples and labels of any kind to their one form.

    Args:
        given: a pair, or a mapping with keys such as ``image`` and ``label``.
        where: of which data they are, for messages.

    Returns:
        Samples (N, …) as the module says. Floats of any width become float32, True and False 1 and 0; whole
        numbers 0 … 255 in images become bytes, other integers tokens. Images (N, H, W, C) with 3 or 4
        channels, or square ones with 1, become (N, C, H, W), and bytes (N, H, W) become (N, 1, H, W).
        Labels are class indices int64 or class names; a column (N, 1) is flattened, one-hot rows (N, K)
        become the index of their 1, and whole floats integers.

    Raises:
        ValueError: anything else, such as a missing label; names the sample.
    """
    values, classes = _pair_of(given, where)
    samples = samples_of(values, where)
    labels = _labels(classes, where, samples)
    if len(labels) != len(samples):
        raise ValueError(
            f"{where}: every sample has a label: received {len(samples)} samples {tuple(samples.shape)} "
            f"with labels {tuple(labels.shape)}"
        )
    return samples, labels


def _pair_of(given: Any, where: str) -> tuple[Any, Any]:
    if isinstance(given, ImageSet):
        return given.images if given.rows is None else given.images[given.rows], given.labels
    if isinstance(given, tuple) and any(name in LABEL_NAMES for name in getattr(given, "_fields", ())):
        given = cast(Any, given)._asdict()
    if isinstance(given, Mapping):
        found = [[key for key in keys if key in given] for keys in (IMAGE_NAMES, LABEL_NAMES)]
        if all(len(keys) == 1 for keys in found):
            return given[found[0][0]], given[found[1][0]]
        received = f"keys {', '.join(map(str, given))!s:.200}"
    elif isinstance(given, tuple | list):
        if len(given) == 2:
            return given[0], given[1]
        received = f"{len(given)} values"
    else:
        received = f"a {type(given).__name__}"
    raise ValueError(
        f"{where} is a pair of sample and label: received {received}; give pairs, or mappings with the "
        "keys image and label"
    )


def samples_of(values: Any, where: str) -> Tensor:
    """Return samples as uint8 (N, C, H, W), float32 (N, …) or int64 tokens (N, T).

    Raises:
        ValueError: they cannot be one of those.
    """
    samples = _tensor(values, f"samples of {where}")
    if samples.dtype == torch.uint8 and samples.ndim == 3:
        samples = samples.unsqueeze(1)
    if samples.ndim == 4:
        _, first, second, last = samples.shape
        if (last in (3, 4) and first > 4) or (last == 1 and first == second > 1):
            samples = samples.movedim(-1, 1)
    is_integer = not (samples.is_floating_point() or samples.is_complex() or samples.dtype == torch.bool)
    is_wrong = is_integer and (
        samples.ndim not in (2, 4) or (samples.ndim, samples.dtype) == (2, torch.uint8)
    )
    if samples.is_complex() or samples.ndim < 2 or is_wrong:
        raise ValueError(
            f"{where}: samples are images (N, C, H, W), rows (N, F) or others (N, …) of floats, images of "
            f"bytes or tokens (N, T) of integers: received {_kind_of(samples)}; for anything else give "
            "floats"
        )
    if not is_integer:
        return samples.float()
    if samples.ndim == 2:
        return samples.long()
    if samples.dtype != torch.uint8 and samples.numel():
        samples = samples.long()
        least, most = int(samples.min()), int(samples.max())
        if least < 0 or most > 255:
            raise ValueError(
                f"{where}: whole numbers in images are 0 … 255: received {least} … {most}; give floats, "
                "divided by the largest value that there can be"
            )
    return samples.to(torch.uint8)


def _labels(values: Any, where: str, samples: Tensor) -> Labels:
    names = _text(values, where)
    if names is not None:
        return names
    labels = _tensor(values, f"labels of {where}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.is_complex() or not labels.ndim:
        raise ValueError(f"{where}: labels are class numbers (N,): received {_kind_of(labels)}")
    if labels.is_floating_point():
        fractions = (labels != labels.floor()) | labels.isinf()
        if bool(fractions.any()):
            k = _first_of(fractions)
            raise ValueError(
                f"{where}: labels are whole numbers: received {labels[k].tolist()!s:.60} for sample {k}"
            )
    labels = labels.to(samples.device, torch.int64)
    # Tokens (N, T), signals (N, C, L) and sequences (N, T, width) may have a label at every position.
    positions = samples.shape[1:] if samples.ndim == 3 or samples.dtype == torch.int64 else ()
    if labels.ndim != 2 or not labels.numel() or labels.shape[1] in positions:
        return labels
    is_one_hot = bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())
    return labels.argmax(1) if is_one_hot else labels


def _text(values: Any, where: str) -> NDArray[np.str_] | None:
    """Return labels that are names, (N,); None where they are numbers."""
    is_list = isinstance(values, list | tuple)
    if isinstance(values, Tensor) or (is_list and not any(isinstance(value, str) for value in values)):
        return None
    array = np.asarray(values, dtype=object if is_list else None)
    is_text = array.dtype.kind in "UST"
    if array.dtype.kind == "O":
        for k, value in enumerate(array.flat):
            if value is None or value != value:
                raise ValueError(f"{where}: sample {k} has no label: received {value}")
            is_text = is_text or isinstance(value, str)
    return array.reshape(-1).astype(str) if is_text else None


def _tensor(values: Any, what: str) -> Tensor:
    """Return values as a tensor of their own type, without any graph."""
    if isinstance(values, list | tuple) and hasattr(next(iter(values), None), "__array__"):
        return _stacked(values, what)
    if isinstance(values, Tensor):
        plain = values.detach()
        if plain.is_meta:
            raise ValueError(f"{what} have no values: received tensors on the device meta")
        return plain if plain.layout == torch.strided else plain.to_dense()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{what} are masked in places: fill or leave them out")
    if hasattr(values, "getbands"):  # an image of PIL's
        if values.mode not in ("L", "RGB", "F") and not values.mode.startswith("I"):
            values = values.convert("L" if values.mode in ("1", "LA", "La") else "RGB")
        pixels = torch.from_numpy(np.array(values))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.movedim(-1, 0)
    try:
        # A table's columns may be of several types; its whole numbers are no tokens.
        is_table = hasattr(values, "iloc") and values.ndim == 2
        array = np.asarray(values, dtype=np.float32 if is_table else None)
        if array.dtype.kind == "O":
            array = np.array(array.tolist())
        # PyTorch takes no foreign byte order, no memory that cannot be written to or that runs backwards.
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        is_plain = native.flags.writeable and min(native.strides, default=0) >= 0
        return torch.from_numpy(native if is_plain else native.copy())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are no array of numbers: {' '.join(str(error).split())!s:.120}") from None


def _stacked(values: Sequence[Any], what: str) -> Tensor:
    """Stack arrays of one shape, (N, …)."""
    tensors = [_tensor(value, what) for value in values]
    shapes = list(dict.fromkeys(tuple(tensor.shape) for tensor in tensors))
    if len(shapes) > 1:
        raise ValueError(f"{what} have one shape: received {shapes[0]} and {shapes[1]}; resize them")
    return torch.stack(tensors)


def _as_names(labels: Labels) -> NDArray[np.str_]:
    """Return labels as names, numbers by their digits."""
    return labels if isinstance(labels, np.ndarray) else labels.cpu().numpy().astype(str)


def _first_of(found: Tensor) -> int:
    """Return the first sample for which something is true, of (N,) or (N, …)."""
    return int(found.reshape(len(found), -1).any(1).nonzero()[0])


def _kind_of(samples: Tensor) -> str:
    kind = str(samples.dtype).removeprefix("torch.")
    return f"{kind} (N, {', '.join(map(str, samples.shape[1:]))})" if samples.ndim else "one value"


def require_finite_samples(samples: Tensor, where: str, numbers: Sequence[int] | None = None) -> None:
    """Check that all values of samples (N, …) are finite.

    Args:
        samples: of any type.
        where: of which data they are, for the message.
        numbers: of the samples, (N,); None counts from 0.

    Raises:
        ValueError: a value is not; names its sample.
    """
    for start in range(0, len(samples) if samples.is_floating_point() else 0, _AT_ONCE):
        finite = samples[start : start + _AT_ONCE].isfinite()
        if not bool(finite.all()):
            first = _first_of(~finite)
            value = samples[start + first][~finite[first]][0].item()
            place = start + first if numbers is None else numbers[start + first]
            raise ValueError(
                f"sample {place} of {where} has a value that is {value}: mend it or leave it out"
            )


def _declared_names(train: Any) -> tuple[str, ...] | None:
    """Return the class names that a data set declares, as Hugging Face's and torchvision's do."""
    features = getattr(train, "features", None)
    columns = features if isinstance(features, Mapping) else {}
    named = [columns[key].names for key in columns if key in LABEL_NAMES and hasattr(columns[key], "names")]
    names = named[0] if named else getattr(train, "classes", None)
    is_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(cast(Sequence[str], names)) if is_names else None


def _class_names(classes: Sequence[str] | None, seen: _Split, tested: _Split | None) -> tuple[str, ...]:
    """Return the given class names, else the labels that are names, sorted, else numbers from 0."""
    if classes is not None:
        names = tuple(str(name) for name in classes)
        if isinstance(classes, str) or len(set(names)) < len(names):
            raise ValueError(f"classes are different names, one a label: received {classes!r:.100}")
        return names
    labels = seen.labels
    if not seen.is_whole and tested is not None:
        labels = _joined_labels([labels, tested.labels])
    if isinstance(labels, np.ndarray):
        return tuple(np.unique(labels).tolist())
    count, found = int(labels.max()) + 1, len(torch.unique(labels))
    most = found if seen.is_whole else max(1000, 10 * len(labels))
    if count > (most if labels.ndim == 1 else _MOST_TOKENS):
        raise ValueError(
            f"labels are 0 … K−1 for K classes, each with a training sample: received {found} different "
            f"ones, {int(labels.min())} … {count - 1}; number them by np.unique(labels, "
            "return_inverse=True)[1], or name all classes by classes=…"
        )
    return tuple(map(str, range(count)))


def _indices(
    labels: Labels, names: Sequence[str], where: str, counts: Sequence[int] | None = None
) -> Tensor:
    """Return labels as indices into the classes, int64, which must have training samples by ``counts``."""
    found = labels
    if isinstance(labels, np.ndarray):
        index = {name: k for k, name in enumerate(names)}
        found = torch.tensor([index.get(label, -1) for label in labels])
    assert isinstance(found, Tensor)
    outside = (found < 0) | (found >= len(names))
    if counts is not None and found.ndim == 1:
        trained = torch.tensor([*counts, 0], device=found.device)[found.clamp(-1, len(names))]
        outside |= trained == 0
    if bool(outside.any()):
        k = _first_of(outside)
        known = [name for name, count in zip(names, counts or [1] * len(names), strict=True) if count]
        raise ValueError(
            f"{where}: sample {k} has label {np.asarray(labels[k]).tolist()!s:.60}, which is none of the "
            f"{len(known)} classes of training ({', '.join(known[:5])}{', …' if len(known) > 5 else ''}); "
            "leave such samples out, or train on some"
        )
    return found


def _check_alike(train: Tensor, other: Tensor, where: str) -> None:
    """Check that a split's samples have training's shape, type and scale; of a table, only say the last."""
    if other.shape[1:] != train.shape[1:] or other.dtype != train.dtype:
        raise ValueError(
            f"{where} has samples {_kind_of(other)}, and train has {_kind_of(train)}: bring them to one "
            "shape and scale"
        )
    if not train.is_floating_point():
        return
    # Some of both, (channels or columns, …).
    ours, theirs = (
        samples[:: max(1, len(samples) // (4 * _AT_ONCE))].movedim(1, 0).flatten(1)
        for samples in (train, other)
    )
    least, most = sorted([ours.std(correction=0).item(), theirs.std(correction=0).item()])
    if train.ndim >= 4 and 0 < _LARGEST_FACTOR * least < most:
        raise ValueError(
            f"{where} has images on another scale than train: one standard deviation is {least:.3g}, the "
            f"other {most:.3g}; divide both by the same value"
        )
    if theirs.shape[1] < _LEAST_SAMPLES:
        return
    means, spread = (ours.mean(1), theirs.mean(1)), ours.std(1, correction=0)
    is_far = ((means[1] - means[0]).abs() > _LARGEST_SHIFT * spread) & (spread > 0)
    is_table = train.ndim == 2
    if is_far.double().mean().item() < (_SHIFTED_SHARE if is_table else 1):
        return
    k = _first_of(is_far)
    told = (
        f"{where} has {'columns' if is_table else 'samples'} on another scale than train: the mean of "
        f"{'column' if is_table else 'channel'} {k} is {means[1][k]:.3g}, of train's {means[0][k]:.3g}; "
        "scale both alike"
    )
    if not is_table:
        raise ValueError(told)
    warnings.warn(told, stacklevel=3)


def _statistics(samples: Tensor) -> ChannelStatistics:
    """Return what to normalise by: bytes by their own statistics, others stay as they are."""
    if samples.dtype == torch.uint8:
        return channel_statistics(ImageSet(samples, torch.zeros(len(samples), dtype=torch.int64)))
    channels = samples.shape[1] if samples.ndim == 4 else 0
    return ChannelStatistics((0.0,) * channels, (1.0,) * channels)
