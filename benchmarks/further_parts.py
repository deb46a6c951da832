"""Parts that the search on the fast trunk tried and that are not in the library."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifecta import Learner
from trifecta.losses.head import Term
from trifecta.training import Trainer
from trifecta.training.trainer import Callback


class Reconstruction(nn.Module):
    """Mean square error of the batch's images, decoded from a block's output (B, C, H, W).

    Bilinear interpolation to the image's size, then two convolutions. Source: the reconstruction of InfoPro
    (Wang et al. 2021, arXiv 2101.10832), whose decoder is this one.
    """

    # Of the step under way: a term receives features and labels only.
    images: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 3, 3, padding=1),
        )

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) → ()."""
        images = Reconstruction.images
        resized = F.interpolate(features, size=images.shape[2:], mode="bilinear", align_corners=True)
        return F.mse_loss(self.decoder(resized).float(), images)


@dataclass(frozen=True, kw_only=True)
class Reconstructed(Term):
    """Declares :class:`Reconstruction`."""

    weight: float = 1.0

    def module(self, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Build it for a block's output (N, *feature_shape)."""
        return Reconstruction(feature_shape[0])


class RememberImages(Callback):
    """Lets :class:`Reconstruction` see the images of the step under way."""

    def on_train_begin(self, trainer: Trainer) -> None:
        """Note the images before every step."""
        learner, step = trainer.learner, trainer.learner.step

        def noting(images: Tensor, labels: Tensor) -> Any:
            Reconstruction.images = images
            return step(images, labels)

        learner.step = noting  # type: ignore[method-assign]


class Lookahead(Callback):
    """Averages weights over steps, and goes on from the average every fifth step.

    ``average ← lerp(average, weights, 1 − d)`` with ``d = 0.95⁵ · progress³``, 1 at the end. Source: the
    published code of *airbench94* (Jordan 2024, arXiv 2404.00498).
    """

    EVERY, DECAY = 5, 0.95

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begin with the weights as they are."""
        self.average = {name: value.clone() for name, value in _averaged(trainer).items()}

    @torch.no_grad()
    def on_step_end(self, trainer: Trainer) -> None:
        """Move the average on, and the weights to it."""
        learner: Learner = trainer.learner
        assert learner.total_steps is not None
        if learner.steps % self.EVERY and learner.steps != learner.total_steps:
            return
        progress = learner.steps / learner.total_steps
        decay = 1.0 if progress == 1 else self.DECAY**self.EVERY * progress**3
        for name, value in _averaged(trainer).items():
            average = self.average[name]
            average.lerp_(value, 1 - decay)
            value.copy_(average)


def _averaged(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: value for name, value in trainer.network.state_dict().items() if value.is_floating_point()
    }
