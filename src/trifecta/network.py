"""Where the features of a block's output stand: behind the batch (channels first), or last (tokens).

Declared, or found from a block's own layers and from which sizes it accepts; never assumed. Shapes:
N samples; maps (N, C, …) are ``first``, tokens (N, …, C) are ``last``; (N, F) are both.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trifecta._utils.checks import require_memory
from trifecta._utils.draws import SeededDraws, unseeded
from trifecta._utils.references import blamed, name_of, own_parts, part_of
from trifecta.inputs.label_inputs import LabelAdded, LabelEmbedding, entrance
from trifecta.kernels import infer_block, infer_first_block, inference_block
from trifecta.losses import ChannelSums, Head
from trifecta.method import Method
from trifecta.nn.blocks import BlockStyle, ResidualBlock, split_block
from trifecta.nn.cutting import Blocks, Carried, features_of, map_tensors, passed_on
from trifecta.nn.drawing import SharedGenerators, is_known, is_known_to_draw, seed_from, undisturbed
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.nn.shapes import FeatureShape, SampleShape
from trifecta.readout import (
    Shortlist,
    best_rows,
    choose_shortlist,
    fuse,
    select_blocks,
    spread_scores,
    usual_shortlist,
)

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


# A block that learns, alone or behind another one in its window, and one that idles.
COMPILATIONS_PER_BLOCK = 4


class CompiledParts(NamedTuple):
    """What training runs in place of a network's own parts.

    Attributes:
        halves: of each block, the one up to what its head reads and the rest.
        losses: of each head.
    """

    halves: Mapping[int, tuple[Any, nn.Module]]
    losses: Mapping[int, Any]


def compile_parts(
    halves: Mapping[int, tuple[nn.Module, nn.Module]], heads: Mapping[int, Head], *args: Any, **kwargs: Any
) -> CompiledParts:
    """Compile the first half of every block, and every head's loss; arguments are ``torch.compile``'s."""
    # All blocks share the code that calls them, and each of their shapes counts as a compilation of it.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, COMPILATIONS_PER_BLOCK * len(halves))
    return CompiledParts(
        {k: (torch.compile(front, *args, **kwargs), back) for k, (front, back) in halves.items()},
        {k: torch.compile(HeadLoss(head), *args, **kwargs) for k, head in heads.items()},
    )


class HeadLoss(nn.Module):
    """A head's loss as a module of its own, which is what ``torch.compile`` and copying understand."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Any, labels: Tensor) -> Tensor:
        """``head.loss(features, labels)``."""
        return self.head.loss(features, labels)


# In one pass of prediction: enough to keep every core busy, few enough to bound its memory.
LABELLED_SAMPLES = 256


def block_scores(network: "LocalNetwork", images: Tensor) -> list[Tensor | None]:
    """Score every class by every block, L × (B, K); None where a block has no head.

    A method whose labels enter tries all K in one pass over groups of images, so that a pass never
    holds more than ``LABELLED_SAMPLES`` samples (or K, if that is more); any other scores all
    classes at once.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W).
    """
    if network.image_pairs is not None:
        return _pass_scores(network, network.image_pairs.neutral(images))
    if network.label_input is None:
        return _pass_scores(network, images)
    size = max(1, LABELLED_SAMPLES // network.num_classes)
    groups = [_label_scores(network, group) for group in torch.split(images, size)]
    return [_cat(scores) for scores in zip(*groups, strict=True)]


def embeddings(network: "LocalNetwork", images: Tensor, block: int) -> Tensor:
    """Return the features that the head of ``block`` reads, means over positions, (B, C, …) → (B, F).

    A method whose labels enter gets the label that it predicts; pairs of images get none.

    Args:
        network: in evaluation mode.
        images: (B, C, …).
        block: from 0.
    """
    x = images
    if network.label_input is not None:
        x = network.labelled(images, network.fused_scores(images).argmax(1))
    elif network.image_pairs is not None:
        x = network.image_pairs.neutral(images)
    features = x
    for k in range(block + 1):
        features, x = network.pass_block(k, network.renewed(k, x, len(images), None))
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def _label_scores(network: "LocalNetwork", images: Tensor) -> list[Tensor | None]:
    """L × (G, K), every image of (G, C, H, W) tried with every label."""
    assert network.label_input is not None
    num_classes = network.num_classes
    first = inference_block(network.blocks[0]) if network.reads == "output" else None
    if first is not None and first.norm.separable and network.label_input.is_additive:
        x, sums = infer_first_block(
            first, network.label_input.base(images), network.label_input.maps(images)
        )
        scores = [_scores_of(network, 0, x, sums)]
    else:
        labels = torch.arange(num_classes, device=images.device).repeat(len(images))
        x = network.labelled(images.repeat_interleave(num_classes, dim=0), labels)
        scores = []
    grid = (len(images), num_classes)
    if network.shortlist is None:
        return [_view(s, grid) for s in scores + _pass_scores(network, x, first=len(scores))]
    x, early = _run_blocks(network, x, len(scores), network.shortlist.after + 1)
    scores = [_view(s, grid) for s in scores + early]
    so_far = [k for k in network.readout_blocks if k <= network.shortlist.after]
    rows, kept = best_rows(fuse(scores, so_far or [network.shortlist.after]), network.shortlist.labels)
    late = _pass_scores(network, x[rows], first=len(scores))
    return scores + [None if s is None else spread_scores(s, kept, num_classes) for s in late]


def _pass_scores(network: "LocalNetwork", x: Tensor, *, first: int = 0) -> list[Tensor | None]:
    """Scores by the blocks from ``first`` on, which receives ``x``."""
    return _run_blocks(network, x, first, len(network.blocks))[1]


def _run_blocks(
    network: "LocalNetwork", x: Tensor, first: int, end: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Pass ``x`` through blocks ``first … end − 1``; return their output and the scores on the way."""
    scores: list[Tensor | None] = []
    for k in range(first, end):
        x = network.renewed(k, x, len(x), None)
        layers = inference_block(network.blocks[k]) if network.reads == "output" else None
        if layers is None:
            seen, x = network.pass_block(k, x)
            scores.append(_scores_of(network, k, seen, None))
        else:
            x, sums = infer_block(layers, x)
            scores.append(_scores_of(network, k, x, sums))
    return x, scores


def _scores_of(
    network: "LocalNetwork", block: int, features: Tensor, sums: ChannelSums | None
) -> Tensor | None:
    if block not in network.scored_blocks:
        return None
    head = network.head(block)
    return head.scores(sums if sums is not None and head.reads_channel_sums else features)


def _view(scores: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    return None if scores is None else scores.view(grid)


def _cat(scores: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [s for s in scores if s is not None]
    return torch.cat(given) if given else None


class LocalNetwork(nn.Module):
    """Blocks with everything that ``method`` adds to them.

    Attributes:
        draws: the blocks that draw from generators which the process shares, such as by ``nn.Dropout``.
        temperature: of the read-out, (), see :mod:`trifecta.calibration`; 1 until it is fitted.
        shortlist: where a method tries more than 20 labels, those that go on to the last block, see
            :class:`trifecta.readout.Shortlist`; None for exact prediction.

    Args:
        blocks: in order, any modules that map a batch to a batch; see :func:`trifecta.from_module`. The
            first receives ``method.input_shape(sample_shape, num_classes)``; where it refuses that, a label
            is added to the samples as they are (:mod:`trifecta.inputs.label_inputs`).
        method: the choices on every axis.
        sample_shape: of a sample without its label: (C, H, W) of images, (F,) of a table, (T,) of tokens.
        num_classes: K, at least 2.
        integer: whether samples are integer tokens.
        channels: where the features of the blocks' outputs stand, ``first`` (N, C, …) or ``last``
            (N, …, C), for all blocks or one per block; None for what the blocks say, or to find it.

    Raises:
        ValueError: fewer than two classes, no blocks, blocks that share a parameter, have weights in half
            precision, do not fit together, do not compute what the model does that they were cut from, or
            do not tell where their features stand, a read-out of blocks that have no scores, or
            superclasses of another number of classes.
    """

    temperature: Tensor

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        method: Method,
        *,
        sample_shape: SampleShape,
        num_classes: int,
        integer: bool = False,
        channels: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        Method.require(method)
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes: received {num_classes}")
        self.method, self.num_classes = method, num_classes
        self.sample_shape: SampleShape = tuple(sample_shape)
        channels = getattr(blocks, "channels", None) if channels is None else channels
        model = blocks if isinstance(blocks, Blocks) else None
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise ValueError("a network needs at least one block: received none")
        _check_separate(self.blocks)
        _check_precision(self.blocks)
        self._held = _held_modes(self.blocks)
        self.integer = integer
        # One of them at most: labels that are tried, or pairs of images.
        self.label_input, self.image_pairs, front = entrance(
            method.input_class,
            self.blocks[0],
            sample_shape=self.sample_shape,
            num_classes=num_classes,
            integer=integer,
        )
        # Not registered: the halves are made of the same modules as the blocks.
        self._halves = {k: split_block(block, self.reads) for k, block in enumerate(self.blocks)}
        if front is not None:
            self._halves[0] = front, nn.Identity()
        self._compiled: CompiledParts | None = None
        self.scored_blocks = method.schedule.closing_blocks(len(self.blocks))
        self.readout_blocks = select_blocks(method.readout, self.scored_blocks)
        self._seeds: dict[int, int] = {}
        self.draws: frozenset[int] = frozenset()
        self.layouts, self.feature_shapes, self.carries, self._written = self._trace(channels)
        if model is not None:
            with self._trial() as x:
                model.compare(x)
        self.shortlist = self._usual_shortlist()
        if self.carries and self.renews_pairs:
            raise ValueError(
                f"method {method.name} makes new pairs of what a block passes on, and these blocks pass on "
                "other values too: use another method, or blocks as a list"
            )
        residual = [k for k, block in enumerate(self.blocks) if isinstance(block, ResidualBlock)]
        self._heads = nn.ModuleDict(
            {str(k): method.head(k, self.feature_shapes, num_classes, residual) for k in self.scored_blocks}
        )
        self.register_buffer("temperature", torch.ones(()))
        if self.dtype == torch.float64:
            self.double()
        self.draws = self._find_draws()

    def head(self, block: int) -> Head:
        """The head on ``block``, one of ``scored_blocks``."""
        head = self._heads[str(block)]
        assert isinstance(head, Head)
        return head

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Let samples of each class weigh so much in every loss, (K,); None lets all weigh the same.

        Raises:
            ValueError: another number of weights than classes, or a loss that does not heed them.
        """
        if weights is not None and weights.shape != (self.num_classes,):
            raise ValueError(
                f"class weights are a number for each of {self.num_classes} classes: received "
                f"{tuple(weights.shape)}"
            )
        for block in self.scored_blocks:
            self.head(block).weigh_classes(weights)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the blocks' weights, in which they receive samples."""
        return self._some().dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._some().device

    def _some(self) -> Tensor:
        tensors = chain(self.blocks.parameters(), self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def train(self, mode: bool = True) -> "LocalNetwork":
        """Train, or predict; modules that were handed over in evaluation mode stay in it.

        That is a module in evaluation mode whose weights are all frozen, or which stands in one that
        trains.
        """
        super().train(mode)
        for module, was_training in self._held if mode else ():
            module.training = was_training
        return self

    @property
    def reads(self) -> str:
        """The position in a block that its head reads, see :func:`trifecta.nn.blocks.split_block`."""
        return self.method.objective.reads

    @property
    def renews_pairs(self) -> bool:
        """Whether every block receives new pairs, made of what the one before passed on."""
        return self.image_pairs is not None and self.image_pairs.at_every_block

    @property
    def label_name(self) -> str:
        """How a label enters: as the method says, or by the name of what stands in for that."""
        if isinstance(self.label_input, LabelAdded | LabelEmbedding):
            return self.label_input.name
        return name_of(self.method.label_input)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of one sample's labels: (), or the last block's positions where each has its own."""
        return self.feature_shapes[-1][1:] if self.method.objective.per_position else ()

    @property
    def constant_channels(self) -> int:
        """Leading channels of the first block's input that nothing that learns stands before."""
        is_kept = self.label_input is None or self.label_input.keeps_sample or not self.label_parameters()
        return self.sample_shape[0] if is_kept else 0

    def own_parameters(self, block: int) -> list[nn.Parameter]:
        """Parameters that learn with ``block``: its own, its head's, for the first the label's too."""
        modules: list[nn.Module] = [self.blocks[block]]
        if block in self.scored_blocks:
            modules.append(self.head(block))
        own = [p for module in modules for p in module.parameters() if p.requires_grad]
        return own + self.label_parameters() if block == 0 else own

    def label_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the label input."""
        return (
            []
            if self.label_input is None
            else [p for p in self.label_input.parameters() if p.requires_grad]
        )

    def pass_block(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pass ``x`` through ``block``; return the features that its head reads, and the block's output."""
        compiled = self._compiled if self.training else None
        front, back = (self._halves if compiled is None else compiled.halves)[block]
        if block in self._seeds:
            SharedGenerators(self._some().device).seed(self._seeds[block])
        # A block that writes into its input receives one of its own.
        seen = front(map_tensors(Tensor.clone, x) if block in self._written else x)
        return channels_first(features_of(seen), self.layouts[block]), passed_on(back(seen))

    def loss(self, block: int, seen: Tensor, labels: Tensor) -> Tensor:
        """Return the local loss of ``block``, (), for the features that its head reads."""
        if self._compiled is None:
            return self.head(block).loss(seen, labels)
        compiled: Tensor = self._compiled.losses[block](seen, labels)
        return compiled

    @property
    def is_compiled(self) -> bool:
        """Whether :meth:`compile` was called."""
        return self._compiled is not None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what training runs, each block and each head's loss, as ``torch.compile`` does.

        Predictions run as they did: their batches have other shapes. Arguments are ``torch.compile``'s.
        """
        heads = {k: self.head(k) for k in self.scored_blocks}
        self._compiled = compile_parts(self._halves, heads, *args, **kwargs)

    def renewed(self, block: int, x: Tensor, positives: int, offsets: Tensor | None) -> Tensor:
        """Return the input of ``block`` for the previous one's output (N, …): new pairs, where it has them.

        ``offsets`` (L,) say for every block which images meet; None for a prediction.
        """
        if not self.renews_pairs or block == 0:
            return x
        assert self.image_pairs is not None
        if offsets is None:
            return self.image_pairs.neutral(x)
        return self.image_pairs.pairs_at(x[:positives], offsets[block : block + 1])

    def keep_labels(self, labels: int) -> None:
        """Predict from a shortlist of so many labels from now on; 0 tries all of them to the end.

        Raises:
            ValueError: the method tries no labels, or the read-out or K leave none out.
        """
        if labels == 0:
            self.shortlist = None
            return
        if not self.method.tries_labels:
            raise ValueError(
                f"method {self.method.name} scores all classes in one pass and tries no labels: "
                "keep no shortlist"
            )
        if self.carries:
            raise ValueError(
                "a shortlist goes on with some of a batch, and these blocks pass on values beside their "
                "features: keep no shortlist"
            )
        self.shortlist = choose_shortlist(
            labels,
            num_blocks=len(self.blocks),
            num_classes=self.num_classes,
            scored_blocks=self.scored_blocks,
            readout_blocks=self.readout_blocks,
        )

    @contextmanager
    def every_label(self) -> Iterator[None]:
        """Predict without a shortlist for a while."""
        shortlist, self.shortlist = self.shortlist, None
        try:
            yield
        finally:
            self.shortlist = shortlist

    def as_samples(self, images: Tensor) -> Tensor:
        """Return samples (B, …) in the precision of the blocks, such as of float64 ones in float32."""
        return images.to(self.dtype) if images.is_floating_point() and not self.integer else images

    def labelled(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first block's input for labelled samples, (B, C, …), (B,) → (B, C', …)."""
        assert self.label_input is not None, "no label enters"
        x: Tensor = self.label_input(images, labels)
        return x

    def block_scores(self, images: Tensor) -> list[Tensor | None]:
        """Score every class by every block, L × (B, K); None where a block has no head.

        See :func:`trifecta.network.block_scores`. A network in train mode predicts as in evaluation
        mode, and moves no running statistics.
        """
        with self._evaluating():
            return block_scores(self, self.as_samples(images))

    def fused_scores(self, images: Tensor) -> Tensor:
        """Sum of the scores of the read-out's blocks, (B, C, …) → (B, K), at each position (B, K, …)."""
        return fuse(self.block_scores(images), self.readout_blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, (B, C, …) → (B, K), at each position (B, K, …). Never trains.

        They are :meth:`fused_scores` over the temperature, and their softmax the classes' probabilities.
        """
        return self.fused_scores(images) / self.temperature

    def embeddings(self, images: Tensor, block: int) -> Tensor:
        """Return the features that ``block``'s head reads, means over positions, (B, C, …) → (B, F).

        F is ``feature_shapes[block][0]``. Where a label enters, it is the predicted one.
        """
        with self._evaluating():
            return embeddings(self, self.as_samples(images), block)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # Weights may be older than the temperature.
        state_dict.setdefault(f"{prefix}temperature", torch.ones(()))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _usual_shortlist(self) -> Shortlist | None:
        if not self.method.tries_labels or self.carries:
            return None
        return usual_shortlist(
            num_blocks=len(self.blocks),
            num_classes=self.num_classes,
            scored_blocks=self.scored_blocks,
            readout_blocks=self.readout_blocks,
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode for a while."""
        was_training = self.training
        if was_training:
            self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    @contextmanager
    def drawing(self, blocks: range, numbers: Sequence[int]) -> Iterator[None]:
        """Let ``blocks`` draw from numbers that follow from these, 0 or more, and from the block alone.

        Others that train in this process at the same time wait, where a block draws at all.
        """
        drawing = self.draws.intersection(blocks)
        if not drawing:
            yield
            return
        with SharedGenerators(self._some().device).kept():
            self._seeds = {k: seed_from([*numbers, k]) for k in drawing}
            try:
                yield
            finally:
                self._seeds = {}

    @contextmanager
    def _trial(self) -> Iterator[Tensor]:
        """Two samples for the first block, (2, …), which may be passed without a trace."""
        some = self._some()
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.sample_shape, generator=draw).to(some)
        if self.integer:
            x = torch.zeros(2, *self.sample_shape, dtype=torch.int64, device=some.device)
        with unseeded(), undisturbed(self.blocks), torch.no_grad():
            if self.label_input is not None and not isinstance(self.label_input, LabelEmbedding):
                label_input = copy.deepcopy(self.label_input).to(some)
                x = label_input(x, torch.zeros(2, dtype=torch.int64, device=some.device))
            yield x

    def _find_draws(self) -> frozenset[int]:
        """Return the blocks that draw, by their classes or, where those do not tell, in a trial."""
        heads = {k: self.head(k) for k in self.scored_blocks}
        known = {
            k
            for k, block in enumerate(self.blocks)
            if is_known_to_draw(block) or (k in heads and is_known_to_draw(heads[k]))
        }
        unknown = {k for k, block in enumerate(self.blocks) if not is_known(block)} - known
        if not unknown:
            return frozenset(known)
        generators = SharedGenerators(self._some().device)
        with generators.kept(), self._trial() as x:
            self.train()
            value: Any = x
            try:
                for k, block in enumerate(self.blocks):
                    before = generators.state()
                    value = passed_on(block(value))
                    known |= {k} & unknown if generators.moved_since(before) else set()
                    unknown.discard(k)
            except Exception:  # whatever a module raises that cannot train on two samples
                known |= unknown
        return frozenset(known)

    def _trace(self, channels: str | Sequence[str] | None) -> Traced:
        """Find where the features of each block's output stand, and their shapes."""
        some = self._some()
        blank = torch.zeros(
            2, *self.sample_shape, dtype=torch.int64 if self.integer else some.dtype, device=some.device
        )
        if self.label_input is not None:
            label_input = copy.deepcopy(self.label_input).to(some)
            blank = label_input(blank, torch.zeros(2, dtype=torch.int64, device=some.device))
        with undisturbed(self.blocks):
            self.blocks.eval()
            return trace_features([self._halves[k] for k in range(len(self.blocks))], blank, channels)


def _check_separate(blocks: nn.ModuleList) -> None:
    """Refuse blocks that share a parameter: a later block's loss would move an earlier block."""
    owner: dict[nn.Parameter, int] = {}
    for k, block in enumerate(blocks):
        for parameter in block.parameters():
            if owner.setdefault(parameter, k) != k:
                raise ValueError(
                    f"blocks must not share parameters: blocks {owner[parameter]} and {k} do; "
                    "put what they share into one block, or give each a copy"
                )


def _check_precision(blocks: nn.ModuleList) -> None:
    """Refuse weights that are too coarse to be moved by small steps."""
    for k, block in enumerate(blocks):
        for parameter in block.parameters():
            if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype.itemsize < 4:
                raise ValueError(
                    f"weights learn in float32 or float64: block {k} has some in {parameter.dtype}; give "
                    "it as float32, and precision bf16 to compute in half precision"
                )


def _held_modes(blocks: nn.ModuleList) -> list[tuple[nn.Module, bool]]:
    """Return the modules that stay in evaluation mode while a network trains, with all parts and modes.

    A whole model in evaluation mode is one that was only loaded, and trains.
    """
    held: list[tuple[nn.Module, bool]] = []

    def visit(module: nn.Module, *, stands_in_training: bool) -> None:
        own = list(module.parameters())
        is_frozen = bool(own) and not any(p.requires_grad for p in own)
        if not module.training and (stands_in_training or is_frozen):
            held.extend((m, m.training) for m in module.modules())
            return
        for child in module.children():
            visit(child, stands_in_training=module.training)

    for block in blocks:
        visit(block, stands_in_training=False)
    return held


def _check_memory(builder: NetworkBuilder, input_shape: SampleShape, width: float) -> None:
    """Refuse a network that could not be trained in the machine's memory, before any of it is allocated."""
    try:
        with torch.device("meta"):
            planned = builder(input_shape, width=width, style=BlockStyle(normalization="none"))
        weights = sum(p.numel() for p in planned.parameters())
    except Exception:  # whatever a builder of one's own cannot plan; its own errors come when it builds
        return
    # Weights, gradients and two moments of Adam's, in float32.
    require_memory(16.0 * weights, f"a network of {weights:,} weights", "use a smaller width")


def check_blocks(blocks: Any, what: str) -> None:
    """Check what is to be a network's blocks.

    Raises:
        ValueError: it is no sequence of modules.
    """
    if not isinstance(blocks, nn.Sequential | nn.ModuleList | list | tuple):
        raise ValueError(
            f"{what} must return its blocks in order, a list of modules or a Sequential: received "
            f"{type(blocks).__name__}"
        )
    strange = [block for block in blocks if not isinstance(block, nn.Module)]
    if strange:
        raise ValueError(f"{what} must return modules: one of its blocks is {type(strange[0]).__name__}")


def build_network(
    method: Method,
    network: str | NetworkBuilder = "small",
    *,
    sample_shape: SampleShape,
    num_classes: int,
    width: float = 1.0,
    channels: Sequence[int] = (),
    seed: int = 0,
) -> LocalNetwork:
    """Build a network for ``method``, its weights drawn from ``seed``.

    Args:
        method: the choices on every axis.
        network: a name in ``NETWORKS``, or a builder of your own.
        sample_shape: of one sample, without the label: (C, H, W) of images, (F,) of a table.
        num_classes: K, at least 2.
        width: multiplies the network's channels.
        channels: of each block, in place of ``width``'s, for networks that can be shrunk.
        seed: of the weights.

    Raises:
        ValueError: unknown network, samples that it does not take, or as :class:`LocalNetwork`.
    """
    Method.require(method)
    builder = part_of(NETWORKS, network, "network")
    with SeededDraws(seed):
        style = method.block_style(num_classes)
        _check_memory(builder, method.input_shape(sample_shape, num_classes), width)
        own: dict[str, Any] = {"channels": tuple(channels)} if channels else {}
        shape = method.input_shape(sample_shape, num_classes)
        what = f"network {name_of(network)}(input_shape, width=…, style=…)"
        with blamed(what, own=bool(own_parts(builder))):
            blocks = builder(shape, width=width, style=style, **own)
        check_blocks(blocks, what)
        return LocalNetwork(blocks, method, sample_shape=sample_shape, num_classes=num_classes)
