"""A network assembled for a method: label input, blocks, and a head wherever a window can close.

Shapes: B images (B, C, H, W); K classes; L blocks. Nothing here trains: see :mod:`trifecta.learner`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trifecta.blocks import split_block
from trifecta.fused import infer_block, infer_first_block, inferred_stage
from trifecta.goodness import Moments
from trifecta.heads import FeatureShape, Head
from trifecta.image_pairs import IMAGE_PAIRS, ImagePairs, OtherImage
from trifecta.labels import LABEL_INPUTS, ImageShape
from trifecta.methods.method import Method
from trifecta.networks import get_network
from trifecta.readout import fuse, select_blocks
from trifecta.shortlist import Shortlist, best_rows, choose_shortlist, spread_scores

# In one pass of prediction: enough to keep every core busy, few enough to bound its memory.
LABELLED_SAMPLES = 256


class LocalNetwork(nn.Module):
    """Blocks with everything that ``method`` adds to them.

    Attributes:
        shortlist: None for exact prediction, see :class:`trifecta.shortlist.Shortlist`.

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
        label_input = LABEL_INPUTS.get(method.label_input)
        image_pairs = IMAGE_PAIRS.get(method.label_input)
        self.label_input = None if label_input is None else label_input(image_shape, num_classes)
        self.image_pairs: ImagePairs | None = None if image_pairs is None else image_pairs()
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
        """Where in a block its head looks, see :func:`trifecta.blocks.split_block`."""
        return self.method.objective.reads

    @property
    def renews_pairs(self) -> bool:
        """Whether every block receives new pairs, made of what the one before passed on."""
        return self.image_pairs is not None and self.image_pairs.every_block

    def own_parameters(self, block: int) -> list[nn.Parameter]:
        """Parameters that learn with ``block``: its own, its head's, for the first the label's too."""
        modules: list[nn.Module] = [self.blocks[block]]
        if block in self.scored_blocks:
            modules.append(self.head(block))
        own = [p for module in modules for p in module.parameters() if p.requires_grad]
        return own + self.label_parameters() if block == 0 else own

    def label_parameters(self) -> list[nn.Parameter]:
        """What a label's input learns."""
        return (
            []
            if self.label_input is None
            else [p for p in self.label_input.parameters() if p.requires_grad]
        )

    def pass_block(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the head on ``block`` reads of its input ``x``, and what the block passes on."""
        front, back = self._halves[block]
        seen = front(x)
        return seen, back(seen)

    def renewed(self, block: int, x: Tensor, positives: int, offsets: Tensor | None) -> Tensor:
        """What ``block`` receives of (N, …) from the one before: new pairs of the positives, where it does.

        ``offsets`` (L,) say for every block which images meet; None for a prediction.
        """
        if not self.renews_pairs or block == 0:
            return x
        assert isinstance(self.image_pairs, OtherImage)
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
        """What the first block receives of images that carry labels, (B, C, H, W), (B,) → (B, C', H, W)."""
        assert self.label_input is not None, "no label enters"
        x: Tensor = self.label_input(images, labels)
        return x

    def block_scores(self, images: Tensor) -> list[Tensor | None]:
        """Scores of every class by every block, L × (B, K); None where a block has no head.

        A method whose labels enter tries all K in one pass over groups of images, so that a pass never
        holds more than ``LABELLED_SAMPLES`` samples (or K, if that is more); any other scores all
        classes at once.

        A network in train mode predicts as in evaluation mode, and moves no running statistics.
        """
        with self._evaluating():
            return self._block_scores(images)

    def _block_scores(self, images: Tensor) -> list[Tensor | None]:
        if self.image_pairs is not None:
            return self._pass_scores(self.image_pairs.neutral(images))
        if self.label_input is None:
            return self._pass_scores(images)
        size = max(1, LABELLED_SAMPLES // self.num_classes)
        groups = [self._label_scores(group) for group in torch.split(images, size)]
        return [_cat(scores) for scores in zip(*groups, strict=True)]

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

    def _label_scores(self, images: Tensor) -> list[Tensor | None]:
        """L × (G, K), every image of (G, C, H, W) tried with every label."""
        assert self.label_input is not None
        first = inferred_stage(self.blocks[0]) if self.reads == "output" else None
        if first is not None and first.norm.separable:
            x, moments = infer_first_block(
                first, self.label_input.base(images), self.label_input.maps(images)
            )
            scores = [self._scores_of(0, x, moments)]
        else:
            labels = torch.arange(self.num_classes, device=images.device).repeat(len(images))
            x = self.labelled(images.repeat_interleave(self.num_classes, dim=0), labels)
            scores = []
        grid = (len(images), self.num_classes)
        if self.shortlist is None:
            return [_view(s, grid) for s in scores + self._pass_scores(x, first=len(scores))]
        x, early = self._run_blocks(x, len(scores), self.shortlist.after + 1)
        scores = [_view(s, grid) for s in scores + early]
        chosen = scores[self.shortlist.after]
        assert chosen is not None
        rows, kept = best_rows(chosen, self.shortlist.labels)
        late = self._pass_scores(x[rows], first=len(scores))
        return scores + [None if s is None else spread_scores(s, kept, self.num_classes) for s in late]

    def _pass_scores(self, x: Tensor, *, first: int = 0) -> list[Tensor | None]:
        """Scores by the blocks from ``first`` on, which receives ``x``."""
        return self._run_blocks(x, first, len(self.blocks))[1]

    def _run_blocks(self, x: Tensor, first: int, end: int) -> tuple[Tensor, list[Tensor | None]]:
        """What block ``end − 1`` makes of block ``first``'s input ``x``, and the scores on the way."""
        scores: list[Tensor | None] = []
        for k in range(first, end):
            x = self.renewed(k, x, len(x), None)
            stage = inferred_stage(self.blocks[k]) if self.reads == "output" else None
            if stage is None:
                seen, x = self.pass_block(k, x)
                scores.append(self._scores_of(k, seen, None))
            else:
                x, moments = infer_block(stage, x)
                scores.append(self._scores_of(k, x, moments))
        return x, scores

    def _scores_of(self, block: int, features: Tensor, moments: Moments | None) -> Tensor | None:
        if block not in self.scored_blocks:
            return None
        head = self.head(block)
        return head.scores(moments if moments is not None and head.reads_moments else features)

    @torch.no_grad()
    def _feature_shapes(self) -> list[FeatureShape]:
        """The shape of what each block's head reads, without the batch, seen by passing one blank image."""
        x = torch.zeros(1, *self.method.input_shape(self.image_shape))
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


def _view(scores: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    return None if scores is None else scores.view(grid)


def _cat(scores: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [s for s in scores if s is not None]
    return torch.cat(given) if given else None


def build_network(
    method: Method,
    network: str = "small",
    *,
    image_shape: ImageShape,
    num_classes: int,
    width: float = 1.0,
    seed: int = 0,
) -> LocalNetwork:
    """Build the network called ``network`` for ``method``, its weights drawn from ``seed``.

    Raises:
        ValueError: unknown network, images too small for it, or as :class:`LocalNetwork`.
    """
    builder = get_network(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        style = method.block_style(num_classes)
        blocks = builder(method.input_shape(image_shape), width=width, style=style)
        return LocalNetwork(blocks, method, image_shape=image_shape, num_classes=num_classes)
