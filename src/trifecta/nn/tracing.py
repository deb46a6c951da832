"""A model's forward pass as a graph, whose nodes are its blocks and what it does between them."""

import builtins
import dis
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, fx, nn

from trifecta.nn.drawing import SharedGenerators, undisturbed

# What a trace calls a tensor that it meets and nobody owns.
_CONSTANT = "_tensor_constant"
# Called with sizes alone, they would not notice that a size is traced.
_CREATORS = ("arange", "zeros", "ones", "full", "empty", "eye", "linspace")


class _Value(fx.Proxy):
    """A traced value, which can answer that it is a tensor where a model asks for its class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        tracer, asking = self.tracer, inspect.currentframe()
        assert isinstance(tracer, _Between)
        asking = None if asking is None else asking.f_back
        if asking is None or (asking.f_globals.get("__name__") or "").startswith(("torch.", __name__)):
            return _Value
        tracer.was_asked = True
        return Tensor if tracer.says_tensor else _Value


class _Between(fx.Tracer):
    """Follows the forward pass of modules that hold a block, and takes all others as they are.

    Attributes:
        was_asked: whether the forward pass asked for the class of a value.
        says_tensor: whether the answer is a tensor.
    """

    def __init__(self, names: Sequence[str], *, says_tensor: bool = False) -> None:
        super().__init__()
        self.names, self.says_tensor, self.was_asked = names, says_tensor, False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Make the value of a node."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is taken as it is."""
        return not any(name.startswith(f"{module_qualified_name}.") for name in self.names)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Follow a module; of PyTorch's encoder without its checks that choose a fast path."""
        if type(m) is nn.TransformerEncoder:
            forward = partial(_encode, m)
        return super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take every assertion as met: the sizes of samples are checked by what reads them."""
        return True if _is_asserted() else super().to_bool(obj)


def _encode(
    encoder: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """Do what :class:`torch.nn.TransformerEncoder` does."""
    for layer in encoder.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if encoder.norm is None else encoder.norm(src)


def _is_asserted() -> bool:
    """Whether the code being traced asks for a truth value in an assertion."""
    frame = inspect.currentframe()
    while frame is not None and (frame.f_globals.get("__name__") or "").startswith(("torch.fx", __name__)):
        frame = frame.f_back
    if frame is None:
        return False
    following = [i.opname for i in dis.get_instructions(frame.f_code) if i.offset > frame.f_lasti]
    # What follows a comparison in an assertion: a jump over the error.
    return "LOAD_ASSERTION_ERROR" in following[:3]


def trace_between(model: nn.Module, names: Sequence[str]) -> fx.Graph:
    """Trace the forward pass of ``model``, of which nothing inside the modules ``names`` is followed.

    Raises:
        ValueError: what it does between them depends on values of its input, or on whether it trains.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    generators = SharedGenerators(torch.device("cpu"))
    try:
        with generators.kept(), undisturbed(model):
            before, graphs = generators.state(), []
            for training in (True, False):
                model.train(training)
                with _traced_creators():
                    tracer = _Between(names)
                    graphs.append(tracer.trace(model, concrete_args=defaults or None))
                if tracer.was_asked:
                    _check_classes(model, names, defaults, graphs[-1])
            draws = generators.moved_since(before)
    except _DependsOnClassError:
        raise ValueError(
            f"{type(model).__name__} does another thing between its blocks where a value is a tensor, "
            "which a traced one is not: give the blocks themselves, in order, as a list"
        ) from None
    except Exception as error:  # whatever a forward pass raises that meets a traced value
        raise ValueError(
            f"cannot follow the forward pass of {type(model).__name__} between its blocks: "
            f"{' '.join(str(error).split())[:200]}; give the blocks themselves, in order, as a list"
        ) from None
    if draws:
        raise ValueError(
            f"{type(model).__name__} draws random numbers between its blocks, which a trace does once for "
            "all batches: move that into a module"
        )
    if _as_text(graphs[0]) != _as_text(graphs[1]):
        raise ValueError(
            f"{type(model).__name__} does another thing between its blocks while it trains, such as a call "
            "of F.dropout: move that into a module"
        )
    return graphs[0]


class _DependsOnClassError(Exception):
    """A forward pass decides by the class of a value."""


def _check_classes(
    model: nn.Module, names: Sequence[str], defaults: dict[str, Any], graph: fx.Graph
) -> None:
    """Trace again, with every value saying that it is a tensor."""
    try:
        with _traced_creators():
            tracer = _Between(names, says_tensor=True)
            other = tracer.trace(model, concrete_args=defaults or None)
    except Exception:  # a value that is none goes a way of its own; see Blocks.compare for all others
        return
    if _as_text(other) != _as_text(graph):
        raise _DependsOnClassError


def _as_text(graph: fx.Graph) -> str:
    lines = "\n".join(node.format_node() or "" for node in graph.nodes)
    # Every trace names its constants anew.
    return re.sub(rf"{_CONSTANT}\d+", _CONSTANT, lines)


def remove_constants(model: nn.Module) -> None:
    """Take the tensors off a model that a trace has left on it."""
    for name in [name for name in vars(model) if name.startswith(_CONSTANT)]:
        delattr(model, name)


@contextmanager
def _traced_creators() -> Iterator[None]:
    """Let ``len``, and functions that create tensors of a traced size, take part in a trace."""
    originals = {name: getattr(torch, name) for name in _CREATORS}
    for name, original in originals.items():
        setattr(torch, name, _traced(original))
    length = builtins.len

    def _size(value: Any) -> Any:
        # As a size of its own, the batch may vary in what is exported.
        return value.size(0) if isinstance(value, fx.Proxy) else length(value)

    builtins.len = _size
    try:
        yield
    finally:
        builtins.len = length
        for name, original in originals.items():
            setattr(torch, name, original)


def _traced(create: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(create)
    def traced(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, fx.Proxy):
                return value.tracer.create_proxy("call_function", create, args, kwargs)
        return create(*args, **kwargs)

    return traced
