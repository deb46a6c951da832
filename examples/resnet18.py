"""ResNet-18 at 224×224, in the memory of one block at a time.

python examples/resnet18.py --method superfecta --batch-size 32

The definition is that of He et al. 2016 (arXiv 1512.03385) with torchvision's names: its ``resnet18()`` is
cut by the same line.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from trifecta import Learner, LocalNetwork, from_module, get_method


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(planes), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or inplanes != planes:
            shortcut = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, planes, H/stride, W/stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out + shortcut)
        return y


class ResNet(nn.Module):
    """ResNet-18: images (N, 3, H, W) → scores (N, classes)."""

    def __init__(self, num_classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = self._stage(width)
        self.layer3 = self._stage(2 * width)
        self.layer4 = self._stage(4 * width)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, num_classes)

    @staticmethod
    def _stage(planes: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(planes, 2 * planes, 2), BasicBlock(2 * planes, 2 * planes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        scores: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return scores


def network(method: str, *, size: int = 224, num_classes: int = 1000, width: int = 64) -> LocalNetwork:
    """Cut ResNet-18 behind ``conv1`` and its blocks, for a method."""
    model = ResNet(num_classes, width)
    cut = ["maxpool", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))]
    return LocalNetwork(
        from_module(model, cut), get_method(method), sample_shape=(3, size, size), num_classes=num_classes
    )


def peak_resident() -> int:
    """Return the most memory that this program has held so far, as Linux counts it."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def peak_bytes(method: str, *, batch_size: int, size: int = 224, width: int = 64, steps: int = 2) -> int:
    """Train on noise for a few steps; return by how many bytes the process grew at most."""
    learner = Learner(network(method, size=size, width=width), generator=torch.Generator().manual_seed(0))
    images = torch.randn(batch_size, 3, size, size)
    labels = torch.randint(learner.network.num_classes, (batch_size,))
    before = peak_resident()
    for _ in range(steps):
        learner.step(images, labels)
    return peak_resident() - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="superfecta")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    taken = peak_bytes(options.method, batch_size=options.batch_size)
    if options.json:
        print(json.dumps({"batch_size": options.batch_size, "peak_bytes": taken}))
    else:
        print(f"{options.method}: training takes {taken / 2**20:,.0f} MiB besides weights and images")
