"""A model cut into blocks along its forward pass, which is traced by ``torch.fx``."""

import builtins
import dis
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from trifecta._utils.references import lookup
from trifecta.nn.drawing import SharedGenerators, preserved_state

# Prefix of the names that a trace gives to tensors that are neither parameters nor buffers.
_CONSTANT = "_tensor_constant"
# Functions that do not dispatch on a traced size.
_CREATORS = ("arange", "zeros", "ones", "full", "empty", "eye", "linspace")


class _Value(fx.Proxy):
    """A traced value that can claim to be a tensor when a model asks for its class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        tracer, asking = self.tracer, inspect.currentframe()
        assert isinstance(tracer, _Between)
        asking = None if asking is None else asking.f_back
        if asking is None or _module_of(asking).startswith(("torch.", __name__)):
            return _Value
        tracer.was_asked = True
        return Tensor if tracer.says_tensor else _Value


class _Between(fx.Tracer):
    """Traces modules that contain a block, and takes all others as leaves.

    Attributes:
        was_asked: whether the model asked for the class of a value.
        says_tensor: whether the answer is a tensor.
    """

    def __init__(self, names: Sequence[str], *, says_tensor: bool = False) -> None:
        super().__init__()
        self.names, self.says_tensor, self.was_asked = names, says_tensor, False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the value of a node."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module contains no block."""
        return not any(name.startswith(f"{module_qualified_name}.") for name in self.names)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a module; PyTorch's encoder without the checks for its fast path."""
        if type(m) is nn.TransformerEncoder:
            forward = partial(_encode, m)
        return super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take every assertion as met; layers check the sizes of samples themselves."""
        return True if _is_asserted() else super().to_bool(obj)


def _encode(
    encoder: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """Compute :class:`torch.nn.TransformerEncoder`."""
    for layer in encoder.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if encoder.norm is None else encoder.norm(src)


def _is_asserted() -> bool:
    """Return whether the traced code needs a truth value for an assertion."""
    frame = inspect.currentframe()
    while frame is not None and _module_of(frame).startswith(("torch.fx", __name__)):
        frame = frame.f_back
    if frame is None:
        return False
    following = [i.opname for i in dis.get_instructions(frame.f_code) if i.offset > frame.f_lasti]
    # The jump over the error comes after the comparison.
    return "LOAD_ASSERTION_ERROR" in following[:3]


def _module_of(frame: Any) -> str:
    return frame.f_globals.get("__name__") or ""


def trace_between(model: nn.Module, names: Sequence[str]) -> fx.Graph:
    """Trace the forward pass of ``model``, with the modules ``names`` as leaves.

    Raises:
        ValueError: it depends on values or classes of its input or on the mode, or draws random numbers.
    """
    kind, generators = type(model).__name__, SharedGenerators(torch.device("cpu"))
    try:
        with generators.preserved(), preserved_state(model), _traced_creators():
            before = generators.state()
            graph, text, of_tensors = _trace(model.train(), names)
            _, evaluated, evaluated_of_tensors = _trace(model.eval(), names)
            draws = generators.state() != before
    except Exception as error:  # a forward pass may raise anything for a traced value
        raise ValueError(
            f"cannot follow the forward pass of {kind} between its blocks: "
            f"{' '.join(str(error).split())[:200]}; give the blocks themselves, in order, as a list"
        ) from None
    if (text, evaluated) != (of_tensors, evaluated_of_tensors):
        raise ValueError(
            f"{kind} computes something else between its blocks if a value is a tensor, which a traced one "
            "is not: give the blocks themselves, in order, as a list"
        )
    if draws:
        raise ValueError(
            f"{kind} draws random numbers between its blocks, which a trace does once for all batches: "
            "move that into a module"
        )
    if text != evaluated:
        raise ValueError(
            f"{kind} computes something else between its blocks in training, such as by F.dropout: "
            "move that into a module"
        )
    return graph


def _trace(model: nn.Module, names: Sequence[str]) -> tuple[fx.Graph, str, str]:
    """Return a graph, its text, and the text for values that claim to be tensors."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty} or None
    tracer = _Between(names)
    graph = tracer.trace(model, concrete_args=defaults)
    text = of_tensors = _as_text(graph)
    if tracer.was_asked:
        with suppress(Exception):  # a value that is no tensor; Blocks.compare finds what this leaves
            claimed = _Between(names, says_tensor=True).trace(model, concrete_args=defaults)
            of_tensors = _as_text(claimed)
    return graph, text, of_tensors


def _as_text(graph: fx.Graph) -> str:
    lines = "\n".join(node.format_node() or "" for node in graph.nodes)
    # Every trace numbers its constants anew.
    return re.sub(rf"{_CONSTANT}\d+", _CONSTANT, lines)


@contextmanager
def _traced_creators() -> Iterator[None]:
    """Include ``len``, and functions that create tensors of a traced size, in traces."""
    originals = [(torch, name, getattr(torch, name)) for name in _CREATORS] + [(builtins, "len", len)]
    for module, name, original in originals:
        setattr(module, name, _traced(original))
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, fx.Proxy) and function.__name__ == "len":
                # A size of the graph lets exports have any batch size.
                return value.size(0)
            if isinstance(value, fx.Proxy):
                return value.tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return traced


class BlockOutput(NamedTuple):
    """The output of a part of a larger model.

    Attributes:
        output: of its last module: features (N, …), or a tuple, list or mapping that holds them.
        side_values: values that later parts read besides it, such as masks, sizes or an early output.
    """

    output: Any
    side_values: tuple[Any, ...] = ()


def features_of(output: Any) -> Tensor:
    """Return the features in a block's output: a tensor, or the first one of a tuple or mapping.

    Raises:
        ValueError: it holds no tensor.
    """
    output = output.output if isinstance(output, BlockOutput) else output
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    for value in values if isinstance(output, Mapping | tuple | list) else ():
        if isinstance(value, Tensor):
            return value
    raise ValueError(f"a block returns a tensor, or a tuple that begins with one: received {type(output)}")


def next_input(output: Any) -> Any:
    """Return the next block's input: the features of a block's output, and its side values if any."""
    return output if isinstance(output, BlockOutput) else features_of(output)


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply ``change`` to every tensor in a tree of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: map_tensors(change, part) for name, part in value.items()}
    if not isinstance(value, tuple | list):
        return value
    parts = [map_tensors(change, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


Cut = str | type[nn.Module] | Sequence[str]
AUTO = "auto"


class Blocks(nn.Sequential):
    """Blocks in order, with the layout of their features.

    Attributes:
        channels: ``first`` (N, C, …), ``last`` (N, …, C), one of them for each block, or None to find it.
        model: the model that the blocks were cut from, and the names of the modules that they end with.

    Args:
        blocks: any modules; each receives the output of the one before, or its first tensor if a tuple.
        channels: as above.
        model: as above.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        channels: str | Sequence[str] | None = None,
        model: tuple[nn.Module, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(*blocks)
        # A tuple hides the model from PyTorch, so that it is no submodule.
        self.channels, self.model = channels, model

    def compare(self, x: Tensor) -> None:
        """Compare the blocks with the model that they were cut from, on samples (N, …).

        Raises:
            ValueError: they compute different values, or depend on different weights.
        """
        if self.model is None:
            return
        model, names = self.model
        for training in (False, True):
            expected = _own_outputs(model, names, x, training=training)
            if expected is None:
                continue
            found = self._outputs(x, training=training)
            held = {id(p) for p in self.parameters()}
            for name, own, wanted in zip(names, found, expected, strict=True):
                difference = _difference(own, wanted, model, held)
                if difference:
                    raise ValueError(
                        f"{type(model).__name__} does not do what its blocks do in order: up to {name} it "
                        f"{difference}, which a trace does not see; give the blocks themselves, in order, "
                        "as a list"
                    )

    def __getitem__(self, index: Any) -> Any:
        """Return a block, or some; the first ones can still be compared with the model."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        channels = self.channels if isinstance(self.channels, str | None) else self.channels[index]
        places = range(len(self))[index]
        is_start = [*places] == [*range(len(places))]
        model = (self.model[0], self.model[1][index]) if self.model and places and is_start else None
        return Blocks([self[k] for k in places], channels=channels, model=model)

    def _outputs(self, x: Tensor, *, training: bool) -> list[Tensor | None]:
        """Return the features of every block's output; None after a block fails."""
        found: list[Tensor | None] = []
        value: Any = x.clone()
        with _trial(self, x, training=training), suppress(Exception):
            for block in self:
                value = next_input(block(value))
                found.append(features_of(value).clone())
        return found + [None] * (len(self) - len(found))


@contextmanager
def _trial(module: nn.Module, x: Tensor, *, training: bool) -> Iterator[None]:
    """Seed the generators, record gradients if ``training``, and restore all state of ``module``."""
    generators = SharedGenerators(x.device)
    with generators.preserved(), preserved_state(module), torch.set_grad_enabled(training):
        generators.seed(0)
        module.train(training)
        yield


def _own_outputs(
    model: nn.Module, names: Sequence[str], x: Tensor, *, training: bool
) -> list[Tensor] | None:
    """Return the features of the named modules in the model's forward pass, in order.

    None for a model that cannot train on these samples.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # A later layer may write into it.
        outputs.setdefault(name, features_of(output).clone())

    hooks = [model.get_submodule(name).register_forward_hook(partial(record, name)) for name in names]
    reason = f"{names[-1]} is not called for every batch"
    try:
        with _trial(model, x, training=training):
            model(x.clone())
    except Exception as error:  # a module may raise anything
        reason = " ".join(str(error).split())[:200]
    finally:
        for hook in hooks:
            hook.remove()
    if outputs.keys() >= set(names):
        return [outputs[name] for name in names]
    if training:
        return None
    shape = ", ".join(map(str, x.shape[1:]))
    raise ValueError(
        f"{type(model).__name__} does not take a batch (N, {shape}): {reason}; give another cut"
    )


def _difference(own: Tensor | None, expected: Tensor, model: nn.Module, held: set[int]) -> str:
    """Describe how a model's output differs from a block's; empty if it does not."""
    if not _are_close(own, expected):
        return "computes something else, by the class or value of a tensor or by a hook"
    used = _used(expected)
    missing = [name for name, p in model.named_parameters() if id(p) in used - held]
    if missing:
        return f"uses {', '.join(missing)[:200]}, which is in no block"
    return "" if used == _used(own) else "has another gradient, such as by torch.no_grad between blocks"


@torch.no_grad()
def _are_close(own: Tensor | None, expected: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding."""
    if own is None or own.shape != expected.shape or own.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(own, expected)
    tolerance = min(1000 * torch.finfo(expected.dtype).eps, 0.05)
    largest = float(expected.abs().max())
    return torch.allclose(own, expected, rtol=0, atol=tolerance * largest, equal_nan=True)


def _used(output: Tensor | None) -> set[int]:
    """Return the ids of the parameters in the graph of an output."""
    found: set[int] = set()
    seen: set[Any] = set()
    nodes: list[Any] = [None if output is None else output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes += [before for before, _ in node.next_functions]
    return found


class Segment(nn.Module):
    """A part of a larger model's forward pass, up to the module that it was cut behind.

    Args:
        body: receives the output of the part before and its side values, and returns the output of its own
            last module and the side values of later parts.
    """

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Any) -> Any:
        """Return features (N, …), or a :class:`BlockOutput` if there is more to pass on."""
        received = (x.output, *x.side_values) if isinstance(x, BlockOutput) else (x,)
        output, *side_values = self.body(*received)
        is_plain = isinstance(output, Tensor) and not side_values
        return output if is_plain else BlockOutput(output, tuple(side_values))


def from_module(
    model: nn.Module, cut: Cut = AUTO, *, channels: str | Sequence[str] | None = None
) -> Blocks:
    """Cut a model into blocks, which share its modules and weights.

    A block ends with each module of ``cut``, and includes all that ``forward`` computes before it. What
    comes after the last one, usually the model's own classifier, is left out: a method adds heads.

    Args:
        model: takes a batch of samples; other arguments of its ``forward`` keep their defaults.
        cut: names of modules as in :meth:`torch.nn.Module.named_modules`, each called once; a class of
            modules; or ``auto``, the parts of the longest ``Sequential`` or ``ModuleList``, where a part
            without matrices joins the one before.
        channels: layout of the features of the blocks' outputs, see :class:`Blocks`.

    Raises:
        ValueError: no such module, a module that is called twice or never, or a ``forward`` that depends on
            values of its input or draws random numbers between the blocks. :class:`LocalNetwork` compares
            the blocks with the model, and refuses what a trace does not see.
    """
    names = _names(model, cut)
    if type(model) is nn.Sequential and all("." not in name for name in names):
        names = [name for name, _ in model.named_children() if name in names]
        return Blocks(_parts(model, names), channels=channels, model=(model, names))
    segments, names = _segments(model, names)
    return Blocks(segments, channels=channels, model=(model, names))


def _names(model: nn.Module, cut: Cut) -> list[str]:
    """Return the names of the modules to cut behind, in the order of their definition."""
    modules = dict(model.named_modules())
    if cut == AUTO:
        return _longest(modules)
    if isinstance(cut, type):
        found = [name for name, module in modules.items() if isinstance(module, cut) and name]
        if not found:
            raise ValueError(f"the model has no module of class {cut.__name__}: give another cut")
        return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    names = [cut] if isinstance(cut, str) else list(cut)
    if not names:
        raise ValueError("a cut names one module at least: received none")
    del modules[""]
    for name in names:
        lookup(modules, name, "module of the model", listed="model.named_modules()")
    return names


def _longest(modules: dict[str, nn.Module]) -> list[str]:
    """Return the names of the last modules in each part of the longest list, the outermost of equals.

    Lists inside repeated blocks do not count, and lists of the same class of blocks, such as the stages of
    a residual network, count as one.
    """
    lists = {
        name: m for name, m in modules.items() if isinstance(m, nn.Sequential | nn.ModuleList) and len(m)
    }
    repeated = [f"{name}." if name else "" for name, m in lists.items() if _repeats(m) is not None]
    candidates = {
        name: m
        for name, m in lists.items()
        if not any(name.startswith(prefix) and name != prefix[:-1] for prefix in repeated)
    }
    if not candidates:
        raise ValueError(
            "cut auto looks for a Sequential or a ModuleList, and the model has none: give names of modules"
        )
    chosen = max(candidates, key=lambda name: len(candidates[name]))
    kind = _repeats(candidates[chosen])
    if kind is not None:
        alike = {name: m for name, m in candidates.items() if _repeats(m) is kind}
        return [f"{name}.{part}".lstrip(".") for name, m in alike.items() for part, _ in m.named_children()]
    parts = list(candidates[chosen].named_children())
    starts = [k for k, (_, part) in enumerate(parts) if any(p.ndim > 1 for p in part.parameters())]
    # A part ends where the next one with matrices begins.
    ends = [*(k - 1 for k in starts[1:]), len(parts) - 1]
    return [f"{chosen}.{parts[k][0]}".lstrip(".") for k in ends]


def _repeats(parts: nn.Sequential | nn.ModuleList) -> type[nn.Module] | None:
    """Return the class of all parts of a list, if it is one class of modules with parts of their own."""
    kinds = {type(part) for part in parts}
    if len(kinds) > 1 or not any(True for _ in parts[0].children()):
        return None
    kind = kinds.pop()
    return None if kind in (nn.Sequential, nn.ModuleList) else kind


def _parts(model: nn.Sequential, names: Sequence[str]) -> Iterator[nn.Module]:
    """Cut a plain sequence."""
    part = nn.Sequential()
    for name, child in model.named_children():
        part.add_module(name, child)
        if name in names:
            part.training = model.training
            yield part[0] if len(part) == 1 else part
            part = nn.Sequential()


def _segments(model: nn.Module, names: Sequence[str]) -> tuple[list[nn.Module], list[str]]:
    """Cut the graph of a forward pass; return its parts, and the names of their last modules."""
    nodes = list(trace_between(model, names).nodes)
    ends = sorted(nodes.index(_call_of(nodes, name)) for name in names)
    place = {node: sum(end < k for end in ends) for k, node in enumerate(nodes)}
    needed = {nodes[ends[-1]]}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    segments: list[nn.Module] = []
    received: list[fx.Node] = [node for node in nodes if node.op == "placeholder"][:1]
    for k, end in enumerate(ends):
        own = [
            n for n in nodes if n in needed and place[n] == k and n.op not in ("placeholder", "get_attr")
        ]
        side_values = [
            node
            for node in [*received, *own]
            if node is not nodes[end] and any(user in needed and place[user] > k for user in node.users)
        ]
        sent = [nodes[end], *side_values]
        segments.append(_segment(model, received, own, sent))
        received = sent
    # A trace adds its constants to the model.
    for name in [name for name in vars(model) if name.startswith(_CONSTANT)]:
        delattr(model, name)
    return segments, [nodes[end].target for end in ends]


def _call_of(nodes: Sequence[fx.Node], name: str) -> fx.Node:
    calls = [node for node in nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise ValueError(
            f"a model is cut behind modules that it calls once: {name} is called {len(calls)} times; "
            "name another one"
        )
    return calls[0]


def _segment(
    model: nn.Module, received: Sequence[fx.Node], own: Sequence[fx.Node], sent: Sequence[fx.Node]
) -> Segment:
    """Build the part that computes the nodes ``own`` from ``received``, and returns ``sent``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for index, node in enumerate(received):
        copies[node] = graph.placeholder("x" if index == 0 else node.name)

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:
            # A parameter or a buffer is read where it is used.
            copies[node] = graph.node_copy(node, copy_of)
        return copies[node]

    for node in own:
        copies[node] = graph.node_copy(node, copy_of)
    graph.output(tuple(copy_of(node) for node in sent))
    body = fx.GraphModule(model, graph)
    own_modules = set(model.modules())
    for name, module in body.named_modules():
        if module not in own_modules:
            module.training = model.get_submodule(name).training
    segment = Segment(body)
    segment.training = model.training
    return segment
