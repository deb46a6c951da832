"""Taking up an optimizer's state that comes from a file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore what ``optimizer.state_dict()`` returned.

    Raises:
        ValueError: settings of other types than the optimizer's own, numbers that are not finite, or, for
            PyTorch's optimizers and ours, tensors of another shape than the parameter's.
    """
    _check_groups(optimizer, state)
    optimizer.load_state_dict(dict(state))
    is_known = type(optimizer).__module__.split(".")[0] in ("torch", "trifecta")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            if is_known and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(value.shape)} for a weight {tuple(parameter.shape)}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has values that are not finite")


def whole_number(value: Any) -> int:
    """Return ``value``, a count.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"a count is a whole number, 0 or more: received {value!r:.80}")
    return value


def _check_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    for own, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for name, value in own.items():
            if name != "params" and _sort(stored[name]) != _sort(value):
                raise ValueError(f"{name} is {stored[name]!r:.80} in place of {value!r:.80}")


def _sort(value: Any) -> Any:
    """Return what two settings of the same name have in common."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float
    if isinstance(value, tuple | list):
        return [_sort(part) for part in value]
    return type(value)
