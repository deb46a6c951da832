"""What passes from block to block: a tensor, or features with values that later blocks need beside them.

Shapes: N samples (N, …).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Carried(NamedTuple):
    """What a part of a larger model passes on.

    Attributes:
        features: the output of its last module, (N, …).
        others: values that later parts need beside them: masks, sizes, an early output.
        whole: the tuple, list or dictionary that the module returned, where it was one.
    """

    features: Tensor
    others: tuple[Any, ...] = ()
    whole: Any = None

    @property
    def output(self) -> Any:
        """What the module returned, with these features."""
        if isinstance(self.whole, dict):
            first = next(k for k, value in self.whole.items() if isinstance(value, Tensor))
            return {**self.whole, first: self.features}
        if isinstance(self.whole, tuple | list):
            values = list(self.whole)
            values[next(k for k, value in enumerate(values) if isinstance(value, Tensor))] = self.features
            return tuple(values)
        return self.features


def features_of(output: Any) -> Tensor:
    """Return the features in a block's output: a tensor, or the first one of a tuple or mapping.

    Raises:
        ValueError: it holds no tensor.
    """
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    for value in values if isinstance(output, Mapping | tuple | list) else ():
        if isinstance(value, Tensor):
            return value
    raise ValueError(f"a block returns a tensor, or a tuple that begins with one: received {type(output)}")


def passed_on(output: Any) -> Any:
    """Return what the next block receives: its features alone, unless a part of a model carries more."""
    return output if isinstance(output, Carried) else features_of(output)


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Change every tensor in ``value``, whatever tuples, lists and dictionaries it is made of."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Carried):
        others, whole = map_tensors(change, value.others), map_tensors(change, value.whole)
        return Carried(change(value.features), others, whole)
    if isinstance(value, tuple | list):
        return type(value)([map_tensors(change, part) for part in value])
    if isinstance(value, dict):
        return {name: map_tensors(change, part) for name, part in value.items()}
    return value
