"""The Trifecta as its published code trains it. Source: Dooms et al. 2023, arXiv 2311.18130."""

from dataclasses import replace

from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.methods import Method, trifecta
from trifecta.optimizers import OptimizerConfig
from trifecta.training.config import RunConfig


def published_trifecta() -> Method:
    """The method with every choice of the published code: two Adam states, idle last block, no decay."""
    method = trifecta()
    return replace(
        method,
        schedule=replace(method.schedule, close_last=False),
        optimizer=OptimizerConfig(learning_rate=1e-3, decay="constant", ownership="objective"),
    )


def paper() -> RunConfig:
    """The Trifecta as published: small on CIFAR-10, batch 512, 100 epochs, crop and rotation."""
    return RunConfig(
        recipe="paper",
        data=DataConfig(source="uoft-cs/cifar10", validation=0.0),
        method=published_trifecta(),
        network="small",
        epochs=100,
        batch_size=512,
        augmentation=AUGMENTATIONS["crop-rotate"],
    )
