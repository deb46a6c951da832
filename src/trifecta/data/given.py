"""Data made in Python (arrays, tensors, frames, images, Datasets, loaders) in the one form of training.

Shapes: N images (N, C, H, W) uint8 or float32, rows of a table (N, F) or other samples (N, …) float32, or
tokens (N, T) int64; labels (N,), or (N, …) where every position has one; K classes.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from trifecta._utils.extras import require
from trifecta.data.augment import normalize
from trifecta.data.batches import epoch_order
from trifecta.data.decode import listed, plain_image
from trifecta.data.images import (
    ImageData,
    ImageSet,
    channel_statistics,
    hold_out,
    require_scale,
    warn_of_shared,
)
from trifecta.data.rows import IMAGE_NAMES, LABEL_NAMES, unknown_label
from trifecta.nn.drawing import SharedGenerators

# Samples and labels, items of one of each, or a loader of batches.
Given = Sized | Dataset[Any]

TEST_SHARE = 0.2
# Items of a Dataset that are looked at before training: all of up to twice as many, else every k-th.
_MOST_CHECKED, _MOST_KEPT, _AT_ONCE = 5_000, 1000, 256
# Largest error of float32 in a table's column, in deviations, and the least deviation that is no rounding,
# relative to the column's largest value.
_LARGEST_ERROR, _ROUNDING = 0.01, 1e-12
# Samples a class in which every class comes up.
_SAMPLES_A_CLASS = 10
_NUMBERS = (bool, int, float, list, tuple)
# Labels of positions are mostly tokens of a vocabulary, not all of which come up.
_MOST_TOKENS = 2**17


class EpochOrder(Sampler[int]):
    """The order of an ``epoch``, counted from 0, by the seed and the epoch alone."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.count, seed=self.seed, epoch=self.epoch).tolist())

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, eq=False)
class LoaderBatches:
    """Training batches of a ``DataLoader``, as it makes them, without augmentation.

    The loader's own sampler decides the order; only :class:`EpochOrder` makes a resumed run repeat it.
    Bytes are normalised by ``mean`` and ``std``; names become indices into ``classes``. Samples that are
    not finite are an error if ``checked``; ``expected`` classes that the first epoch lacks are a warning.
    Rows (N, K) are ``one_hot``, or labels of positions.
    """

    loader: DataLoader[Any]
    device: torch.device
    _: KW_ONLY
    classes: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    checked: bool = True
    expected: Sequence[int] = ()
    one_hot: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.loader)

    @property
    def images_per_epoch(self) -> int:
        """Number of images in an epoch."""
        images, size = len(cast(Any, self.loader.dataset)), self.loader.batch_size
        return images if size is None else min(images, len(self.loader) * size)

    def epoch(
        self, index: int, *, start: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from ``start`` on; those before it are made and left out."""
        if isinstance(self.loader.sampler, EpochOrder):
            self.loader.sampler.epoch = index
        missing = set(self.expected) if index == start == 0 else set()
        for number, batch in enumerate(islice(iter(self.loader), start, self.steps_per_epoch), start + 1):
            where = f"train, batch {number} of epoch {index + 1}"
            samples, labels = pairs_of(batch, where)
            if self.checked:
                require_finite_samples(samples, where)
            if samples.dtype == torch.uint8:
                samples = normalize(samples, self.mean, self.std)
            labels = _of_one_hot(labels, where) if self.one_hot else labels
            indices = _indices(labels, self.classes, where)
            if missing:
                missing -= set(indices.flatten().tolist())
            yield samples.to(self.device), indices.to(self.device)
        if missing:
            some = listed([self.classes[k] for k in sorted(missing)])
            warnings.warn(f"training has no sample of {some}, and other splits have some", stacklevel=2)


class _Split(NamedTuple):
    """Samples and labels of a split: all, or of a Dataset or loader those that were looked at."""

    samples: Tensor
    labels: NDArray[Any]
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
    """Make a data set of samples and labels in Python; data that cannot be used are a ValueError.

    Images in bytes are normalised by the training images' mean and standard deviation; floats and integer
    tokens are taken as they are. A ``Dataset`` is loaded anew in every epoch, shuffled, so that its
    transforms stay random; its items are looked at once before that, all of them up to 10,000.

    Args:
        train: ``(samples, labels)``, a mapping of both, a ``Dataset`` or another sequence of items, or a
            ``DataLoader``. Items and batches are pairs, or mappings with keys such as ``image`` and
            ``label``.
        validation: data to choose on; None takes a stratified ``share`` (0 … below 1) of training tensors.
        test: data to measure on; None takes a stratified fifth of training tensors. Label numbers of a
            split that declares class names, as ``Dataset`` objects do, are those of training by name.
        share: see ``validation``.
        classes: class names, in label order; None numbers them, or sorts labels that are names.
        batch_size: batch size of a ``Dataset``.
        seed: seed of the order of a ``Dataset``.
    """
    loader = None if _is_in_memory(train) else _loader_of(train, batch_size, seed)
    if loader is not None and test is None:
        raise ValueError("a Dataset or DataLoader needs test images beside it: give test=…")
    seen = _collected(train, "train") if loader is None else _looked_at(loader)
    parts = {"validation": validation, "test": test}
    others = {name: _collected(given, name) for name, given in parts.items() if given is not None}
    given_names = classes or _declared_names(train)
    if _are_one_hot(seen, given_names):
        seen = seen._replace(labels=_of_one_hot(seen.labels, "train"))
        others = {name: own._replace(labels=_of_one_hot(own.labels, name)) for name, own in others.items()}
    names = _class_names(given_names, seen, others.get("test"))
    labels, counts = _indices(seen.labels, names, "train").to(seen.samples.device), None
    if seen.is_whole and labels.ndim == 1:
        counts = tuple(torch.bincount(labels, minlength=len(names)).tolist())
    by_name = classes is None and seen.labels.dtype.kind == "U"
    known = (_label_names(train) or (names if by_name or classes else ()))[: len(names)]
    sets = {}
    for name, other in others.items():
        ours, theirs, own = seen.samples, other.samples, other.labels
        _require_alike(seen, other, name)
        require_scale(ours, theirs, name)
        declared, meant = _label_names(parts[name]), names
        _warn_of_numbers(known if declared else _label_names(train), len(names), declared, own, name)
        if known and declared and declared != known and own.dtype.kind != "U":
            own, meant = np.array(declared)[_indices(own, declared, name)], known
        elif by_name:
            own = own.astype(str)
        sets[name] = ImageSet(theirs, _indices(own, meant, name, counts).to(theirs.device))
    if loader is None:
        kept = shown = ImageSet(seen.samples, labels)
        for name, part in (("test", TEST_SHARE), ("validation", share)):
            if name not in sets and part:
                kept, sets[name] = hold_out(kept, part)
                shown = kept
    else:
        kept = sets["test"].select(torch.arange(0))
        shown = ImageSet(seen.samples, torch.zeros(len(seen.samples), dtype=torch.int64))
    warn_of_shared(shown, sets["test"])
    channels = shown.images.shape[1] if shown.images.ndim == 4 else 0
    is_bytes = shown.images.dtype == torch.uint8
    # Zeros and ones leave floats as they are.
    mean, std = channel_statistics(shown) if is_bytes else ((0.0,) * channels, (1.0,) * channels)
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
        told = f"data=… takes (samples, labels), a Dataset or a DataLoader, not a {type(given).__name__}"
        raise ValueError(f"{told}; a source with a name belongs into RunConfig(data=…)")
    return False


def _collected(given: Any, split: str) -> _Split:
    """Bring a whole split into memory, in order."""
    if _is_in_memory(given) and not _has_items(given):
        return _joined([given], split)
    is_loader = isinstance(given, DataLoader)
    return _joined(given if is_loader else DataLoader(given, _AT_ONCE, collate_fn=_collate), split)


def _has_items(given: Any) -> bool:
    """Whether a sequence has items, each with its label; two of them look like samples and labels."""
    is_plain = isinstance(given, tuple | list) and not hasattr(given, "_fields") and len(given)
    if not is_plain or not all(isinstance(item, tuple | list | Mapping) for item in given):
        return False
    if len(given) != 2 or any(isinstance(item, Mapping) for item in given):
        return True
    with suppress(ValueError):  # lists of several lengths
        first, *others = (np.shape(one) for item in given for one in item)
        return len(others) == 3 and first == others[1] != others[0]
    return False


def _joined(
    batches: Iterable[Any], split: str, *, step: int = 1, thin: int = 1, warns: bool = True
) -> _Split:
    """Put batches of every ``step``-th sample of a split together, every ``thin``-th sample of them."""
    samples, labels, seen = list[Tensor](), list[NDArray[Any]](), 0
    try:
        for batch in batches:
            some, own = pairs_of(batch, split)
            require_finite_samples(some, split, range(seen * step, (seen + len(some)) * step, step))
            if samples and (some.shape[1:], some.dtype) != (samples[0].shape[1:], samples[0].dtype):
                told = f"received {_kind_of(samples[0])} and {_kind_of(some)}"
                raise ValueError(f"{split}: samples have one shape and type: {told}")
            if warns and not seen:
                _warn_of_form(_pair_of(batch, split)[0], some, split)
            samples.append(some if thin == 1 else some[::thin].clone())
            labels.append(own)
            seen += len(some)
    except TypeError as error:
        if "collate" not in str(error):
            raise
        told = f"{split}: the loader cannot put its items together ({' '.join(str(error).split())!s:.150})"
        raise ValueError(f"{told}: give each a label, or hand over its Dataset") from None
    if not seen:
        raise ValueError(f"{split} has no samples: give one of each class at least")
    return _Split(samples[0] if len(samples) == 1 else torch.cat(samples), np.concatenate(labels))


def _loader_of(given: Any, batch_size: int, seed: int) -> DataLoader[Any]:
    """Return a loader as it is, or one of a Dataset's whole batches, shuffled by the seed."""
    count, is_loader = 0, isinstance(given, DataLoader)
    with suppress(TypeError):
        count = len(given)
    if count < (1 if is_loader else batch_size):
        received = "received a loader without a length, or of no batch"
        raise ValueError(
            f"a run counts its batches: {received}; give a Dataset of batch_size images or more"
        )
    if is_loader:
        return cast("DataLoader[Any]", given)
    order = None if isinstance(given, IterableDataset) else EpochOrder(count, seed)
    return DataLoader(given, batch_size, sampler=order, drop_last=True, collate_fn=_collate)


def _looked_at(loader: DataLoader[Any]) -> _Split:
    """Look at the items of a Dataset, or at the first batch of a loader that makes its own.

    Transforms and samplers draw the same numbers every time, and none of those that come after.
    """
    shared, own = SharedGenerators(torch.device("cpu")), loader.generator or torch.Generator()
    state, sampler, items = own.get_state(), cast(Any, loader.sampler), cast(Any, loader.dataset)
    # Whether an epoch has every item once, as it is.
    is_plain = loader.collate_fn in (default_collate, _collate) and loader.batch_size is not None
    is_plain &= isinstance(sampler, EpochOrder | SequentialSampler | RandomSampler)
    is_plain &= not getattr(sampler, "replacement", False)
    try:
        with shared.preserved():
            shared.seed(0)
            first = _joined(islice(iter(loader), 1), "train, batch 1")
            if not is_plain or len(sampler) != len(items):
                return first._replace(is_whole=False)
            step = max(1, len(items) // _MOST_CHECKED)
            numbers = range(0, len(items), step)
            starts = range(0, len(numbers), _AT_ONCE)
            batches = (_collate([items[k] for k in numbers[start : start + _AT_ONCE]]) for start in starts)
            thin = max(1, len(numbers) // _MOST_KEPT)
            seen = _joined(batches, "train", step=step, thin=thin, warns=False)
            return seen._replace(is_whole=step == 1)
    finally:
        own.set_state(state)


def _collate(items: Sequence[Any]) -> tuple[Tensor, Any]:
    """Put items together: samples (N, …), and their labels of any kind."""
    samples, labels = zip(*(_pair_of(item, "an item") for item in items), strict=True)
    return _tensor(samples, "items"), [*labels]


def pairs_of(given: Any, where: str) -> tuple[Tensor, NDArray[Any]]:
    """Return samples as :func:`samples_of`, and labels, indices (N, …) or names (N,), of a pair or mapping.

    Labels in a column (N, 1) are flattened, and one-hot rows (N, K) become the index of their 1.
    """
    values, classes = _pair_of(given, where)
    if hasattr(values, "iloc") and hasattr(classes, "iloc"):
        own, other = values.index, classes.index
        if not own.equals(other) and len(own) == len(other) and set(own) == set(other):
            told = "rows and labels go together by position, and their indexes have different orders"
            raise ValueError(f"{where}: {told}: give labels.loc[rows.index], or reset both indexes")
    samples = samples_of(values, where)
    labels = _labels(classes, where, samples)
    if len(labels) != len(samples):
        shapes = f"{len(samples)} samples {tuple(samples.shape)} with labels {labels.shape}"
        raise ValueError(f"{where}: every sample has a label: received {shapes}")
    return samples, labels


def _pair_of(given: Any, where: str) -> tuple[Any, Any]:
    if isinstance(given, ImageSet):
        whole = given.select(slice(None))
        return whole.images, whole.labels
    if any(name in LABEL_NAMES for name in getattr(given, "_fields", ())):
        given = given._asdict()
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    received = f"{len(given)} values" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
    if isinstance(given, Mapping):
        images, labels = ([key for key in keys if key in given] for keys in (IMAGE_NAMES, LABEL_NAMES))
        if len(images) == len(labels) == 1:
            return given[images[0]], given[labels[0]]
        received = f"keys {', '.join(map(str, given))!s:.200}"
        if "train" in given:
            received += "; give each split by itself, as data=splits['train'] and test=splits['test']"
    raise ValueError(f"{where} is a pair of sample and label, or has keys image and label, not {received}")


def samples_of(values: Any, where: str) -> Tensor:
    """Return samples as uint8 (N, C, H, W), float32 (N, …) or int64 tokens (N, T).

    Floats of any width become float32, True and False 1 and 0; whole numbers 0 … 255 in images become
    bytes, other integers tokens. Images (N, H, W, C) of more than 4 × 4 pixels with 3 or 4 channels, or
    square ones with 1, become (N, C, H, W), and bytes (N, H, W) become (N, 1, H, W).
    """
    samples = _tensor(values, f"samples of {where}")
    if samples.dtype == torch.uint8 and samples.ndim == 3:
        samples = samples.unsqueeze(1)
    if samples.ndim == 4:
        _, first, second, last = samples.shape
        if (last in (3, 4) and min(first, second) > 4) or (last == 1 and first == second > 1):
            samples = samples.movedim(-1, 1)
    is_float, is_bytes = samples.is_floating_point(), samples.dtype == torch.uint8
    if samples.ndim >= 2 and (is_float or samples.dtype == torch.bool):
        return samples.float()
    if samples.ndim == 2 and not is_bytes and not samples.is_complex():
        return samples.long()
    if samples.ndim != 4 or samples.is_complex():
        forms = "floats (N, F), (N, C, H, W) or (N, …), images of bytes or tokens (N, T) of integers"
        raise ValueError(
            f"{where}: samples are {forms}, not {_kind_of(samples)}; for anything else give floats"
        )
    if samples.numel() and not is_bytes:
        least, most = (int(value) for value in samples.long().aminmax())
        if least < 0 or most > 255:
            raise ValueError(f"{where}: whole numbers in images are 0 … 255: received {least} … {most}")
    return samples.to(torch.uint8)


def _labels(values: Any, where: str, samples: Tensor) -> NDArray[Any]:
    """Return labels as class indices int64 (N,) or (N, …), or class names (N,)."""
    names = _names(values, where)
    if names is not None:
        return names
    labels = _tensor(values, f"labels of {where}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.is_complex() or not labels.ndim:
        raise ValueError(f"{where}: labels are class numbers (N,): received {_kind_of(labels)}")
    if labels.is_floating_point() and bool((fractions := labels.frac() != 0).any()):
        k = _first_of(fractions)
        raise unknown_label(f"{where}: sample {k}", labels[k].tolist())
    numbers = labels.long().cpu().numpy()
    # Tokens (N, T), signals (N, C, L) and sequences (N, T, width) may have a label at every position.
    positions = samples.shape[1:] if samples.ndim == 3 or samples.dtype == torch.int64 else ()
    if numbers.ndim != 2 or numbers.shape[1] in positions or (numbers & ~1).any():
        return numbers
    return numbers if positions and not (numbers.sum(1) == 1).all() else _of_one_hot(numbers, where)


def _of_one_hot(rows: NDArray[Any], where: str) -> NDArray[Any]:
    """Return class numbers (N,) of one-hot rows (N, K); those that are numbers or names stay."""
    if rows.ndim == 2 and (is_other := ((rows & ~1) != 0).any(1) | (rows.sum(1) != 1)).any():
        k = is_other.argmax()
        told = f"sample {k} has {rows[k].sum()} of {rows.shape[1]} classes"
        raise ValueError(f"{where}: {told}, and one class a sample is expected")
    return cast(NDArray[Any], rows.argmax(1)) if rows.ndim == 2 else rows


def _require_alike(train: _Split, other: _Split, name: str) -> None:
    (ours, own, _), (theirs, labels, _) = train, other
    if theirs.shape[1:] != ours.shape[1:] or theirs.dtype != ours.dtype:
        raise ValueError(f"{name} has samples {_kind_of(theirs)}, and train has {_kind_of(ours)}")
    if labels.shape[1:] != own.shape[1:]:
        told = f"{name} has labels {_shape_of(labels)}, and train has {_shape_of(own)}"
        raise ValueError(f"{told}: give both alike, as class numbers")


def _are_one_hot(train: _Split, names: Sequence[str]) -> bool:
    """Whether labels of training are one-hot rows, as wide as one of the samples' dimensions.

    Those as wide as signals (N, C, L) have channels are, with a warning; others are refused as ambiguous,
    unless the names of the classes tell.
    """
    labels, samples = train.labels, train.samples
    may_be = labels.ndim == 2 and not (names and len(names) != labels.shape[1])
    if not may_be or (labels & ~1).any() or (labels.sum(1) != 1).any():
        return False
    told = f"train: labels {_shape_of(labels)} with one 1 a row are"
    fix = "give class numbers, labels.argmax(1), or name the classes of positions, classes=['0', '1']"
    if samples.ndim != 3 or labels.shape[1] == samples.shape[2]:
        raise ValueError(f"{told} one-hot, or 0 and 1 at each position: {fix}")
    if not names:
        warnings.warn(f"{told} taken for one-hot, not for 0 and 1 at each position: {fix}", stacklevel=4)
    return True


def _names(values: Any, where: str) -> NDArray[np.str_] | None:
    """Return labels that are names, (N,); None where they are numbers."""
    if isinstance(values, list | tuple):
        kinds = {type(value) for value in values}
        if np.str_ not in kinds and all(kind in _NUMBERS or hasattr(kind, "__array__") for kind in kinds):
            return None
        values = np.fromiter(values, dtype=object, count=len(values))
    array = np.empty(0) if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "OUST":
        return None
    for k, value in enumerate(array.flat):
        if value is None or (not isinstance(value, str) and str(value) in ("nan", "<NA>", "NaT")):
            raise unknown_label(f"{where}: sample {k}", None)
    is_text = any(isinstance(value, str | bytes) for value in array.flat)
    return array.reshape(-1).astype(str) if is_text else None


def _tensor(values: Any, what: str) -> Tensor:
    """Return values as a tensor of their own type, without any graph."""
    first = next(iter(values), None) if isinstance(values, list | tuple) else None
    if hasattr(first, "__array__") or hasattr(first, "getbands"):
        tensors = [_tensor(value, what) for value in values]
        forms = {tuple(x.shape): value for x, value in zip(tensors, values, strict=True)}
        if len(forms) > 1:
            told = (
                f"{form} {value.mode if hasattr(value, 'getbands') else ''}"
                for form, value in forms.items()
            )
            received = " and ".join(map(str.rstrip, islice(told, 2)))
            raise ValueError(f"{what} have one shape: received {received}; resize or convert them")
        return torch.stack(tensors)
    if isinstance(values, Tensor):
        return values.detach().to_dense()
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{what} are masked in places: fill or leave them out")
    if hasattr(values, "getbands"):  # an image of PIL's
        image = require("PIL.ImageOps").exif_transpose(values)
        if image.mode in ("P", "PA"):  # Greys among colours would have another shape.
            image = image.convert("RGBA")
        is_deep = image.mode == "F" or image.mode.startswith("I")
        pixels = torch.from_numpy(np.array(image if is_deep else plain_image(image)))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.movedim(-1, 0)
    try:
        # A table's columns may be of several types; its whole numbers are no tokens.
        is_table = hasattr(values, "iloc") and values.ndim == 2
        array = np.asarray(values, dtype=np.float64 if is_table else None)
        if array.dtype.kind == "O":
            array = np.array(array.tolist())
        # PyTorch takes no foreign byte order, no memory that cannot be written to or that runs backwards.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are no array of numbers: {' '.join(str(error).split())!s:.120}") from None


def _first_of(found: Tensor) -> int:
    """Return the first sample for which something is true, of (N,) or (N, …)."""
    return int(found.reshape(len(found), -1).any(1).nonzero()[0])


def _kind_of(samples: Tensor) -> str:
    kind = str(samples.dtype).removeprefix("torch.")
    return f"{kind} {_shape_of(samples)}" if samples.ndim else "one value"


def _shape_of(values: Tensor | NDArray[Any]) -> str:
    return str(("N", *values.shape[1:])).replace("'N'", "N")


def require_finite_samples(samples: Tensor, where: str, numbers: Sequence[int] | None = None) -> None:
    """Check that all values of samples (N, …) are finite, or name the first, by ``numbers`` or from 0."""
    for start in range(0, len(samples) if samples.is_floating_point() else 0, _AT_ONCE):
        finite = samples[start : start + _AT_ONCE].isfinite()
        if not bool(finite.all()):
            first = _first_of(~finite)
            value = samples[start + first][~finite[first]][0].item()
            place = start + first if numbers is None else numbers[start + first]
            told = f"sample {place} of {where} has a value that is {value}"
            raise ValueError(f"{told}: correct it or leave it out")


def _warn_of_form(values: Any, samples: Tensor, where: str) -> None:
    """Warn of images whose last axis may not be channels, and of a column that float32 rounds away."""
    if not samples.is_floating_point() or not len(samples):
        return
    shape = tuple(samples.shape[1:])
    if (
        samples.ndim == 4
        and shape[1] != shape[2]
        and np.shape(values[0]) == (given := (*shape[1:], shape[0]))
    ):
        told = f"{where}: samples of shape {given} are taken for images with channels last"
        warnings.warn(f"{told}: if the first are channels, swap the other two axes", stacklevel=5)
    if samples.ndim != 2:
        return
    exact = _tensor(values, where).double()
    spread, mean = torch.std_mean(exact, 0, correction=0)
    is_lost = (exact - samples).abs().amax(0) > _LARGEST_ERROR * spread
    is_lost &= spread > _ROUNDING * exact.abs().amax(0)
    if bool(is_lost.any()):
        k = _first_of(is_lost)
        name = values.columns[k] if hasattr(values, "columns") else k
        told = (
            f"{where}: column {name} is {mean[k]:.10g} ± {spread[k]:.3g}, which float32 cannot tell apart"
        )
        warnings.warn(f"{told}: subtract the mean of the training rows first, in float64", stacklevel=5)


def _declared_names(given: Any) -> tuple[str, ...]:
    """Return the class names that a data set declares, as Hugging Face's and torchvision's do."""
    features = getattr(given, "features", None)
    columns = features if isinstance(features, Mapping) else {}
    named = [columns[key].names for key in columns if key in LABEL_NAMES and hasattr(columns[key], "names")]
    names = named[0] if named else getattr(given, "classes", None)
    is_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(cast(Sequence[str], names)) if is_names else ()


def _label_names(given: Any) -> tuple[str, ...]:
    """Return the names that label numbers stand for, also of a set inside a loader; empty if unknown."""
    while given is not None and getattr(given, "target_transform", None) is None:
        if names := _declared_names(given):
            return names
        if isinstance(given, ConcatDataset | ChainDataset):
            first, *others = list(dict.fromkeys(map(_label_names, given.datasets))) or [()]
            if first and any(others):
                told = f"received {list(first)!s:.100} and {list(next(filter(None, others)))!s:.100}"
                raise ValueError(f"data sets in one split have the same classes in the same order: {told}")
            return () if others else first
        given = getattr(given, "dataset", None)
    return ()


def _warn_of_numbers(
    ours: Sequence[str], count: int, theirs: Sequence[str], labels: NDArray[Any], name: str
) -> None:
    """Warn of class numbers that may differ, as one split alone declares the names of its classes."""
    if bool(ours) == bool(theirs) or labels.ndim > 1 or labels.dtype.kind == "U":
        return
    if ours and len(labels) < _SAMPLES_A_CLASS * count:  # A few samples may lack the last classes.
        return
    own, other = (len(ours), int(labels.max()) + 1) if ours else (count, len(theirs))
    if own != other:
        declared, silent = ("train", name) if ours else (name, "train")
        warnings.warn(
            f"class numbers of train and {name} are matched by name only if both declare classes: "
            f"{declared} does, {silent} does not, and they have {own} and {other} classes; give "
            "both the attribute classes, or labels that are names",
            stacklevel=3,
        )


def _class_names(classes: Sequence[str], seen: _Split, tested: _Split | None) -> tuple[str, ...]:
    """Return the given class names, else the labels that are names, sorted, else numbers from 0."""
    if classes:
        names = tuple(str(name) for name in classes)
        if isinstance(classes, str) or len(set(names)) < len(names):
            raise ValueError(f"classes are different names, one a label: received {classes!r:.100}")
        return names
    labels = seen.labels
    if not seen.is_whole and tested is not None:
        labels = np.concatenate([labels, tested.labels])
    if labels.dtype.kind == "U":
        return tuple(np.unique(labels).tolist())
    count, found = int(labels.max()) + 1, len(np.unique(labels))
    most = found if seen.is_whole else max(1000, 10 * len(labels))
    if count > (most if labels.ndim == 1 else _MOST_TOKENS):
        raise ValueError(
            f"labels are 0 … K−1, each with a training sample: received {found} from {labels.min()} to "
            f"{count - 1}; number them by np.unique(labels, return_inverse=True)[1], or give classes=…"
        )
    return tuple(map(str, range(count)))


def _indices(
    labels: NDArray[Any], names: Sequence[str], where: str, counts: Sequence[int] | None = None
) -> Tensor:
    """Return labels as indices into the classes, int64, which must have training samples by ``counts``."""
    found = labels
    if labels.dtype.kind == "U":
        index = {name: k for k, name in enumerate(names)}
        found = np.array([index.get(label, -1) for label in labels.flat], np.int64).reshape(labels.shape)
    is_known = np.array(counts) > 0 if counts and labels.ndim == 1 else np.ones(len(names), bool)
    outside = (found < 0) | (found >= len(names)) | ~is_known[found.clip(0, len(names) - 1)]
    if outside.any():
        k = _first_of(torch.from_numpy(outside))
        known = [name for name, is_one in zip(names, is_known, strict=True) if is_one]
        raise unknown_label(f"{where}: sample {k}", labels[k].tolist(), known)
    return torch.from_numpy(found)
