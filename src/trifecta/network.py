"""Blocks put together for a method: what enters, what is passed on, and the scores.

Shapes: B samples (B, C, …), of which a pass may hold each with every label, B·K, or each as a pair, 2B;
L blocks; K classes.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.checks import require_memory
from trifecta._utils.draws import SeededDraws, unseeded
from trifecta._utils.references import blamed, name_of, own_parts, part_of
from trifecta.inputs.label_inputs import LabelAdded, LabelEmbedding, build_input
from trifecta.kernels import infer_block, infer_first_block, inference_block
from trifecta.losses import ChannelSums, Head
from trifecta.method import Method
from trifecta.nn.blocks import BlockStyle, ResidualBlock, split_block
from trifecta.nn.cutting import Blocks, features_of, map_tensors, passed_on
from trifecta.nn.drawing import SharedGenerators, is_known_to_draw, seed_from, undisturbed
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.nn.probing import channels_first, drawing_blocks, trace_blocks
from trifecta.nn.shapes import SampleShape
from trifecta.readout import (
    MOST_LABELS,
    Shortlist,
    best_rows,
    choose_shortlist,
    fuse,
    select_blocks,
    spread_scores,
)

# Samples in one pass of a prediction: enough to keep every core busy, few enough to bound its memory.
LABELLED_SAMPLES = 256
# A block that learns, alone or behind another one in its window, and one that idles.
COMPILATIONS_PER_BLOCK = 4


class LocalNetwork(nn.Module):
    """Blocks with everything that ``method`` adds to them.

    Attributes:
        blocks: the modules, in order.
        label_input: shows a label that is tried to the first block; None where no label enters.
        image_pairs: makes pairs of samples; None where the method compares none.
        renews_pairs: whether every block receives new pairs of the positives that the one before passed on.
        reads: the place in a block that its head reads, see :func:`trifecta.nn.blocks.split_block`.
        scored_blocks: numbers of the blocks that have a head.
        readout_blocks: numbers of the blocks whose scores predict.
        feature_shapes: of what each block's head reads, channels first.
        label_shape: of one sample's labels: (), or the last block's positions where each has its own.
        layouts: whether each block's output has its channels ``first`` or ``last``.
        has_side_values: whether blocks pass on more than their features.
        draws: the blocks that draw from generators which the process shares, such as by ``nn.Dropout``.
        is_compiled: whether :meth:`compile` was called.
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
        channels: the layout of the blocks' outputs, ``first`` (N, C, …) or ``last`` (N, …, C), for all
            blocks or one per block; None for what the blocks say, or to find it.

    Raises:
        ValueError: fewer than two classes, no blocks, blocks that share a parameter, have weights in half
            precision, do not fit together, do not compute what the model does that they were cut from, or
            do not tell their layout, a read-out of blocks that have no scores, or superclasses of another
            number of classes.
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
        self.method, self.num_classes, self.integer = method, num_classes, integer
        self.sample_shape: SampleShape = tuple(sample_shape)
        self.blocks = nn.ModuleList(blocks)
        _check_blocks(self.blocks)
        self._held_modes = _held_modes(self.blocks)
        self.scored_blocks = method.schedule.closing_blocks(len(self.blocks))
        self.readout_blocks = select_blocks(method.readout, self.scored_blocks)
        self.is_compiled, self._compiled_losses = False, dict[int, Any]()
        # Of blocks that draw, while they train.
        self._seeds: dict[int, int] = {}
        self._add_inputs()
        self._trace(getattr(blocks, "channels", None) if channels is None else channels)
        if isinstance(blocks, Blocks):
            with self._trial() as x:
                blocks.compare(x)
        self.shortlist: Shortlist | None = None
        with suppress(ValueError):  # tries few labels or none
            self.keep_labels(MOST_LABELS)
        self._add_heads()
        with self._trial() as x:
            self.train()
            drawing = drawing_blocks(self.blocks, x, self.device)
        self.draws = drawing | {k for k in self.scored_blocks if is_known_to_draw(self.head(k))}

    def _add_inputs(self) -> None:
        """Add labels that are tried or pairs of samples, and split each block where its head reads."""
        self.label_input, self.image_pairs, first_block = build_input(
            self.method.input_class,
            self.blocks[0],
            sample_shape=self.sample_shape,
            num_classes=self.num_classes,
            integer=self.integer,
        )
        self.renews_pairs = self.image_pairs is not None and self.image_pairs.at_every_block
        # Not registered, as the halves are made of the blocks' own modules.
        self.reads = self.method.objective.reads
        self._halves = [split_block(block, self.reads) for block in self.blocks]
        if first_block is not None:
            self._halves[0] = first_block, nn.Identity()

    def _trace(self, channels: str | Sequence[str] | None) -> None:
        """Find the layout and the shape of each block's output."""
        with undisturbed(self.blocks):
            self.blocks.eval()
            blank = self._with_trial_label(torch.zeros(2, *self.sample_shape))
            self.layouts, self.feature_shapes, self.has_side_values, self._writes_input = trace_blocks(
                self._halves, blank, channels
            )
        self.label_shape = self.feature_shapes[-1][1:] if self.method.objective.per_position else ()
        if self.has_side_values and self.renews_pairs:
            raise ValueError(
                f"method {self.method.name} makes new pairs of what a block passes on, and these blocks "
                "pass on other values too: use another method, or blocks as a list"
            )

    def _add_heads(self) -> None:
        residual = [k for k, block in enumerate(self.blocks) if isinstance(block, ResidualBlock)]
        heads = {
            str(k): self.method.head(k, self.feature_shapes, self.num_classes, residual)
            for k in self.scored_blocks
        }
        self._heads = nn.ModuleDict(heads)
        self.register_buffer("temperature", torch.ones(()))
        if self.dtype == torch.float64:
            self.double()

    @contextmanager
    def _trial(self) -> Iterator[Tensor]:
        """Two samples for the first block, (2, …), which may be passed without a trace."""
        x = torch.randn(2, *self.sample_shape, generator=torch.Generator().manual_seed(0))
        with unseeded(), undisturbed(self.blocks), torch.no_grad():
            if isinstance(self.label_input, LabelEmbedding):
                yield torch.zeros_like(x, dtype=torch.int64, device=self.device)
            else:
                yield self._with_trial_label(x)

    def _with_trial_label(self, x: Tensor) -> Tensor:
        """Return two samples as the first block receives them, labelled as class 0 where a label enters."""
        x = torch.zeros_like(x, dtype=torch.int64).to(self.device) if self.integer else x.to(self._some())
        if self.label_input is None:
            return x
        label_input = copy.deepcopy(self.label_input).to(self._some())
        labelled: Tensor = label_input(x, torch.zeros(2, dtype=torch.int64, device=x.device))
        return labelled

    def head(self, block: int) -> Head:
        """Return the head on ``block``, one of ``scored_blocks``."""
        head = self._heads[str(block)]
        assert isinstance(head, Head)
        return head

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Weigh samples by their class in every loss, (K,); None weighs all the same.

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
        """The device of the weights."""
        return self._some().device

    def _some(self) -> Tensor:
        """Return a tensor in the precision and on the device of the weights."""
        tensors = chain(self.blocks.parameters(), self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def train(self, mode: bool = True) -> "LocalNetwork":
        """Set training or evaluation mode; modules that were handed over in evaluation mode stay in it.

        Those are modules in evaluation mode whose weights are all frozen, or which are part of one in
        training mode.
        """
        super().train(mode)
        for module, was_training in self._held_modes if mode else ():
            module.training = was_training
        return self

    @property
    def label_name(self) -> str:
        """Name of the label input: the method's, or that of the added picture or embedding in its place."""
        if isinstance(self.label_input, LabelAdded | LabelEmbedding):
            return self.label_input.name
        return name_of(self.method.label_input)

    @property
    def constant_channels(self) -> int:
        """Number of leading input channels with no trainable layer in front of them."""
        is_kept = self.label_input is None or self.label_input.keeps_sample or not self.label_parameters()
        return self.sample_shape[0] if is_kept else 0

    def own_parameters(self, block: int) -> list[nn.Parameter]:
        """Return the parameters that learn with ``block``: its own, its head's, for block 0 the label's."""
        modules: list[nn.Module] = [self.blocks[block]]
        if block in self.scored_blocks:
            modules.append(self.head(block))
        own = [p for module in modules for p in module.parameters() if p.requires_grad]
        return own + self.label_parameters() if block == 0 else own

    def label_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters of the label input."""
        parameters = () if self.label_input is None else self.label_input.parameters()
        return [p for p in parameters if p.requires_grad]

    def as_samples(self, images: Tensor) -> Tensor:
        """Return samples (B, …) in the precision of the blocks; integer tokens as they are."""
        return images.to(self.dtype) if images.is_floating_point() and not self.integer else images

    def labelled(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first block's input for labelled samples, (B, C, …), (B,) → (B, C', …)."""
        assert self.label_input is not None, "no label enters"
        x: Tensor = self.label_input(images, labels)
        return x

    def prediction_input(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first block's input for a prediction, (B, C, …), (B,) → (B, C', …).

        Labelled samples where labels enter, else positives of pairs, or the samples as they are.
        """
        if self.label_input is not None:
            return self.labelled(images, labels)
        return images if self.image_pairs is None else self.image_pairs.neutral(images)

    def pass_block(self, block: int, x: Any, offsets: Tensor | None = None) -> tuple[Tensor, Any]:
        """Pass ``x`` (N, …) through ``block``; return the features that its head reads, and its output.

        Where every block receives new pairs, these are made here of what the block before passed on: as
        ``offsets`` (L,) say, see :meth:`ImagePairs.pairs_at`, or for a prediction of positives alone.
        """
        front, back = (self._compiled_halves if self.is_compiled and self.training else self._halves)[block]
        if block in self._seeds:
            SharedGenerators(self.device).seed(self._seeds[block])
        if block and self.renews_pairs:
            x = self._new_pairs(block, x, offsets)
        if block in self._writes_input:
            x = map_tensors(Tensor.clone, x)
        seen = front(x)
        return channels_first(features_of(seen), self.layouts[block]), passed_on(back(seen))

    def _new_pairs(self, block: int, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        assert self.image_pairs is not None
        if offsets is None:
            return self.image_pairs.neutral(x)
        return self.image_pairs.pairs_at(x[: len(x) // 2], offsets[block : block + 1])

    def loss(self, block: int, seen: Tensor, labels: Tensor) -> Tensor:
        """Return the local loss of ``block``, (), for the features that its head reads."""
        loss: Tensor = self._compiled_losses.get(block, self.head(block).loss)(seen, labels)
        return loss

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what training runs, each block and each head's loss, as ``torch.compile`` does.

        Predictions run as they did: their batches have other shapes. Arguments are ``torch.compile``'s.
        """
        # All blocks share the code that calls them, and each of their shapes counts as a compilation of it.
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, COMPILATIONS_PER_BLOCK * len(self.blocks))
        self.is_compiled = True
        self._compiled_halves = [
            (torch.compile(front, *args, **kwargs), back) for front, back in self._halves
        ]
        self._compiled_losses = {
            k: torch.compile(_HeadLoss(self.head(k)), *args, **kwargs) for k in self.scored_blocks
        }

    @contextmanager
    def drawing(self, blocks: range, numbers: Sequence[int]) -> Iterator[None]:
        """Seed what ``blocks`` draw by these numbers, 0 or more, and by the number of the block.

        Others that train in this process at the same time wait, where a block draws at all.
        """
        drawing = self.draws.intersection(blocks)
        if not drawing:
            yield
            return
        with SharedGenerators(self.device).kept():
            self._seeds = {k: seed_from([*numbers, k]) for k in drawing}
            try:
                yield
            finally:
                self._seeds = {}

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
        if self.has_side_values:
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

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, (B, C, …) → (B, K), at each position (B, K, …). Never trains.

        They are :meth:`fused_scores` over the temperature, and their softmax the classes' probabilities.
        """
        return self.fused_scores(images) / self.temperature

    def fused_scores(self, images: Tensor, *, every_label: bool = False) -> Tensor:
        """Return the sum of the read-out's scores, (B, C, …) → (B, K), at each position (B, K, …).

        See :meth:`block_scores` for ``every_label``.
        """
        return fuse(self.block_scores(images, every_label=every_label), self.readout_blocks)

    def block_scores(self, images: Tensor, *, every_label: bool = False) -> list[Tensor | None]:
        """Score every class by every block, L × (B, K); None where a block has no head.

        With ``every_label``, without the shortlist.

        A method whose labels enter tries all K in one pass over groups of images, so that a pass never
        holds more than ``LABELLED_SAMPLES`` samples (or K, if that is more); any other scores all classes
        at once. A network in training mode predicts as in evaluation mode, and moves no running statistics.
        """
        with self._evaluating():
            images = self.as_samples(images)
            if self.label_input is None:
                return self._scores(self.prediction_input(images, images), range(len(self.blocks)))[0]
            size = max(1, LABELLED_SAMPLES // self.num_classes)
            shortlist = None if every_label else self.shortlist
            groups = [self._label_scores(group, shortlist) for group in torch.split(images, size)]
            return [
                None if scores[0] is None else torch.cat([s for s in scores if s is not None])
                for scores in zip(*groups, strict=True)
            ]

    def embeddings(self, images: Tensor, block: int) -> Tensor:
        """Return the features that ``block``'s head reads, means over positions, (B, C, …) → (B, F).

        F is ``feature_shapes[block][0]``. Where a label enters, it is the predicted one.
        """
        with self._evaluating():
            images = self.as_samples(images)
            labels = images if self.label_input is None else self.fused_scores(images).argmax(1)
            x = features = self.prediction_input(images, labels)
            for k in range(block + 1):
                features, x = self.pass_block(k, x)
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def _label_scores(self, images: Tensor, shortlist: Shortlist | None) -> list[Tensor | None]:
        """Try every label with every one of G images, (G, C, …) → L × (G, K)."""
        assert self.label_input is not None
        count, num_blocks = self.num_classes, len(self.blocks)
        first = inference_block(self.blocks[0]) if self.reads == "output" else None
        scores: list[Tensor | None] = []
        if first is not None and first.norm.separable and self.label_input.is_additive:
            base, maps = self.label_input.base(images), self.label_input.maps(images)
            x, sums = infer_first_block(first, base, maps)
            scores.append(self._score(0, x, sums))
        else:
            labels = torch.arange(count, device=images.device).repeat(len(images))
            x = self.labelled(images.repeat_interleave(count, dim=0), labels)
        end = num_blocks if shortlist is None else shortlist.after + 1
        early, x = self._scores(x, range(len(scores), end))
        scores = [None if s is None else s.view(len(images), count) for s in scores + early]
        if shortlist is None:
            return scores
        so_far = [k for k in self.readout_blocks if k < end]
        rows, kept = best_rows(fuse(scores, so_far or [end - 1]), shortlist.labels)
        late, _ = self._scores(x[rows], range(end, num_blocks))
        return scores + [None if s is None else spread_scores(s, kept, count) for s in late]

    def _scores(self, x: Any, blocks: range) -> tuple[list[Tensor | None], Any]:
        """Pass ``x`` through ``blocks``; return the scores of each, and the output of the last."""
        scores: list[Tensor | None] = []
        for k in blocks:
            layers = inference_block(self.blocks[k]) if self.reads == "output" else None
            if layers is None:
                features, x = self.pass_block(k, x)
                scores.append(self._score(k, features))
            else:
                x, sums = infer_block(layers, self._new_pairs(k, x) if k and self.renews_pairs else x)
                scores.append(self._score(k, x, sums))
        return scores, x

    def _score(self, block: int, features: Tensor, sums: ChannelSums | None = None) -> Tensor | None:
        if block not in self.scored_blocks:
            return None
        reads_sums = sums is not None and self.head(block).reads_channel_sums
        return self.head(block).scores(sums if reads_sums else features)

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # Weights may be older than the temperature.
        state_dict.setdefault(f"{prefix}temperature", torch.ones(()))
        super()._load_from_state_dict(state_dict, prefix, *others)


class _HeadLoss(nn.Module):
    """A head's loss as a module of its own, which is what ``torch.compile`` and copying understand."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Any, labels: Tensor) -> Tensor:
        """``head.loss(features, labels)``."""
        return self.head.loss(features, labels)


def _check_blocks(blocks: nn.ModuleList) -> None:
    """Refuse no blocks, weights that are too coarse for small steps, and blocks that share a parameter."""
    if not blocks:
        raise ValueError("a network needs at least one block: received none")
    owner: dict[nn.Parameter, int] = {}
    for k, block in enumerate(blocks):
        for parameter in block.parameters():
            # A later block's loss would move an earlier block.
            if owner.setdefault(parameter, k) != k:
                raise ValueError(
                    f"blocks must not share parameters: blocks {owner[parameter]} and {k} do; "
                    "put what they share into one block, or give each a copy"
                )
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

    def visit(module: nn.Module, *, parent_trains: bool) -> None:
        own = list(module.parameters())
        is_frozen = bool(own) and not any(p.requires_grad for p in own)
        if not module.training and (parent_trains or is_frozen):
            held.extend((m, m.training) for m in module.modules())
            return
        for child in module.children():
            visit(child, parent_trains=module.training)

    for block in blocks:
        visit(block, parent_trains=False)
    return held


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
    shape = method.input_shape(sample_shape, num_classes)
    options: dict[str, Any] = {"channels": tuple(channels)} if channels else {}
    with SeededDraws(seed):
        _check_memory(builder, shape, width)
        what = f"network {name_of(network)}(input_shape, width=…, style=…)"
        with blamed(what, own=bool(own_parts(builder))):
            blocks = builder(shape, width=width, style=method.block_style(num_classes), **options)
        check_blocks(blocks, what)
        return LocalNetwork(blocks, method, sample_shape=sample_shape, num_classes=num_classes)


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
