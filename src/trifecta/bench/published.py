"""The published update rule as people run it today: the plain reference of the benchmarks.

Eager float32 in PyTorch's default layout, every block an ``nn.Sequential``, one Adam per block which also
owns the block before (but not the label's pictures, which are block 0's alone), prediction by a full pass
per label. Source: Dooms et al. 2023 and their published code; without its augmentation and its float16,
which the CPU has not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trifecta.inputs.label_inputs import wrong_labels
from trifecta.network import LocalNetwork


class PublishedRule:
    """Trains the blocks of ``network`` by the published rule."""

    def __init__(self, network: LocalNetwork) -> None:
        self.network = network
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
        blocks = network.blocks
        self.optimizers = [
            torch.optim.Adam([p for block in blocks[max(0, k - 1) : k + 1] for p in block.parameters()])
            for k in range(len(blocks))
        ]
        assert network.label_input is not None
        self.optimizers[0].add_param_group({"params": list(network.label_input.parameters())})
        self.steps = 0

    def start_epoch(self) -> None:
        """Count steps from 0 again, as every epoch does."""
        self.steps = 0

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One batch (B, C, H, W), (B,)."""
        self.network.train()
        wrong = wrong_labels(labels, self.network.num_classes)
        x = self.network.labelled(torch.cat([images, images]), torch.cat([labels, wrong]))
        for k, block in enumerate(self.network.blocks):
            x = block(x)
            if (k % 2 == 0) == (self.steps % 2 == 0):
                continue
            positive, negative = x.square().flatten(1).mean(1).chunk(2)
            loss = F.softplus(-4 * (positive - negative)).mean()
            self.optimizers[k].zero_grad()
            torch.autograd.backward(loss)
            self.optimizers[k].step()
            x = x.detach()
        self.steps += 1

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Goodness of the last block for every label, (B, C, H, W) → (B, K)."""
        self.network.eval()
        scores = []
        for label in range(self.network.num_classes):
            x = self.network.labelled(images, torch.full((len(images),), label, device=images.device))
            for block in self.network.blocks:
                x = block(x)
            scores.append(x.square().flatten(1).mean(1))
        return torch.stack(scores, dim=1)
