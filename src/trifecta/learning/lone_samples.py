"""Batches of one, of which batch normalisation has no statistics where a channel has a single value."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# As of :class:`trifecta.nn.norms.RunningNorm`.
HORIZON = 2048


@contextmanager
def normalized_by_running_statistics(
    modules: Iterable[nn.Module], on_use: Callable[[], None]
) -> Iterator[None]:
    """Let batch normalisations that see one value a channel use their running statistics for a while.

    These follow the value first, as those of :class:`trifecta.nn.norms.RunningNorm` do.

    Args:
        modules: whose parts are meant.
        on_use: called whenever it happens.

    Raises:
        ValueError: such a normalisation keeps no running statistics.
    """
    norms = [m for module in modules for m in module.modules() if isinstance(m, _NORMS)]
    changed: list[nn.Module] = []

    def before(norm: Any, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        if not norm.training or x.ndim < 2 or x.numel() != x.shape[1]:
            return
        if norm.running_mean is None:
            raise ValueError(
                "batch normalisation without running statistics needs 2 values a channel: received a batch "
                "of one; use larger batches, and drop_last=True in a DataLoader"
            )
        on_use()
        _follow(norm, x.flatten())
        norm.training = False
        changed.append(norm)

    def after(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if norm in changed:
            changed.remove(norm)
            norm.training = True

    handles = [norm.register_forward_pre_hook(before) for norm in norms]
    handles += [norm.register_forward_hook(after) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm in changed:
            norm.training = True


@torch.no_grad()
def _follow(norm: Any, value: Tensor) -> None:
    """Move running statistics towards the values (C,) of one sample."""
    norm.num_batches_tracked += 1
    mean, variance = norm.running_mean, norm.running_var
    share = norm.num_batches_tracked.to(mean.dtype).reciprocal().clamp(min=1 - math.exp(-1 / HORIZON))
    step = value.to(mean.dtype) - mean
    # Around the new mean, as one value has no variance of its own.
    variance.lerp_((1 - share) * step.square(), share)
    mean.add_(share * step)
