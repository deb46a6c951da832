"""Where the features of a block's output stand: behind the batch (channels first), or last (tokens).

Declared, or found from a block's own layers and from which sizes it accepts; never assumed. Shapes:
N samples; maps (N, C, …) are ``first``, tokens (N, …, C) are ``last``; (N, F) are both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trifecta.nn.carried import Carried, features_of, map_tensors, passed_on
from trifecta.nn.shapes import FeatureShape

Halves = Sequence[tuple[nn.Module, nn.Module]]

FIRST, LAST = "first", "last"
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


def channels_first(features: Tensor, layout: str) -> Tensor:
    """Move features that stand last behind the batch, (N, …, C) → (N, C, …); others stay as they are."""
    return features.movedim(-1, 1) if layout == LAST else features


class Sighting:
    """What the layers of a block say about where features stand: each layer's layout and its width."""

    def __init__(self) -> None:
        self.layers: list[tuple[str, int]] = []

    def note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Take note of what a layer returned; a forward hook."""
        result = output[0] if isinstance(output, tuple) else output
        if not isinstance(result, Tensor) or result.ndim < 3:
            return
        if isinstance(module, _CHANNELS_FIRST):
            self.layers.append((FIRST, result.shape[1]))
        elif isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return
        else:
            self.layers.append((LAST, result.shape[-1]))

    def layout_of(self, features: Tensor) -> str | None:
        """Return where the features of a block's output stand; None where its layers do not say."""
        if features.ndim < 3:
            return FIRST
        if not self.layers:
            return None
        _, width = self.layers[-1]
        is_first, is_last = features.shape[1] == width, features.shape[-1] == width
        if is_first != is_last:
            return FIRST if is_first else LAST
        # Both sizes fit. Convolutions alone do not move their channels.
        return FIRST if is_first and all(kind == FIRST for kind, _ in self.layers) else None


@contextmanager
def watch(block: nn.Module) -> Iterator[Sighting]:
    """Take note of what the layers of ``block`` return for a while."""
    seen = Sighting()
    kinds = (*_CHANNELS_FIRST, *_CHANNELS_LAST)
    handles = [m.register_forward_hook(seen.note) for m in block.modules() if isinstance(m, kinds)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def layout_by_input(block: nn.Module, x: Any, layout: str) -> str | None:
    """Find the layout of a block's output from that of its input: more positions in, more positions out."""
    features = features_of(x)
    position = 1 if layout == LAST else features.ndim - 1
    longer = _response(block, x, position)
    usual = features_of(block(x))
    if longer is None or longer.ndim != usual.ndim:
        return None
    return _layout_of_changes(usual.shape[1] != longer.shape[1], usual.shape[-1] != longer.shape[-1])


def layout_by_next(following: nn.Module, x: Any) -> str | None:
    """Find the layout of ``x`` from what the following block takes: weights fix the size of features."""
    features = features_of(x)
    accepts_first = _response(following, x, 1) is not None
    accepts_last = _response(following, x, features.ndim - 1) is not None
    return _layout_of_changes(accepts_first, accepts_last)


def _layout_of_changes(first: bool, last: bool) -> str | None:
    """Where positions can be first and not last, features are last; and the other way about."""
    if first == last:
        return None
    return LAST if first else FIRST


def _response(block: nn.Module, x: Any, dim: int) -> Tensor | None:
    """Pass ``x`` with one more entry in ``dim``; None where the block refuses it."""
    features = features_of(x)
    longer = torch.cat([features, features.narrow(dim, 0, 1)], dim)
    try:
        return features_of(block(x._replace(features=longer) if hasattr(x, "_replace") else longer))
    except Exception:  # whatever a module raises for a size that is not its own
        return None


class Traced(NamedTuple):
    """What the blocks return for a batch.

    Attributes:
        layouts: where the features of each block's output stand.
        shapes: of these features, channels first.
        carries: whether any block passes on more than its features.
        written: the blocks that write into their input, such as by an activation in place.
    """

    layouts: tuple[str, ...]
    shapes: tuple[FeatureShape, ...]
    carries: bool
    written: frozenset[int]


@torch.no_grad()
def trace_features(blocks: Halves, x: Tensor, declared: str | Sequence[str] | None = None) -> Traced:
    """Pass a batch through blocks in evaluation mode, and find what each of them returns.

    Args:
        blocks: each as the two parts that its head looks between.
        x: (N, …), two samples.
        declared: where features stand, for all blocks or one by one; None to find it.

    Raises:
        ValueError: a block refuses what the one before returns, keeps no batch in front, or does not tell
            where its features stand.
    """
    layouts: list[str | None] = _declared(declared, len(blocks))
    inputs: list[Any] = [x]
    outputs: list[Tensor] = []
    written = set()
    for k, (front, back) in enumerate(blocks):
        given = map_tensors(Tensor.clone, inputs[-1])
        features, received, seen = _pass(k, front, back, given)
        if _version(given):
            written.add(k)
        _check_batch_first(k, front, inputs[-1], features)
        outputs.append(features)
        inputs.append(received)
        layouts[k] = layouts[k] or seen.layout_of(features)
    for k, (front, _) in enumerate(blocks):
        if layouts[k] is None and k and (before := layouts[k - 1]) is not None:
            layouts[k] = layout_by_input(front, inputs[k], before)
        if layouts[k] is None and k + 1 < len(blocks):
            layouts[k] = layout_by_next(blocks[k + 1][0], inputs[k + 1])
    known = [_known(k, layout, outputs[k]) for k, layout in enumerate(layouts)]
    shapes = [
        tuple(channels_first(features, layout).shape[1:])
        for features, layout in zip(outputs, known, strict=True)
    ]
    return Traced(
        tuple(known), tuple(shapes), any(isinstance(value, Carried) for value in inputs), frozenset(written)
    )


def _version(value: Any) -> int:
    """How often tensors in ``value`` were written into since they were cloned."""
    found: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(0 if tensor.is_inference() else tensor._version)
        return tensor

    map_tensors(note, value)
    return sum(found)


def _declared(declared: str | Sequence[str] | None, count: int) -> list[str | None]:
    if declared is None:
        return [None] * count
    layouts = [declared] * count if isinstance(declared, str) else list(declared)
    if len(layouts) != count or any(layout not in (FIRST, LAST) for layout in layouts):
        raise ValueError(
            f"channels are {FIRST} or {LAST}, for all blocks or one for each of the {count}: "
            f"received {declared}"
        )
    return list(layouts)


def _pass(block: int, front: nn.Module, back: nn.Module, x: Any) -> tuple[Tensor, Any, Sighting]:
    try:
        with watch(front) as seen:
            output = front(x)
            received = passed_on(back(output))
    except Exception as error:  # whatever a module raises for an input that is not its own
        shape = ", ".join(map(str, features_of(x).shape[1:]))
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"block {block} does not take a batch (N, {shape}): {reason}") from None
    return features_of(output), received, seen


def _check_batch_first(block: int, front: nn.Module, x: Any, features: Tensor) -> None:
    """Refuse a block whose output has no batch in front, or a layer that takes it for a sequence."""
    suspects = (nn.MultiheadAttention, nn.RNNBase)
    is_suspect = any(isinstance(m, suspects) and not m.batch_first for m in front.modules())
    if len(features) != len(features_of(x)) or (is_suspect and _mixes_samples(front, x)):
        raise ValueError(
            f"a block keeps the batch in front, (N, …): block {block} returns {tuple(features.shape)} for "
            f"{len(features_of(x))} samples, or mixes them; is a layer without batch_first=True in it?"
        )


def _mixes_samples(front: nn.Module, x: Any) -> bool:
    """Whether what a block returns for a sample depends on another one."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    draw = torch.Generator().manual_seed(0)
    some = torch.randn(x.shape, generator=draw).to(x)
    both = features_of(front(some))
    alone = [features_of(front(some[k : k + 1])) for k in range(len(some))]
    if any(one.shape != both[:1].shape for one in alone):
        return True
    return not torch.allclose(both, torch.cat(alone), rtol=1e-3, atol=1e-4)


def _known(block: int, layout: str | None, features: Tensor) -> str:
    if layout is None:
        raise ValueError(
            f"block {block} returns {tuple(features.shape)}, and does not tell where its features stand: "
            'give channels="first" for (N, C, …) or "last" for (N, …, C)'
        )
    return layout
