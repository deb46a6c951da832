"""Taking up an optimizer's state that comes from a file."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trifecta._utils.checks import require_finite


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], places: dict[int, str] | None = None
) -> None:
    """Restore what ``optimizer.state_dict()`` returned.

    Args:
        optimizer: of the same parameters.
        state: what it returned.
        places: where the tensors of other optimizers lie, by address; those of this one are added.

    Raises:
        ValueError: settings of other types than the optimizer's own, numbers that are not finite, or, for
            PyTorch's optimizers and ours, tensors of another shape than the parameter's.
    """
    _check_groups(optimizer, state)
    is_known = type(optimizer).__module__.split(".")[0] in ("torch", "trifecta")
    if is_known:
        _check_values(optimizer, state, {} if places is None else places)
    optimizer.load_state_dict(dict(state))
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


def _check_values(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], places: dict[int, str]
) -> None:
    """Refuse what PyTorch's optimizers and ours never keep: other types of number, and shared memory."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        parameter = parameters[index]
        for name, value in values.items():
            if value is None:
                continue
            where = f"{name} of a weight {tuple(parameter.shape)}, number {index}"
            if isinstance(value, Tensor):
                if value.data_ptr() in places:
                    raise ValueError(f"{where} lies in the memory of {places[value.data_ptr()]}")
                places[value.data_ptr()] = where
            if name == "step":
                if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.numel() != 1:
                    raise ValueError(f"step is {_kind(value)} in place of () float32")
                if not bool(value >= 0):
                    raise ValueError(f"step is {value.item()}")
            elif not isinstance(value, Tensor) or value.dtype != parameter.dtype:
                raise ValueError(f"{name} is {_kind(value)} for a weight of {parameter.dtype}")


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.40}"


def _check_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    for own, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for name, value in own.items():
            if name != "params" and _sort(stored[name]) != _sort(value):
                raise ValueError(f"{name} is {stored[name]!r:.80} in place of {value!r:.80}")
            if name != "params":
                require_finite(stored[name], name)


def _sort(value: Any) -> Any:
    """Return what two settings of the same name have in common."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float
    if isinstance(value, tuple | list):
        return [_sort(part) for part in value]
    return type(value)
