"""The temperature of a trained run's read-out, from scores of samples that the scoring network never saw.

Shapes: N samples, K classes.
"""

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from trifecta.calibration import fit_temperature
from trifecta.data import ImageSet, LoaderBatches
from trifecta.data.splits import stratified_split
from trifecta.distributed.processes import Alone
from trifecta.readout import fuse
from trifecta.training.callbacks import Callback
from trifecta.training.config import GIVEN
from trifecta.training.meter import DivergenceError
from trifecta.training.trainer import Trainer

# Up to so many training images a run is repeated on their halves; below the least a half says too little.
MOST_FOR_HALVES, LEAST_FOR_HALVES = 10_000, 20
# Of a training set, enough for one number.
MOST_SCORED = 5_000

Scored = tuple[Tensor, Tensor]


def calibrate(trainer: Trainer, *, halves_up_to: int = MOST_FOR_HALVES) -> str:
    """Fit the temperature of the network that ``trainer`` trained; return what it was fitted on.

    ``validation`` images where there are some. Else ``halves``: each half of the training images, scored by
    a network that the same run trained on the other half. The two networks together take as many steps as
    the run. Each one's scores are scaled by how far the run's own network spreads its scores of its
    training images, and that one of its half, as half of the steps makes smaller scores. The temperature is
    at least that of the network's scores of its own training images. Where there are too many images for
    that, too few, or none that another network could be trained on, it is that of the ``training`` images,
    which the network knows too well.

    Args:
        trainer: at the end of its run.
        halves_up_to: so many training images; 0 where the run began with trained weights.
    """
    data, network = trainer.data, trainer.network
    network.temperature.fill_(1)
    if data.validation is not None:
        found, source = fit_temperature(*_scored(trainer, data.validation)), "validation"
    else:
        known = _scored(trainer, _some_training_images(trainer))
        found, source = fit_temperature(*known), "training"
        can_repeat = LEAST_FOR_HALVES <= len(data.train) <= halves_up_to
        halves = _scored_halves(trainer, _spread(known[0])) if can_repeat else None
        if halves is not None:
            found, source = max(found, fit_temperature(*halves)), "halves"
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


def _spread(scores: Tensor) -> float:
    """Return the root mean square of scores (N, K, …) less each sample's mean, of labels that have one."""
    kept = scores.isfinite()
    wide = scores.double().where(kept, 0)
    centred = (wide - wide.sum(1, keepdim=True) / kept.sum(1, keepdim=True)).where(kept, 0)
    return (centred.square().sum() / kept.sum()).sqrt().item()


def _scored_halves(trainer: Trainer, spread: float) -> Scored | None:
    """Return the scores of all training images, each by a network trained on the other half.

    Scaled as if every network's scores of the images that it was trained on had this ``spread``. None where
    no other network can be trained, or one does not train.
    """
    train, config = trainer.data.train, trainer.config
    is_alone = type(trainer.processes) is Alone
    if not is_alone or config.network == GIVEN or trainer.data.loader is not None:
        return None
    parts = []
    try:
        for own, others in _halves(train.labels):
            parts.append(_scored_by_twin(trainer, train.select(own), train.select(others), spread))
    except DivergenceError:
        return None
    scores, labels = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(labels)


def _halves(labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return, twice, the indices to train on and those to score; a class's only sample is trained on.

    Where every position has a label, the halves are the first samples and the last ones.
    """
    if labels.ndim > 1:
        first, second = torch.arange(len(labels)).chunk(2)
        return [(first, second), (second, first)]
    own, others = (indices.to(labels.device) for indices in stratified_split(labels, 0.5))
    alone = own[~torch.isin(labels[own], labels[others])]
    return [(own, others), (torch.cat([others, alone]), own[torch.isin(labels[own], labels[others])])]


def _scored_by_twin(trainer: Trainer, own: ImageSet, others: ImageSet, spread: float) -> Scored:
    """Train another network as ``trainer`` did, on ``own``, and score ``others``, scaled."""
    config = replace(
        trainer.config,
        batch_size=min(trainer.config.batch_size, len(own)),
        precision=trainer.learner.precision,
        epochs=len(trainer.history),
        compiled=False,
    )
    data = replace(trainer.data, train=own, validation=None, test=others)
    twin = Trainer(config, data=data, callbacks=[_StopsWith(trainer)])
    twin.fit()
    twin.network.readout_blocks = trainer.network.readout_blocks
    (scores, labels), own_spread = _scored(twin, others), _spread(_scored(twin, own)[0])
    return (scores * (spread / own_spread) if own_spread else scores), labels


class _StopsWith(Callback):
    """Stops a twin when somebody asks the run itself to stop."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step_end(self, trainer: Trainer) -> None:
        """Pass the wish on."""
        trainer.stop_requested = self.trainer.stop_requested
