"""A Vision Transformer of your own on CIFAR-10; each block has a loss of its own.

python examples/vit.py --data cifar10 --method superfecta --epochs 10
"""

import argparse

import torch
from torch import Tensor, nn

from trifecta import Augmentation, DataConfig, Run, RunConfig, from_module, get_method, load_data, train


class Block(nn.Module):
    """Attention and a perceptron, each after a layer normalisation, with a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) → (N, T, width)."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """Patches of an image (N, C, size, size) as tokens, ``depth`` blocks, a classifier."""

    def __init__(
        self, channels: int, size: int, classes: int, *, patch: int = 4, width: int = 96, depth: int = 6
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) / 50)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(depth))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, size, size) → (N, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.classifier(self.norm(x).mean(1))
        return scores


def run(
    *, data: str, method: str, epochs: int, width: int = 96, depth: int = 6, patch: int = 4, seed: int = 0
) -> Run:
    """Train the blocks of a fresh transformer."""
    images = load_data(DataConfig(source=data))
    channels, size, _ = images.sample_shape
    torch.manual_seed(seed)
    model = ViT(channels, size, images.num_classes, patch=patch, width=width, depth=depth)
    config = RunConfig(
        method=get_method(method),
        epochs=epochs,
        seed=seed,
        augmentation=Augmentation(crop_padding=size // 8, flip=data == "cifar10"),
    )
    return train(config, data=images, network=from_module(model))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--method", default="superfecta")
    parser.add_argument("--epochs", type=int, default=10)
    print(f"test accuracy {run(**vars(parser.parse_args())).test_accuracy:.2%}")
