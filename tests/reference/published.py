"""The published Trifecta update rule, written out slowly, with no code of the library.

Float64 tensors, explicit batch statistics, explicit Adam, one block after the other. A block's
optimizer owns the weights of its own block and of the block before: every weight outside the last block
has two Adam states. The label's pictures have one, in the optimizer of block 0: what block 1's loss would
have of them is thrown away. Block l closes a window when (l even) XOR (t even), t counted within the epoch;
its loss then moves its own weights and, when the block before did not close, that block's too.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, LEARNING_RATE, BETA1, BETA2, EPSILON, NORM_EPSILON = 4.0, 1e-3, 0.9, 0.999, 1e-8, 1e-5


@dataclass
class AdamState:
    """First and second moments of one weight, for one objective."""

    first: Tensor
    second: Tensor
    steps: int = 0

    def update(self, weight: Tensor, gradient: Tensor) -> None:
        self.steps += 1
        self.first = BETA1 * self.first + (1 - BETA1) * gradient
        self.second = BETA2 * self.second + (1 - BETA2) * gradient**2
        first = self.first / (1 - BETA1**self.steps)
        second = self.second / (1 - BETA2**self.steps)
        weight.data -= LEARNING_RATE * first / (second.sqrt() + EPSILON)


@dataclass
class ReferenceBlock:
    """Batch norm scale and shift, convolution, whether it pools, and this block's optimizer."""

    scale: Tensor
    shift: Tensor
    kernel: Tensor
    pool: bool
    label_pictures: Tensor | None = None  # learned with the first block only
    states: dict[int, AdamState] = field(default_factory=dict)

    def weights(self) -> list[Tensor]:
        return [self.scale, self.shift, self.kernel]

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        x = (x - mean) / (variance + NORM_EPSILON).sqrt()
        x = x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)
        x = F.conv2d(x, self.kernel, padding=1).clamp(min=0)
        return F.max_pool2d(x, 2) if self.pool else x

    def adam(self, weight: Tensor, gradient: Tensor) -> None:
        state = self.states.setdefault(
            id(weight), AdamState(torch.zeros_like(weight), torch.zeros_like(weight))
        )
        state.update(weight, gradient)


def closes(block: int, step: int) -> bool:
    return (block % 2 == 0) != (step % 2 == 0)


def train_step(
    blocks: list[ReferenceBlock], step: int, images: Tensor, labels: Tensor, wrong: Tensor
) -> dict[int, float]:
    """One batch; the loss of every block that closed a window."""
    pictures = blocks[0].label_pictures
    assert pictures is not None
    height, width = images.shape[2:]
    halves = [
        torch.cat([images, pictures[which].view(-1, 1, height, width)], dim=1) for which in (labels, wrong)
    ]
    x = torch.cat(halves)
    losses: dict[int, float] = {}
    for k, block in enumerate(blocks):
        x = block.forward(x)
        if not closes(k, step):
            continue
        goodness = torch.stack([sample.pow(2).mean() for sample in x])
        difference = goodness[: len(labels)] - goodness[len(labels) :]
        loss = F.softplus(-ALPHA * difference).mean()
        trained = [*block.weights()]
        if block.label_pictures is not None:
            trained.append(block.label_pictures)
        if k > 0 and not closes(k - 1, step):
            trained += blocks[k - 1].weights()
        for weight, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            block.adam(weight, gradient)
        losses[k] = loss.item()
        x = x.detach()
    return losses
