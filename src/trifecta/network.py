"""Blocks put together for a method: their input, their outputs and their scores.

Shapes: B samples (B, C, …); a pass may hold each with every label, B·K, or each as a pair, 2B; L blocks; K
classes.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import require_memory
from trifecta._utils.references import blamed, name_of, own_parts, part_of
from trifecta.inputs import LabelEmbedding, build_input
from trifecta.kernels.block import infer_block, infer_first_block, inference_block
from trifecta.losses import ChannelSums, Head, Site
from trifecta.method import Method
from trifecta.nn.blocks import BlockStyle, ResidualBlock, split_block
from trifecta.nn.cutting import Blocks, features_of, map_tensors, next_input
from trifecta.nn.drawing import (
    SeededDraws,
    SharedGenerators,
    is_known_to_draw,
    preserved_state,
    seed_from,
    unseeded,
)
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
    """Blocks, with the inputs and heads that ``method`` adds to them.

    Attributes:
        label_input: shows a label to the first block; None if no label enters.
        image_pairs: makes pairs of samples; None if the method compares none.
        renews_pairs: whether every block receives new pairs, made of the positives of the one before.
        reads: the features that heads read, see :func:`trifecta.nn.blocks.split_block`.
        scored_blocks: numbers of the blocks with a head.
        readout_blocks: numbers of the blocks whose scores predict.
        feature_shapes: of the features that each block's head reads, channels first.
        label_shape: of one sample's labels: (), or the last block's positions if each has a label.
        layouts: ``first`` or ``last`` for each block, the position of channels in its output.
        has_side_values: whether blocks pass on more than their features.
        draws: numbers of the blocks that draw from the generators of the process, such as ``nn.Dropout``.
        is_compiled: whether :meth:`compile` was called.
        temperature: of the read-out, (), 1 before :func:`trifecta.calibration.fit_readout` fits it.
        offset: of each class in the read-out, (K,), 0 before it is fitted.
        shortlist: the labels that a prediction tries in all blocks, None for every label; see
            :class:`trifecta.readout.Shortlist`. A method that tries more than 20 labels starts with one.

    Args:
        blocks: in order, any modules that map a batch to a batch; see :func:`trifecta.from_module`. The
            first receives ``method.input_shape(sample_shape, num_classes)``; if it refuses that, a label is
            added to the samples (:mod:`trifecta.inputs`).
        sample_shape: of a sample without its label: (C, H, W) an image, (F,) a row of a table, (T,) tokens.
        num_classes: K, at least 2.
        integer: whether samples are integer tokens.
        channels: layout of the blocks' outputs, ``first`` (N, C, …) or ``last`` (N, …, C), for all blocks
            or one for each; None for that of ``blocks``, or to find it.

    Raises:
        ValueError: blocks that share a parameter, have weights in half precision, do not fit together,
            differ from the model that they were cut from or do not tell their layout.
    """

    temperature: Tensor
    offset: Tensor

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
        if not isinstance(blocks, Iterable):
            told = f"a network is its blocks, in order: received one {type(blocks).__name__}"
            raise ValueError(f"{told}; give a list, or from_module(model)")
        self.blocks = nn.ModuleList(blocks)
        _check_weights(self.blocks)
        self._held_modes = _held_modes(self.blocks)
        self.scored_blocks = method.schedule.closing_blocks(len(self.blocks))
        self.readout_blocks = select_blocks(method.readout, self.scored_blocks)
        self.is_compiled = False
        # By block; seeds only while blocks that draw are passed.
        self._compiled, self._compiled_heads = dict[int, Any](), dict[int, Any]()
        self._seeds = dict[int, int]()
        self._add_inputs()
        self._try_blocks(blocks, getattr(blocks, "channels", None) if channels is None else channels)
        self.shortlist: Shortlist | None = None
        with suppress(ValueError):  # The method tries few labels or none.
            self.keep_labels(MOST_LABELS)
        self._add_heads()

    def _add_inputs(self) -> None:
        self.label_input, self.image_pairs, first_block = build_input(
            self.method.input_class,
            self.blocks[0],
            sample_shape=self.sample_shape,
            num_classes=self.num_classes,
            integer=self.integer,
        )
        self.renews_pairs = self.image_pairs is not None and self.image_pairs.at_every_block
        self.reads = self.method.objective.reads
        # In tuples, because their modules are registered as the blocks' own.
        self._halves = [split_block(block, self.reads) for block in self.blocks]
        if first_block is not None:
            self._halves[0] = first_block, nn.Identity()

    def _try_blocks(self, blocks: Iterable[nn.Module], channels: str | Sequence[str] | None) -> None:
        """Find layouts, shapes and blocks that draw, by passing two samples."""
        blank = torch.zeros(2, *self.sample_shape)
        with preserved_state(self.blocks):
            self.blocks.eval()
            self.layouts, self.feature_shapes, self.has_side_values, self._writes_input = trace_blocks(
                self._halves, self._first_input(blank), channels
            )
        self.label_shape = self.feature_shapes[-1][1:] if self.method.objective.per_position else ()
        if self.has_side_values and self.renews_pairs:
            raise ValueError(
                f"method {self.method.name} makes new pairs of what a block passes on, and these blocks "
                "pass on other values too: use another method, or blocks as a list"
            )
        with unseeded(), preserved_state(self.blocks), torch.no_grad():
            x = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0))
            x = self._first_input(x, labelled=not isinstance(self.label_input, LabelEmbedding))
            if isinstance(blocks, Blocks):
                blocks.compare(x)
            self.draws = drawing_blocks(self.blocks, x, self.device)

    def _first_input(self, x: Tensor, *, labelled: bool = True) -> Tensor:
        """Return the first block's input for two samples, of class 0 if a label enters."""
        some = self._some()
        x = torch.zeros_like(x, dtype=torch.int64, device=some.device) if self.integer else x.to(some)
        if self.label_input is None or not labelled:
            return x
        label_input = copy.deepcopy(self.label_input).to(some)
        first_input: Tensor = label_input(x, torch.zeros(2, dtype=torch.int64, device=some.device))
        return first_input

    def _add_heads(self) -> None:
        residual = [k for k, block in enumerate(self.blocks) if isinstance(block, ResidualBlock)]
        sites = (Site(k, self.feature_shapes, self.num_classes, residual) for k in self.scored_blocks)
        self._heads = nn.ModuleDict({str(site.block): self.method.head(site) for site in sites})
        self.draws |= {k for k in self.scored_blocks if is_known_to_draw(self.head(k))}
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("offset", torch.zeros(self.num_classes))
        if self.dtype == torch.float64:
            self.double()

    def head(self, block: int) -> Head:
        """Return the head of ``block``, one of ``scored_blocks``."""
        head = self._heads[str(block)]
        assert isinstance(head, Head)
        return head

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Weight samples by their class in every loss, (K,); None for equal weights."""
        for block in self.scored_blocks:
            self.head(block).weigh_classes(weights)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the blocks' weights and inputs."""
        return self._some().dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._some().device

    def _some(self) -> Tensor:
        """Return a tensor in the precision and on the device of the weights."""
        tensors = chain(self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def train(self, mode: bool = True) -> "LocalNetwork":
        """Set training or evaluation mode.

        Modules that were built in evaluation mode stay in it, if all their weights are frozen or if they
        are part of a module in training mode.
        """
        super().train(mode)
        for module, was_training in self._held_modes if mode else ():
            module.training = was_training
        return self

    @property
    def label_name(self) -> str:
        """The name of the label input in use."""
        return getattr(self.label_input, "name", name_of(self.method.label_input))

    @property
    def constant_channels(self) -> int:
        """Number of leading input channels with no trainable layer in front of them."""
        is_kept = self.label_input is None or self.label_input.keeps_sample or not self.label_parameters()
        return self.sample_shape[0] if is_kept else 0

    def own_parameters(self, block: int) -> list[nn.Parameter]:
        """Return the trainable parameters of ``block`` and its head, and of the label for block 0."""
        modules: list[nn.Module] = [self.blocks[block]]
        if block in self.scored_blocks:
            modules.append(self.head(block))
        if block == 0 and self.label_input is not None:
            modules.append(self.label_input)
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def label_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters of the label input."""
        parameters = () if self.label_input is None else self.label_input.parameters()
        return [p for p in parameters if p.requires_grad]

    def as_samples(self, images: Tensor) -> Tensor:
        """Return samples (B, …) in the precision of the blocks; integers are unchanged."""
        return images.to(self.dtype) if images.is_floating_point() and not self.integer else images

    def labelled(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first block's input for labelled samples, (B, C, …), (B,) → (B, C', …)."""
        assert self.label_input is not None, "no label enters"
        x: Tensor = self.label_input(images, labels)
        return x

    def prediction_input(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the input of a prediction: labelled samples, positives of pairs, or the samples."""
        if self.label_input is not None:
            return self.labelled(images, labels)
        return images if self.image_pairs is None else self.image_pairs.neutral(images)

    def pass_block(self, block: int, x: Any, offsets: Tensor | None = None) -> tuple[Tensor, Any]:
        """Pass ``x`` (N, …) through ``block``; return the features that its head reads, and its output.

        If every block receives new pairs, they are made of ``x`` first: by ``offsets`` (L,), see
        :meth:`ImagePairs.pairs_at`, or the positives alone for a prediction.
        """
        front, back = self._halves[block]
        if self.training:
            front = self._compiled.get(block, front)
        if block in self._seeds:
            SharedGenerators(self.device).seed(self._seeds[block])
        if block and self.renews_pairs:
            x = self._new_pairs(block, x, offsets)
        if block in self._writes_input:
            x = map_tensors(Tensor.clone, x)
        output = front(x)
        return channels_first(features_of(output), self.layouts[block]), next_input(back(output))

    def _new_pairs(self, block: int, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        assert self.image_pairs is not None
        if offsets is None:
            return self.image_pairs.neutral(x)
        return self.image_pairs.pairs_at(x[: len(x) // 2], offsets[block : block + 1])

    def loss(self, block: int, seen: Tensor, labels: Tensor) -> Tensor:
        """Return the local loss of ``block``, (), for the features that its head reads."""
        loss: Tensor = self._compiled_heads.get(block, self.head(block).loss)(seen, labels)
        return loss

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile each block and each head's loss for training, with the arguments of ``torch.compile``.

        Predictions are not compiled, because their batches have other shapes.
        """
        # All blocks share the code that calls them, and each of their shapes counts as a compilation of it.
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, COMPILATIONS_PER_BLOCK * len(self.blocks))
        self.is_compiled = True
        for k, (front, _) in enumerate(self._halves):
            self._compiled[k] = torch.compile(front, *args, **kwargs)
        for k in self.scored_blocks:
            self._compiled_heads[k] = torch.compile(self.head(k), *args, **kwargs)

    @contextmanager
    def drawing(self, blocks: range, numbers: Sequence[int]) -> Iterator[None]:
        """Seed the draws of each of ``blocks`` from ``numbers`` and its own number; other threads wait."""
        drawing = self.draws.intersection(blocks)
        if not drawing:
            yield
            return
        with SharedGenerators(self.device).preserved():
            self._seeds = {k: seed_from([*numbers, k]) for k in drawing}
            try:
                yield
            finally:
                self._seeds = {}

    def keep_labels(self, labels: int) -> None:
        """Predict from a shortlist of so many labels from now on; 0 tries all of them in all blocks.

        Raises:
            ValueError: the method tries no labels, or the shortlist would leave none out.
        """
        if not labels:
            self.shortlist = None
            return
        if not self.method.tries_labels or self.has_side_values:
            raise ValueError(
                "a shortlist needs a method that tries labels, and blocks that pass on features alone: "
                f"use no shortlist for method {self.method.name} with these blocks"
            )
        self.shortlist = choose_shortlist(
            labels,
            num_blocks=len(self.blocks),
            num_classes=self.num_classes,
            scored=self.scored_blocks,
            readout=self.readout_blocks,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, (B, C, …) → (B, K), at each position (B, K, …). Never trains.

        They are :meth:`calibrated`; their softmax is the classes' probabilities.
        """
        return self.calibrated(self.fused_scores(images))

    def calibrated(self, fused: Tensor) -> Tensor:
        """Return ``fused / temperature + offset`` of fused scores, (B, K, …) → (B, K, …)."""
        return fused / self.temperature + self.offset.view(-1, *[1] * (fused.ndim - 2))

    def fused_scores(self, images: Tensor, *, every_label: bool = False) -> Tensor:
        """Return the sum of :meth:`block_scores` over the read-out, (B, C, …) → (B, K), or (B, K, …)."""
        return fuse(self.block_scores(images, every_label=every_label), self.readout_blocks)

    def block_scores(self, images: Tensor, *, every_label: bool = False) -> list[Tensor | None]:
        """Return the class scores of every block, L × (B, K); None for a block without a head.

        A method whose labels enter tries all K, or with a shortlist fewer unless ``every_label``, in passes
        of at most ``LABELLED_SAMPLES`` samples (or K if that is more). Any other method scores all classes
        at once. Scores are those of evaluation mode in any mode, and move no running statistics.
        """
        with self._evaluating():
            images = self.as_samples(images)
            if self.label_input is None:
                x = self.prediction_input(images, images)
                scores, _ = self._scores(x, range(len(self.blocks)))
            else:
                pieces = torch.split(images, max(1, LABELLED_SAMPLES // self.num_classes))
                shortlist = None if every_label else self.shortlist
                groups = [self._label_scores(piece, shortlist) for piece in pieces]
                scores = {k: torch.cat([group[k] for group in groups]) for k in self.scored_blocks}
        return [scores.get(k) for k in range(len(self.blocks))]

    def embeddings(self, images: Tensor, block: int) -> Tensor:
        """Return the features that ``block``'s head reads, averaged over positions, (B, C, …) → (B, F).

        F is ``feature_shapes[block][0]``. If a label enters, it is the predicted one.
        """
        with self._evaluating():
            images = self.as_samples(images)
            labels = images if self.label_input is None else self.fused_scores(images).argmax(1)
            x = features = self.prediction_input(images, labels)
            for k in range(block + 1):
                features, x = self.pass_block(k, x)
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def _label_scores(self, images: Tensor, shortlist: Shortlist | None) -> dict[int, Tensor]:
        """Try every label with every one of G images; return each block's scores (G, K)."""
        assert self.label_input is not None
        count, num_blocks = self.num_classes, len(self.blocks)
        first = inference_block(self.blocks[0]) if self.reads == "output" else None
        scores: dict[int, Tensor] = {}
        start = 0
        if first is not None and first.norm.separable and self.label_input.is_additive:
            base, maps = self.label_input.base(images), self.label_input.maps(images)
            x, sums = infer_first_block(first, base, maps)
            scores, start = self._score(0, x, sums), 1
        else:
            labels = torch.arange(count, device=images.device).repeat(len(images))
            x = self.labelled(images.repeat_interleave(count, dim=0), labels)
        end = num_blocks if shortlist is None else shortlist.after + 1
        early, x = self._scores(x, range(start, end))
        scores = {k: s.view(len(images), count) for k, s in (scores | early).items()}
        if shortlist is None:
            return scores
        seen = [scores[k] for k in self.readout_blocks if k < end] or [scores[end - 1]]
        rows, kept = best_rows(torch.stack(seen).sum(0), shortlist.labels)
        late, _ = self._scores(x[rows], range(end, num_blocks))
        return scores | {k: spread_scores(s, kept, count) for k, s in late.items()}

    def _scores(self, x: Any, blocks: range) -> tuple[dict[int, Tensor], Any]:
        """Pass ``x`` through ``blocks``; return the scores of each, and the output of the last."""
        scores: dict[int, Tensor] = {}
        for k in blocks:
            layers = inference_block(self.blocks[k]) if self.reads == "output" else None
            if layers is None:
                features, x = self.pass_block(k, x)
                scores |= self._score(k, features)
            else:
                x, sums = infer_block(layers, self._new_pairs(k, x) if k and self.renews_pairs else x)
                scores |= self._score(k, x, sums)
        return scores, x

    def _score(self, block: int, features: Tensor, sums: ChannelSums | None = None) -> dict[int, Tensor]:
        if block not in self.scored_blocks:
            return {}
        head = self.head(block)
        is_summed = sums is not None and head.reads_channel_sums
        return {block: head.scores(sums if is_summed else features)}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.training
        if was_training:
            self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # Weights of earlier versions have neither.
        state_dict.setdefault(f"{prefix}temperature", torch.ones(()))
        state_dict.setdefault(f"{prefix}offset", torch.zeros(self.num_classes))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _check_weights(blocks: nn.ModuleList) -> None:
    """Refuse trainable weights in half precision, and blocks that share a parameter."""
    if not blocks:
        raise ValueError("a network needs at least one block: received none")
    owner: dict[nn.Parameter, int] = {}
    for k, block in enumerate(blocks):
        for parameter in block.parameters():
            # The loss of a later block would move an earlier block.
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
    """Return the modules that :meth:`LocalNetwork.train` leaves in evaluation mode, each with its mode."""
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
    """Build a :class:`LocalNetwork` for ``method``, with weights drawn from ``seed``.

    Args:
        method: the choices on every axis.
        network: a name in ``NETWORKS``, or a builder of your own.
        sample_shape: of one sample without its label: (C, H, W) an image, (F,) a row of a table.
        num_classes: K, at least 2.
        width: factor of the network's channels.
        channels: number of channels of each block, in place of ``width``, for networks that can be shrunk.
        seed: of the weights.
    """
    Method.require(method)
    builder = part_of(NETWORKS, network, "network")
    shape = method.input_shape(sample_shape, num_classes)
    options: dict[str, Any] = {"channels": tuple(channels)} if channels else {}
    with SeededDraws(seed):
        _check_memory(builder, shape, width)
        what = f"network {name_of(network)}(input_shape, width=…, style=…)"
        with blamed(what, own=bool(own_parts(builder))):
            built = builder(shape, width=width, style=method.block_style(num_classes), **options)
            blocks = built if isinstance(built, Blocks) else nn.ModuleList(built)
        return LocalNetwork(blocks, method, sample_shape=sample_shape, num_classes=num_classes)


def _check_memory(builder: NetworkBuilder, input_shape: SampleShape, width: float) -> None:
    """Refuse a network that is too large to train, before any of it is allocated."""
    try:
        with torch.device("meta"):
            planned = builder(input_shape, width=width, style=BlockStyle(normalization="none"))
        weights = sum(p.numel() for p in planned.parameters())
    except Exception:  # A builder of one's own may fail here, and then reports its error when it builds.
        return
    # Weights, gradients and two moments of Adam, in float32.
    require_memory(16.0 * weights, f"a network of {weights:,} weights", "use a smaller width")
