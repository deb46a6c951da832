"""What blocks do with their features, found by passing two samples through them.

Features are channels first, (N, C, …), or last, (N, …, C); (N, F) are both. The layout of a block's output
is declared, or found from its layers and from the sizes that it accepts, and never assumed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trifecta.nn.cutting import Carried, features_of, map_tensors, passed_on
from trifecta.nn.drawing import SharedGenerators, is_known, is_known_to_draw
from trifecta.nn.shapes import FeatureShape

FIRST, LAST = "first", "last"
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
# The layout and the width of a layer's output.
_Layer = tuple[str, int]


def channels_first(features: Tensor, layout: str) -> Tensor:
    """Move channels behind the batch, (N, …, C) → (N, C, …), where they are last."""
    return features.movedim(-1, 1) if layout == LAST else features


class Traced(NamedTuple):
    """What the blocks return for a batch.

    Attributes:
        layouts: of each block's output, ``first`` or ``last``.
        shapes: of the features of each block's output, channels first.
        has_side_values: whether any block passes on more than its features.
        writes_input: the blocks that write into their input, such as by an activation in place.
    """

    layouts: tuple[str, ...]
    shapes: tuple[FeatureShape, ...]
    has_side_values: bool
    writes_input: frozenset[int]


@torch.no_grad()
def trace_blocks(
    blocks: Sequence[tuple[nn.Module, nn.Module]], x: Tensor, declared: str | Sequence[str] | None = None
) -> Traced:
    """Pass a batch through blocks in evaluation mode, and find out what each returns.

    Args:
        blocks: each as two parts, with the head between them.
        x: (2, …).
        declared: layouts, for all blocks or one by one; None to find them.

    Raises:
        ValueError: a block refuses what the one before returns, does not keep the batch in front, or does
            not tell its layout.
    """
    found = _declared(declared, len(blocks))
    inputs: list[Any] = [x]
    outputs: list[Tensor] = []
    written = set()
    for k, (front, back) in enumerate(blocks):
        given = map_tensors(Tensor.clone, inputs[-1])
        features, received, layers = _pass(k, front, back, given)
        if _writes(given):
            written.add(k)
        _check_batch_first(k, front, inputs[-1], features)
        outputs.append(features)
        inputs.append(received)
        found[k] = found[k] or _layout_by_layers(layers, features)
    for k, (front, _) in enumerate(blocks):
        if found[k] is None and k and (before := found[k - 1]) is not None:
            found[k] = _layout_by_input(front, inputs[k], before)
        if found[k] is None and k + 1 < len(blocks):
            found[k] = _layout_by_next(blocks[k + 1][0], inputs[k + 1])
    layouts = tuple(_known(k, layout, outputs[k]) for k, layout in enumerate(found))
    shapes = [tuple(channels_first(y, at).shape[1:]) for y, at in zip(outputs, layouts, strict=True)]
    has_side_values = any(isinstance(value, Carried) for value in inputs)
    return Traced(layouts, tuple(shapes), has_side_values, frozenset(written))


def drawing_blocks(blocks: nn.ModuleList, x: Tensor, device: torch.device) -> frozenset[int]:
    """Return the blocks that draw from generators which the process shares.

    By their classes or, where those do not tell, by passing ``x`` in training mode; a block that cannot
    train on two samples counts as one that draws.
    """
    drawing = {k for k, block in enumerate(blocks) if is_known_to_draw(block)}
    unknown = {k for k, block in enumerate(blocks) if not is_known(block)} - drawing
    if not unknown:
        return frozenset(drawing)
    generators = SharedGenerators(device)
    with generators.kept():
        blocks.train()
        value: Any = x
        try:
            for k, block in enumerate(blocks):
                before = generators.state()
                value = passed_on(block(value))
                drawing |= {k} & unknown if generators.moved_since(before) else set()
                unknown.discard(k)
        except Exception:  # whatever a module raises for two samples
            drawing |= unknown
    return frozenset(drawing)


def _declared(declared: str | Sequence[str] | None, count: int) -> list[str | None]:
    if declared is None:
        return [None] * count
    layouts: list[str | None] = [declared] * count if isinstance(declared, str) else [*declared]
    if len(layouts) != count or any(layout not in (FIRST, LAST) for layout in layouts):
        raise ValueError(
            f"channels are {FIRST} or {LAST}, for all blocks or one for each of the {count}: "
            f"received {declared}"
        )
    return layouts


def _known(block: int, layout: str | None, features: Tensor) -> str:
    if layout is None:
        raise ValueError(
            f"block {block} returns {tuple(features.shape)}, and does not tell where its features stand: "
            'give channels="first" for (N, C, …) or "last" for (N, …, C)'
        )
    return layout


def _pass(block: int, front: nn.Module, back: nn.Module, x: Any) -> tuple[Tensor, Any, list[_Layer]]:
    """Return what the head and the next block receive, and the layers that were called on the way."""
    try:
        with _recorded(front) as layers:
            output = front(x)
            received = passed_on(back(output))
    except Exception as error:  # whatever a module raises for an input that is not its own
        shape = ", ".join(map(str, features_of(x).shape[1:]))
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"block {block} does not take a batch (N, {shape}): {reason}") from None
    return features_of(output), received, layers


@contextmanager
def _recorded(block: nn.Module) -> Iterator[list[_Layer]]:
    """Record the layers of ``block`` whose class tells the layout of their output, in order."""
    layers: list[_Layer] = []

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        if not isinstance(result, Tensor) or result.ndim < 3:
            return
        if isinstance(module, _CHANNELS_FIRST):
            layers.append((FIRST, result.shape[1]))
        elif not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) == 1:
            layers.append((LAST, result.shape[-1]))

    kinds = (*_CHANNELS_FIRST, *_CHANNELS_LAST)
    handles = [m.register_forward_hook(record) for m in block.modules() if isinstance(m, kinds)]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def _layout_by_layers(layers: Sequence[_Layer], features: Tensor) -> str | None:
    """Return the layout by the width of the last layer; None where the layers do not tell."""
    if features.ndim < 3:
        return FIRST
    if not layers:
        return None
    width = layers[-1][1]
    is_first, is_last = features.shape[1] == width, features.shape[-1] == width
    if is_first and is_last:
        # Convolutions alone do not move their channels.
        return FIRST if all(layout == FIRST for layout, _ in layers) else None
    return _only(is_first, is_last)


def _layout_by_input(block: nn.Module, x: Any, layout: str) -> str | None:
    """Return the layout in which more positions at the input make more positions at the output."""
    longer = _response(block, x, 1 if layout == LAST else features_of(x).ndim - 1)
    usual = features_of(block(x))
    if longer is None or longer.ndim != usual.ndim:
        return None
    return _only(usual.shape[-1] != longer.shape[-1], usual.shape[1] != longer.shape[1])


def _layout_by_next(following: nn.Module, x: Any) -> str | None:
    """Return the layout of ``x`` by what the next block takes: its weights fix the number of channels."""
    takes_more_last = _response(following, x, features_of(x).ndim - 1) is not None
    return _only(takes_more_last, _response(following, x, 1) is not None)


def _only(is_first: bool, is_last: bool) -> str | None:
    return None if is_first == is_last else FIRST if is_first else LAST


def _response(block: nn.Module, x: Any, dim: int) -> Tensor | None:
    """Pass ``x`` with one more entry in ``dim``; None where the block refuses it."""
    features = features_of(x)
    longer = torch.cat([features, features.narrow(dim, 0, 1)], dim)
    try:
        return features_of(block(x._replace(features=longer) if isinstance(x, Carried) else longer))
    except Exception:  # whatever a module raises for a size that is not its own
        return None


def _writes(value: Any) -> bool:
    """Whether tensors in ``value`` were written into since they were cloned."""
    versions: list[int] = []

    def record(tensor: Tensor) -> Tensor:
        versions.append(0 if tensor.is_inference() else tensor._version)
        return tensor

    map_tensors(record, value)
    return any(versions)


def _check_batch_first(block: int, front: nn.Module, x: Any, features: Tensor) -> None:
    """Refuse a block whose output has no batch in front, or a layer that takes the batch for a sequence."""
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
    samples = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    both = features_of(front(samples))
    alone = [features_of(front(samples[k : k + 1])) for k in range(len(samples))]
    if any(one.shape != both[:1].shape for one in alone):
        return True
    return not torch.allclose(both, torch.cat(alone), rtol=1e-3, atol=1e-4)
