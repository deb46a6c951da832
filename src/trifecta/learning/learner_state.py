"""What a learner's next step depends on, beside the network's weights: to keep, and to restore."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trifecta._utils.precision import kept_precision
from trifecta.learning.saved_optimizer import load_optimizer, whole_number

if TYPE_CHECKING:
    from trifecta.learning.learner import Learner


def state_of(learner: "Learner") -> dict[str, Any]:
    """Return the state of ``learner`` as plain values and tensors."""
    generator = learner.generator
    return {
        "steps": learner.steps,
        "skipped": sorted(learner.skipped),
        "optimizers": {k: o.state_dict() for k, o in learner.optimizers.items()},
        "generator": None if generator is None else generator.get_state(),
        "device": learner.device.type,
        "precision": learner.precision,
    }


def restore(learner: "Learner", state: Mapping[str, Any]) -> None:
    """Set ``learner`` to what :func:`state_of` returned; on a device of another kind with a warning."""
    learner.steps = whole_number(state["steps"])
    learner.skipped = {whole_number(step) for step in state["skipped"]}
    learner.precision = kept_precision(learner.asked_precision, state["precision"], learner.device)
    if "optimizers" in state:
        places: dict[int, str] = {}
        for owner, optimizer in learner.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][owner], places)
    if learner.generator is None or state["generator"] is None:
        return
    if state["device"] == learner.device.type:
        learner.generator.set_state(state["generator"].cpu())
    else:
        warnings.warn(
            f"random numbers of {state['device']} do not continue on {learner.device.type}: the run goes "
            "on, with other wrong labels and augmentation than it would have had",
            stacklevel=3,
        )
