"""Networks as users bring them: nothing in them knows this library."""

import torch
from torch import Tensor, nn

CLASSES = 4


class Attention(nn.Module):
    """A transformer block, layer normalisation first; returns its attention too where it is asked for."""

    def __init__(self, width: int, *, returns_weights: bool = False) -> None:
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.returns_weights = returns_weights

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        y = self.norm(x)
        seen, weights = self.attention(y, y, y, attn_mask=mask)
        x = x + seen
        x = x + self.mlp(self.second_norm(x))
        return (x, weights) if self.returns_weights else x


class ViT(nn.Module):
    """Patches, a class token, positions, blocks, a classifier."""

    def __init__(
        self, *, size: int = 8, width: int = 12, depth: int = 2, has_class_token: bool = True
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_class_token else None
        tokens = (size // 4) ** 2 + has_class_token
        self.positions = nn.Parameter(torch.randn(1, tokens, width) / 10)
        self.blocks = nn.ModuleList([Attention(width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(images), -1, -1), x], dim=1)
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x)[:, 0])
        return scores


class GPT(nn.Module):
    """Token and position embeddings, causal blocks that return a tuple, a head over the vocabulary."""

    def __init__(self, *, vocabulary: int = 10, tokens: int = 6, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList([Attention(width, returns_weights=True) for _ in range(depth)])
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        _, count = ids.size()
        assert count <= self.tokens
        x = self.embedding(ids) + self.positions(torch.arange(count, device=ids.device))
        mask = torch.triu(torch.ones(count, count, dtype=torch.bool, device=ids.device), 1)
        for block in self.blocks:
            x, _ = block(x, mask)
        scores: Tensor = self.head(x)
        return scores


class Skips(nn.Module):
    """An early output is read again by the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 12))

    def forward(self, images: Tensor) -> Tensor:
        early = self.first(images)
        late = torch.relu(self.second(torch.relu(early)))
        maps: Tensor = self.third(torch.cat([early, late], dim=1))
        return maps


def volumes() -> nn.Sequential:
    """Convolutions in 3 dimensions."""
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, 3, padding=1), nn.ReLU()
    )


def signals() -> nn.Sequential:
    """Convolutions in 1 dimension."""
    return nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(6, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
    )


def columns() -> nn.Sequential:
    """A perceptron on a table."""
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
