"""A network assembled for a method: label input, blocks, and a head wherever a window can close.

Shapes: B samples, such as images (B, C, H, W); K classes; L blocks. Nothing here trains: see
:mod:`trifecta.learning`.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.draws import unseeded
from trifecta._utils.references import name_of
from trifecta.compiled import CompiledParts, compile_parts
from trifecta.inputs.added import LabelAdded, LabelEmbedding
from trifecta.inputs.entrance import entrance
from trifecta.losses import Head
from trifecta.method import Method
from trifecta.nn.blocks import ResidualBlock, split_block
from trifecta.nn.carried import features_of, map_tensors, passed_on
from trifecta.nn.drawing import SharedGenerators, is_known, is_known_to_draw, seed_from, undisturbed
from trifecta.nn.from_module import Blocks
from trifecta.nn.layout import Traced, channels_first, trace_features
from trifecta.nn.shapes import SampleShape
from trifecta.prediction import block_scores, embeddings
from trifecta.readout import (
    Shortlist,
    choose_shortlist,
    fuse,
    select_blocks,
    usual_shortlist,
)


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
            is added to the samples as they are (:mod:`trifecta.inputs.added`).
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

        See :func:`trifecta.prediction.block_scores`. A network in train mode predicts as in evaluation
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
