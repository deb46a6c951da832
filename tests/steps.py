"""A step of a learner whose wrong labels are given, not drawn."""

import torch
from torch import Tensor

from trifecta import Learner


def step_with(learner: Learner, images: Tensor, labels: Tensor, wrong: Tensor) -> list[Tensor | None]:
    """Learn from a batch, (B, …), (B,), whose negatives carry the labels ``wrong`` (B,)."""
    network = learner.network.train()
    x = network.labelled(torch.cat([images, images]), torch.cat([labels, wrong]))
    step = learner._new_step(x, labels, None)
    while not step.is_done:
        learner.learn(step)
    return step.losses
