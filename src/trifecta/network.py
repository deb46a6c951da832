"""A network assembled for a method: label input, blocks, and a head wherever a window can close.

Shapes: B images (B, C, H, W); K classes; L blocks. Nothing here trains: see :mod:`trifecta.learning`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trifecta._utils.references import part_of
from trifecta.inputs import ImagePairs, LabelInput
from trifecta.losses import Head
from trifecta.method import Method
from trifecta.nn.blocks import split_block
from trifecta.nn.networks import NETWORKS, NetworkBuilder
from trifecta.nn.shapes import FeatureShape, ImageShape
from trifecta.prediction import block_scores
from trifecta.readout import (
    Shortlist,
    choose_shortlist,
    fuse,
    select_blocks,
)


class LocalNetwork(nn.Module):
    """Blocks with everything that ``method`` adds to them.

    Attributes:
        shortlist: None for exact prediction, see :class:`trifecta.readout.Shortlist`.

    Args:
        blocks: in order, any modules that map a batch to a batch; the first receives
            ``method.input_shape(image_shape)``.
        method: the choices on every axis.
        image_shape: (C, H, W) of the images, without the label.
        num_classes: K, at least 2.

    Raises:
        ValueError: fewer than two classes, no blocks, blocks that share a parameter, a read-out of blocks
            that have no scores, or superclasses of another number of classes.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        method: Method,
        *,
        image_shape: ImageShape,
        num_classes: int,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes: received {num_classes}")
        self.method, self.image_shape, self.num_classes = method, image_shape, num_classes
        self.shortlist: Shortlist | None = None
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise ValueError("a network needs at least one block: received none")
        _check_separate(self.blocks)
        # One of them at most: labels that are tried, or pairs of images.
        kind = method.input_class
        self.label_input: LabelInput | None = None
        self.image_pairs: ImagePairs | None = None
        if kind is not None and issubclass(kind, LabelInput):
            self.label_input = kind(image_shape, num_classes)
        elif kind is not None and issubclass(kind, ImagePairs):
            self.image_pairs = kind()
        # Not registered: the halves are made of the same modules as the blocks.
        self._halves = {k: split_block(block, self.reads) for k, block in enumerate(self.blocks)}
        self.scored_blocks = method.schedule.closing_blocks(len(self.blocks))
        self.readout_blocks = select_blocks(method.readout, self.scored_blocks)
        shapes = self._feature_shapes()
        self._heads = nn.ModuleDict(
            {str(k): method.head(k, len(self.blocks), shapes[k], num_classes) for k in self.scored_blocks}
        )

    def head(self, block: int) -> Head:
        """The head on ``block``, one of ``scored_blocks``."""
        head = self._heads[str(block)]
        assert isinstance(head, Head)
        return head

    @property
    def reads(self) -> str:
        """The position in a block that its head reads, see :func:`trifecta.nn.blocks.split_block`."""
        return self.method.objective.reads

    @property
    def renews_pairs(self) -> bool:
        """Whether every block receives new pairs, made of what the one before passed on."""
        return self.image_pairs is not None and self.image_pairs.at_every_block

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
        front, back = self._halves[block]
        seen = front(x)
        return seen, back(seen)

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
        """Predict from a shortlist of so many labels from now on.

        Raises:
            ValueError: the method tries no labels, or the read-out or K leave none out.
        """
        if not self.method.tries_labels:
            raise ValueError(
                f"method {self.method.name} scores all classes in one pass and tries no labels: "
                "drop --shortlist"
            )
        self.shortlist = choose_shortlist(
            labels,
            num_blocks=len(self.blocks),
            num_classes=self.num_classes,
            scored_blocks=self.scored_blocks,
            readout_blocks=self.readout_blocks,
        )

    def labelled(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first block's input for labelled images, (B, C, H, W), (B,) → (B, C', H, W)."""
        assert self.label_input is not None, "no label enters"
        x: Tensor = self.label_input(images, labels)
        return x

    def block_scores(self, images: Tensor) -> list[Tensor | None]:
        """Score every class by every block, L × (B, K); None where a block has no head.

        See :func:`trifecta.prediction.block_scores`. A network in train mode predicts as in evaluation
        mode, and moves no running statistics.
        """
        with self._evaluating():
            return block_scores(self, images)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the method's read-out, (B, C, H, W) → (B, K). Never trains."""
        return fuse(self.block_scores(images), self.readout_blocks)

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

    @torch.no_grad()
    def _feature_shapes(self) -> list[FeatureShape]:
        """Find the shape that each block's head reads, without the batch, by passing one blank image."""
        x = torch.zeros(1, *self.method.input_shape(self.image_shape))
        some = next(self.blocks.parameters(), x)
        x = x.to(dtype=some.dtype, device=some.device)
        was_training = [block.training for block in self.blocks]
        shapes = []
        for k, block in enumerate(self.blocks):
            block.eval()
            seen, x = self.pass_block(k, x)
            shapes.append(tuple(seen.shape[1:]))
        for block, training in zip(self.blocks, was_training, strict=True):
            block.train(training)
        return shapes


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let PyTorch draw from ``seed`` for a while, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def build_network(
    method: Method,
    network: str | NetworkBuilder = "small",
    *,
    image_shape: ImageShape,
    num_classes: int,
    width: float = 1.0,
    seed: int = 0,
) -> LocalNetwork:
    """Build a network for ``method``, its weights drawn from ``seed``.

    Args:
        method: the choices on every axis.
        network: a name in ``NETWORKS``, or a builder of your own.
        image_shape: (C, H, W) of the images, without the label.
        num_classes: K, at least 2.
        width: multiplies the network's channels.
        seed: of the weights.

    Raises:
        ValueError: unknown network, images too small for it, or as :class:`LocalNetwork`.
    """
    builder = part_of(NETWORKS, network, "network")
    with seeded(seed):
        style = method.block_style(num_classes)
        blocks = builder(method.input_shape(image_shape), width=width, style=style)
        return LocalNetwork(blocks, method, image_shape=image_shape, num_classes=num_classes)
