"""Layout and shape of the features of a user's blocks, found by passing two samples through them.

Features are channels first, (N, C, …), or last, (N, …, C); (N, F) are both. A layout is declared, or found
from a block's layers and from the sizes that it and the next block accept; it is never assumed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from trifecta.nn.cutting import BlockOutput, features_of, map_tensors, next_input
from trifecta.nn.drawing import SharedGenerators, is_known, is_known_to_draw
from trifecta.nn.shapes import FeatureShape

FIRST, LAST = "first", "last"
_CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


def channels_first(features: Tensor, layout: str) -> Tensor:
    """Move channels behind the batch, (N, …, C) → (N, C, …), if they are last."""
    return features.movedim(-1, 1) if layout == LAST else features


@torch.no_grad()
def trace_blocks(
    blocks: Sequence[tuple[nn.Module, nn.Module]], x: Tensor, declared: str | Sequence[str] | None = None
) -> tuple[tuple[str, ...], tuple[FeatureShape, ...], bool, frozenset[int]]:
    """Pass a batch (2, …) through blocks in evaluation mode, and find the layout of each output.

    Args:
        blocks: each in two parts, with the head between them.
        x: the batch.
        declared: layouts, for all blocks or one by one; None to find them.

    Returns:
        Of each block the layout, ``first`` or ``last``, and the shape of the features, channels first;
        whether a block passes on more than its features; the blocks that write into their input.

    Raises:
        ValueError: a block refuses its input, does not keep the batch first, or hides its layout.
    """
    layouts: list[str | None] = (
        [declared] * len(blocks) if isinstance(declared, str | None) else [*declared]
    )
    if len(layouts) != len(blocks) or not {FIRST, LAST, None}.issuperset(layouts):
        raise ValueError(
            f"channels are {FIRST} or {LAST}, for all blocks or one for each of the {len(blocks)}: "
            f"received {declared}"
        )
    inputs: list[Any] = [x]
    outputs: list[Tensor] = []
    written = set()
    for k, (front, back) in enumerate(blocks):
        given = map_tensors(Tensor.clone, inputs[k])
        try:
            with _recorded(front) as layers:
                output = front(given)
            inputs.append(next_input(back(output)))
        except Exception as error:  # a module may raise anything for a wrong input
            shape = ", ".join(map(str, features_of(given).shape[1:]))
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"block {k} does not take a batch (N, {shape}): {reason}") from None
        outputs.append(features_of(output))
        if any(isinstance(t, Tensor) and not t.is_inference() and t._version for t in tree_leaves(given)):
            written.add(k)
        _check_batch_first(k, front, inputs[k], outputs[k])
        layouts[k] = layouts[k] or _layout_by_layers(layers, outputs[k])
    found: list[str] = []
    for k, (front, _) in enumerate(blocks):
        layout = layouts[k]
        if layout is None and k:
            layout = _layout_by_input(front, inputs[k], found[-1])
        if layout is None and k + 1 < len(blocks):
            layout = _layout_by_next(blocks[k + 1][0], inputs[k + 1])
        if layout is None:
            raise ValueError(
                f"block {k} returns {tuple(outputs[k].shape)}, and its layers do not tell where the "
                'channels are: give channels="first" for (N, C, …) or "last" for (N, …, C)'
            )
        found.append(layout)
    shapes = [tuple(channels_first(y, at).shape[1:]) for y, at in zip(outputs, found, strict=True)]
    has_side_values = any(isinstance(value, BlockOutput) for value in inputs)
    return tuple(found), tuple(shapes), has_side_values, frozenset(written)


@contextmanager
def _recorded(block: nn.Module) -> Iterator[list[tuple[str, int]]]:
    """Record layout and width of the outputs of layers with a known layout, in order."""
    layers: list[tuple[str, int]] = []

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


def _layout_by_layers(layers: Sequence[tuple[str, int]], features: Tensor) -> str | None:
    """Return the layout by the width of the last layer; None if the layers do not tell."""
    if features.ndim < 3:
        return FIRST
    if not layers:
        return None
    width = layers[-1][1]
    is_first, is_last = features.shape[1] == width, features.shape[-1] == width
    # Convolutions alone do not move their channels.
    if is_first and is_last and all(layout == FIRST for layout, _ in layers):
        return FIRST
    return _only(is_first, is_last)


def _layout_by_input(block: nn.Module, x: Any, layout: str) -> str | None:
    """Return the layout in which more positions of the input make more positions of the output."""
    longer = _features_of_longer(block, x, 1 if layout == LAST else -1)
    usual = features_of(block(x))
    if longer is None or longer.ndim != usual.ndim:
        return None
    return _only(usual.shape[-1] != longer.shape[-1], usual.shape[1] != longer.shape[1])


def _layout_by_next(following: nn.Module, x: Any) -> str | None:
    """Return the layout of ``x`` by the next block, whose weights fix the number of channels."""
    is_first, is_last = (_features_of_longer(following, x, dim) is not None for dim in (-1, 1))
    return _only(is_first, is_last)


def _only(is_first: bool, is_last: bool) -> str | None:
    return None if is_first == is_last else FIRST if is_first else LAST


def _features_of_longer(block: nn.Module, x: Any, dim: int) -> Tensor | None:
    """Pass ``x`` with one more entry in ``dim``; return None if the block refuses it."""
    if isinstance(x, BlockOutput):
        return None
    try:
        return features_of(block(torch.cat([x, x.narrow(dim, 0, 1)], dim)))
    except Exception:  # a module may raise anything for a wrong size
        return None


def _check_batch_first(block: int, front: nn.Module, x: Any, features: Tensor) -> None:
    """Refuse an output without the batch in front, and a layer that takes the batch for a sequence."""
    sequential = (nn.MultiheadAttention, nn.RNNBase)
    is_suspect = any(isinstance(m, sequential) and not m.batch_first for m in front.modules())
    if len(features) != len(features_of(x)) or (is_suspect and _mixes_samples(front, x)):
        raise ValueError(
            f"a block keeps the batch in front, (N, …): block {block} returns {tuple(features.shape)} for "
            f"{len(features_of(x))} samples, or mixes them; is a layer without batch_first=True in it?"
        )


def _mixes_samples(front: nn.Module, x: Any) -> bool:
    """Return whether the output for one sample depends on the other one."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return False
    samples = torch.linspace(-1, 1, x.numel()).view(x.shape).to(x)
    both = features_of(front(samples))
    alone = torch.cat([features_of(front(sample)) for sample in torch.split(samples, 1)])
    return alone.shape != both.shape or not torch.allclose(both, alone, rtol=1e-3, atol=1e-4)


def drawing_blocks(blocks: nn.ModuleList, x: Any, device: torch.device) -> set[int]:
    """Return the blocks that draw from the generators of the process.

    Classes of PyTorch and of this library are known; blocks with parts of other classes are passed ``x`` in
    training mode. A block that cannot train on it counts as one that draws.
    """
    drawing = {k for k, block in enumerate(blocks) if is_known_to_draw(block)}
    unknown = {k for k, block in enumerate(blocks) if not is_known(block)} - drawing
    generators = SharedGenerators(device)
    with generators.preserved():
        blocks.train()
        try:
            for k in range(max(unknown, default=-1) + 1):
                before = generators.state()
                x = next_input(blocks[k](x))
                if k in unknown and generators.state() == before:
                    unknown.discard(k)
        except Exception:  # a module may raise anything for two samples
            pass
    return drawing | unknown
