"""Samples and labels of any kind of array, brought to the few forms that training knows.

Shapes: N images (N, C, H, W), rows of a table (N, F), tokens (N, T) or other samples (N, …); labels (N,),
or (N, …) where every position has one; K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
