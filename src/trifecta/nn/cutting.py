"""A model's forward pass as a graph, whose nodes are its blocks and what it does between them."""

import builtins
import difflib
import dis
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, NamedTuple

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
        """The module's output with these features in place of its own."""
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


Cut = str | type[nn.Module] | Sequence[str]
AUTO = "auto"


class Blocks(nn.Sequential):
    """Blocks in order, with where their features stand.

    Attributes:
        channels: ``first`` (N, C, …), ``last`` (N, …, C), one of them per block, or None to find it.

    Args:
        blocks: any modules; each receives what the one before returns, of a tuple its first tensor.
        channels: as above.
        model: that the blocks were cut from, and the names of the modules that they end behind, in order.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        channels: str | Sequence[str] | None = None,
        model: tuple[nn.Module, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(*blocks)
        # In a tuple, the model is no part of the blocks.
        self.channels, self.model = channels, model

    def compare(self, x: Tensor) -> None:
        """Pass samples (N, …) through the blocks, and through the model that they were cut from.

        Raises:
            ValueError: the two differ in what they compute, or in the weights that this depends on.
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
        """Return a block, or some; those from the first on are compared with the model as all are."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        channels = self.channels if isinstance(self.channels, str | None) else self.channels[index]
        places = range(len(self))[index]
        is_start = [*places] == [*range(len(places))]
        model = (self.model[0], self.model[1][index]) if self.model and places and is_start else None
        return Blocks([self[k] for k in places], channels=channels, model=model)

    def _outputs(self, x: Tensor, *, training: bool) -> list[Tensor | None]:
        """Return the features of every block's output; None from one that fails."""
        found: list[Tensor | None] = []
        value: Any = x.clone()
        with _trial(self, x, training=training):
            try:
                for block in self:
                    value = passed_on(block(value))
                    found.append(features_of(value).clone())
            except Exception:  # whatever a module raises
                found += [None] * (len(self) - len(found))
        return found


class _Reached(BaseException):
    """The last module of interest has returned."""


@contextmanager
def _trial(module: nn.Module, x: Tensor, *, training: bool) -> Iterator[None]:
    """Let ``module`` draw the same in every trial, with a graph where it trains, and change nothing."""
    generators = SharedGenerators(x.device)
    with generators.kept(), undisturbed(module), torch.set_grad_enabled(training):
        generators.seed(0)
        module.train(training)
        yield


def _own_outputs(
    model: nn.Module, names: Sequence[str], x: Tensor, *, training: bool
) -> list[Tensor] | None:
    """Return the features that the named modules return in the model's forward pass, in order.

    None for a model that cannot train on these samples.
    """
    outputs: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        # A later layer may write into it.
        outputs[name] = features_of(output).clone()
        if name == names[-1]:
            raise _Reached

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, output: note(name, output)

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        with _trial(model, x, training=training):
            model(x.clone())
    except _Reached:
        return [outputs[name] for name in names]
    except Exception as error:  # whatever a module raises
        if training:
            return None
        shape = ", ".join(map(str, x.shape[1:]))
        raise ValueError(
            f"{type(model).__name__} does not take a batch (N, {shape}): "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    raise ValueError(f"{type(model).__name__} does not call {names[-1]} for every batch: give another cut")


def _difference(own: Tensor | None, expected: Tensor, model: nn.Module, held: set[int]) -> str:
    """Say in what a block's output and that of a model differ; empty where in nothing."""
    if not _are_close(own, expected):
        return "computes something else, by the class or value of a tensor or by a hook"
    used = _used(expected)
    missing = [name for name, p in model.named_parameters() if id(p) in used - held]
    if missing:
        return f"uses {', '.join(missing)[:200]}, which is in no block"
    return "" if used == _used(own) else "has another gradient, such as by torch.no_grad between blocks"


@torch.no_grad()
def _are_close(own: Tensor | None, expected: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    if own is None or own.shape != expected.shape or own.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(own, expected)
    tolerance = min(1000 * torch.finfo(expected.dtype).eps, 0.05)
    largest = float(expected.abs().max())
    return torch.allclose(own, expected, rtol=0, atol=tolerance * largest, equal_nan=True)


def _used(output: Tensor | None) -> set[int]:
    """Return the ids of the parameters that an output depends on, by its graph."""
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
    """A part of a larger model's forward pass, up to and including the module that it was cut behind.

    Args:
        body: the part; receives what the part before returned and the values that were carried on, and
            returns what its last module returned and the values that later parts need.
    """

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Any) -> Any:
        """Return features (N, …), or :class:`Carried` where other values go on with them."""
        output, *others = self.body(*((x.output, *x.others) if isinstance(x, Carried) else (x,)))
        if isinstance(output, Tensor):
            return Carried(output, tuple(others)) if others else output
        return Carried(features_of(output), tuple(others), output)


def from_module(
    model: nn.Module, cut: Cut = AUTO, *, channels: str | Sequence[str] | None = None
) -> Blocks:
    """Cut a model into blocks, which share its modules and their weights.

    A block ends behind each module of ``cut``; everything that the model's ``forward`` does before it
    belongs to that block, and what comes after the last one, usually the model's own classifier, is left
    out: the heads of a method take its place.

    Args:
        model: whose first argument is a batch of samples; other arguments keep their defaults.
        cut: names of modules as :meth:`torch.nn.Module.named_modules` gives them, each of which the model
            calls once; a class, for all modules of that class; or ``auto``, for the parts of the longest
            ``Sequential`` or ``ModuleList``, where parts without matrices join the one before.
        channels: where the features of the blocks' outputs stand, see :class:`Blocks`.

    Raises:
        ValueError: no such module, a module that is called twice or never, or a ``forward`` between the
            blocks that depends on values of its input, or draws random numbers. :class:`LocalNetwork`
            compares the blocks with the model, and refuses what a trace does not see.
    """
    names = _names(model, cut)
    if type(model) is nn.Sequential and all("." not in name for name in names):
        names = [name for name, _ in model.named_children() if name in names]
        return Blocks(_parts(model, names), channels=channels, model=(model, names))
    segments, names = _segments(model, names)
    return Blocks(segments, channels=channels, model=(model, names))


def _names(model: nn.Module, cut: Cut) -> list[str]:
    """Return the names of the modules to cut behind, in the model's order of definition."""
    modules = dict(model.named_modules())
    if cut == AUTO:
        return _longest(modules)
    if isinstance(cut, type):
        found = [name for name, module in modules.items() if isinstance(module, cut) and name]
        if not found:
            raise ValueError(f"the model has no module of class {cut.__name__}: give another cut")
        return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    names = [cut] if isinstance(cut, str) else list(cut)
    for name in names:
        if name not in modules or not name:
            near = difflib.get_close_matches(name, [known for known in modules if known])
            raise ValueError(
                f"a cut names modules of the model: received '{name}'; "
                + (f"did you mean {', '.join(near)}?" if near else "see model.named_modules()")
            )
    if not names:
        raise ValueError("a cut names one module at least: received none")
    return names


def _longest(modules: dict[str, nn.Module]) -> list[str]:
    """Return where the parts of the longest list of modules end, the outermost one of equals.

    What lies inside repeated blocks does not count, and lists of the same blocks, such as the stages
    of a residual network, count as one.
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
        alike = [name for name, m in candidates.items() if _repeats(m) is kind]
        return [f"{name}.{part}" if name else part for name in alike for part, _ in _children(lists[name])]
    prefix, parts = f"{chosen}." if chosen else "", _children(candidates[chosen])
    starts = [k for k, (_, part) in enumerate(parts) if any(p.ndim > 1 for p in part.parameters())]
    # A part ends where the next one with matrices begins.
    ends = [*(k - 1 for k in starts[1:]), len(parts) - 1]
    return [prefix + parts[k][0] for k in ends]


def _children(parts: nn.Sequential | nn.ModuleList) -> list[tuple[str, nn.Module]]:
    return list(parts.named_children())


def _repeats(parts: nn.Sequential | nn.ModuleList) -> type[nn.Module] | None:
    """Return the class of which all parts of a list are, where it has parts of its own."""
    kinds = {type(part) for part in parts}
    if len(kinds) > 1 or not any(True for _ in parts[0].children()):
        return None
    kind = kinds.pop()
    return None if kind in (nn.Sequential, nn.ModuleList) else kind


def _parts(model: nn.Sequential, names: Sequence[str]) -> Iterator[nn.Module]:
    """Cut a plain sequence."""
    children, part = dict(model.named_children()), nn.Sequential()
    last = max(list(children).index(name) for name in names)
    for name in list(children)[: last + 1]:
        part.add_module(name, children[name])
        if name in names:
            part.training = model.training
            yield part[0] if len(part) == 1 else part
            part = nn.Sequential()


def _segments(model: nn.Module, names: Sequence[str]) -> tuple[list[nn.Module], list[str]]:
    """Cut the graph of a forward pass; return its parts, and the names that they end behind."""
    graph = trace_between(model, names)
    nodes = list(graph.nodes)
    ends = [nodes.index(_call_of(nodes, name)) for name in names]
    bounds = sorted(ends)
    place = {node: sum(end < k for end in bounds) for k, node in enumerate(nodes)}
    needed = _needed(nodes, nodes[bounds[-1]])
    segments: list[nn.Module] = []
    received: list[fx.Node] = [node for node in nodes if node.op == "placeholder"][:1]
    for k, end in enumerate(bounds):
        own = [
            n for n in nodes if n in needed and place[n] == k and n.op not in ("placeholder", "get_attr")
        ]
        later = {n for n in needed if place[n] > k}
        carried = [
            node
            for node in [*received, *own]
            if node is not nodes[end] and any(user in later for user in node.users)
        ]
        sent = [nodes[end], *carried]
        segments.append(_segment(model, received, own, sent))
        received = sent
    remove_constants(model)
    return segments, [nodes[end].target for end in bounds]


def _call_of(nodes: Sequence[fx.Node], name: str) -> fx.Node:
    calls = [node for node in nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise ValueError(
            f"a model is cut behind modules that it calls once: {name} is called {len(calls)} times; "
            "name another one"
        )
    return calls[0]


def _needed(nodes: Sequence[fx.Node], last: fx.Node) -> set[fx.Node]:
    """Return what the last block's output depends on."""
    needed = {last}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed


def _segment(
    model: nn.Module, received: Sequence[fx.Node], own: Sequence[fx.Node], sent: Sequence[fx.Node]
) -> Segment:
    """Build the part that computes ``own`` from what it ``received``, and returns what is ``sent``."""
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
