"""The temperature of a trained run's read-out, from scores of samples that the scoring network never saw.

Shapes: N samples, K classes.
"""

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from trifecta.calibration import fit_temperature
from trifecta.data import ImageSet, LoaderBatches
from trifecta.data.images import hold_out
from trifecta.parallel.processes import Alone
from trifecta.readout import fuse
from trifecta.training.config import GIVEN
from trifecta.training.meter import DivergenceError
from trifecta.training.trainer import Callback, Trainer

# The share of training images that another network is trained without, where there are so many of them.
HELD_OUT, MOST_TO_REPEAT, LEAST_TO_REPEAT = 0.2, 10_000, 20
# Of a training set, enough for one number.
MOST_SCORED = 5_000

Scored = tuple[Tensor, Tensor]


def calibrate(trainer: Trainer, *, repeat_up_to: int = MOST_TO_REPEAT) -> str:
    """Fit the temperature of the network that ``trainer`` trained; return what it was fitted on.

    ``validation`` images where there are some. Else a ``fold``: a fifth of the training images, stratified,
    scored by a network that the same run trained on the rest. The temperature is at least that of the
    network's scores of its own training images. Where there are too many images for that, too few, or none
    that another network could be trained on, it is that of the ``training`` images, which the network knows
    too well.

    Args:
        trainer: at the end of its run.
        repeat_up_to: so many training images; 0 where the run began with trained weights.
    """
    data, network = trainer.data, trainer.network
    network.temperature.fill_(1)
    if data.validation is not None:
        found, source = fit_temperature(*_scored(trainer, data.validation)), "validation"
    else:
        known = _scored(trainer, _some_training_images(trainer))
        found, source = fit_temperature(*known), "training"
        can_repeat = LEAST_TO_REPEAT <= len(data.train) <= repeat_up_to
        fold = _scored_by_twin(trainer) if can_repeat else None
        if fold is not None:
            found, source = max(found, fit_temperature(*fold)), "fold"
    network.temperature.fill_(trainer.processes.agreed(found))
    return source


def _scored(trainer: Trainer, images: ImageSet) -> Scored:
    """Return the read-out's scores of images, and their labels."""
    scores = fuse(trainer.scores(images), trainer.network.readout_blocks)
    return scores, images.labels.to(scores.device)


def _some_training_images(trainer: Trainer) -> ImageSet:
    data = trainer.data
    if data.loader is None:
        count = len(data.train)
        step = -(-count // MOST_SCORED)
        return data.train.select(torch.arange(0, count, step, device=data.train.labels.device))
    batches = trainer.batches
    assert isinstance(batches, LoaderBatches)
    enough = -(-MOST_SCORED // max(1, batches.images_per_epoch // batches.steps_per_epoch))
    images, labels = zip(*islice(batches.epoch(0), enough), strict=True)
    return ImageSet(torch.cat(images), torch.cat(labels))


def _scored_by_twin(trainer: Trainer) -> Scored | None:
    """Return scores of a share of the training images by a network that the run trained on the rest.

    None where no other network can be trained, none can be held out, or training diverges.
    """
    config = trainer.config
    is_alone = type(trainer.processes) is Alone
    if not is_alone or config.network == GIVEN or trainer.data.loader is not None:
        return None
    try:
        own, others = hold_out(trainer.data.train, HELD_OUT)
    except ValueError:  # no class has two images
        return None
    config = replace(
        config,
        batch_size=min(config.batch_size, len(own)),
        precision=trainer.learner.precision,
        epochs=len(trainer.history),
        compiled=False,
    )
    data = replace(trainer.data, train=own, validation=None, test=others)
    twin = Trainer(config, data=data, callbacks=[_StopsWith(trainer)])
    try:
        twin.fit()
    except DivergenceError:
        return None
    twin.network.readout_blocks = trainer.network.readout_blocks
    return _scored(twin, others)


class _StopsWith(Callback):
    """Stops a twin when somebody asks the run itself to stop."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step_end(self, trainer: Trainer) -> None:
        """Pass the wish on."""
        trainer.stop_requested = self.trainer.stop_requested
