"""Lightning itself, and which of its Trainer's settings a learner can obey."""

import sys
import warnings
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trifecta._utils.extras import require
from trifecta.network import LocalNetwork
from trifecta.readout import CHOSEN

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

PACKAGES = ("lightning.pytorch", "pytorch_lightning")

# Of the Trainer, and of the learner. float16 needs its losses scaled, which the learner does not do.
PRECISIONS = {"32-true": "fp32", "64-true": "fp32", "bf16-mixed": "bf16"}


def _library() -> Any:
    """Import Lightning: the package whose Trainer is in use, as each takes its own modules only."""
    for name in PACKAGES:
        if sys.modules.get(name) is not None:
            return sys.modules[name]
    with suppress(ImportError):
        return import_module(PACKAGES[0])
    return require(PACKAGES[1], install='"trifecta[lightning]"')


LIBRARY = _library()


def check_settings(trainer: "Trainer") -> None:
    """Refuse what a Trainer is asked for and a learner cannot do.

    Raises:
        ValueError: such a setting; says what to do.
    """
    if trainer.gradient_clip_val:
        raise ValueError(
            "every block has gradients of its own, which are not clipped together: received "
            f"gradient_clip_val={trainer.gradient_clip_val}; clip in on_before_optimizer_step, see "
            "docs/lightning.md"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "every block learns from every batch: received "
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}; use larger batches"
        )
    if not isinstance(trainer.strategy, LIBRARY.strategies.SingleDeviceStrategy):
        raise ValueError(
            "training is on one device: received strategy "
            f"{type(trainer.strategy).__name__}; use Trainer(devices=1)"
        )
    if str(trainer.precision) not in PRECISIONS:
        raise ValueError(
            f"a precision is {', '.join(PRECISIONS)}: received '{trainer.precision}'; use bf16-mixed"
        )


def warn_of_what_is_left_out(network: LocalNetwork) -> None:
    """Say what :func:`trifecta.train` does beside the steps, and Lightning does not."""
    method = network.method
    if method.finds_superclasses and not method.superclasses:
        warnings.warn(
            f"method {method.name} finds superclasses only in trifecta.train: here every block learns "
            "classes; give superclasses=… to use them",
            stacklevel=4,
        )
    if method.readout == CHOSEN:
        warnings.warn(
            "a read-out is chosen only in trifecta.train: here all blocks predict; set "
            "network.readout_blocks to choose",
            stacklevel=4,
        )
