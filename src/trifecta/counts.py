"""Parameters, and multiply-adds of a training step, counted while a copy of a network takes steps."""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from trifecta.learner import Learner, training_input
from trifecta.network import LocalNetwork

# Three batch sizes decide a polynomial of degree 2; one image alone has no batch statistics.
_SIZES = (2, 3, 4)


class WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ``multiply_adds`` that PyTorch computes within it, by the formulas of ``FlopCounterMode``.

    That class also follows modules, which fails for one that is called without a graph on a view of a
    tensor with one.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, and add its work."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "overloadpacket", func))
        if formula is not None:
            # A multiply-add is two operations there.
            self.multiply_adds += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def trial_batch(network: LocalNetwork, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return made-up samples and labels for ``network``, on its device, the same every time."""
    labels = torch.arange(batch_size) % network.num_classes
    labels = labels.view(-1, *[1] * len(network.label_shape)).expand(-1, *network.label_shape)
    shape = (batch_size, *network.sample_shape)
    if network.integer:
        samples = torch.zeros(shape, dtype=torch.int64)
    else:
        samples = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(network.dtype)
    return samples.to(network.device), labels.to(network.device)


def counts(network: LocalNetwork, *, batch_size: int, total_steps: int | None = None) -> dict[str, Any]:
    """Return ``parameters``, ``block_parameters`` and ``multiply_adds_per_image`` of ``result.json``.

    Parameters of blocks are those of the label input, too: all but the heads'.
    """
    in_heads = sum(p.numel() for k in network.scored_blocks for p in network.head(k).parameters())
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "parameters": parameters,
        "block_parameters": parameters - in_heads,
        "multiply_adds_per_image": step_multiply_adds(
            network, batch_size=batch_size, total_steps=total_steps, kernels=True
        ),
    }


def block_costs(network: LocalNetwork) -> list[float]:
    """Count three times the multiply-adds of each block's and head's forward pass for one image.

    An estimate of a forward and a backward pass for a plan of stages.
    """
    samples, labels = trial_batch(network, _SIZES[0])
    costs = []
    with torch.no_grad():
        copied = copy.deepcopy(network).eval()
        x = training_input(copied, samples, labels, torch.Generator(samples.device))
        for k in range(len(copied.blocks)):
            with WorkCounter() as counter:
                seen, x = copied.pass_block(k, x)
                if k in copied.scored_blocks:
                    copied.head(k).scores(seen)
            costs.append(3 * counter.multiply_adds / len(labels))
    return costs


def step_multiply_adds(
    network: LocalNetwork, *, batch_size: int, total_steps: int | None = None, kernels: bool = False
) -> float:
    """Count the multiply-adds of a training step for one image, averaged over the schedule's cycle.

    All that the learner does counts, also predictions for negatives or feedback, and Muon's products. A
    step's work is a polynomial of the batch size of degree 2 (products of a batch with itself), so steps of
    three small batches tell that of any size exactly; except that the label pictures of hard negatives,
    which a large batch needs once every few images, count once.

    Args:
        network: left as it is.
        batch_size: number of images in a step of the run.
        total_steps: length of the run; without it no block freezes.
        kernels: whether windows run by kernels if their blocks allow it, in which the gain of a norm at a
            window's input needs no gradient under it: a third of a strict block's products.
    """
    copied = copy.deepcopy(network)
    generator = torch.Generator(network.device)

    def work(size: int, step: int) -> int:
        generator.manual_seed(0)
        learner = Learner(copied, generator=generator, total_steps=total_steps, kernels=kernels)
        learner.steps = step
        batch, counter = trial_batch(copied, size), WorkCounter()
        with counter:
            learner.step(*batch)
        return counter.multiply_adds

    steps = _kinds_of_steps(network, total_steps)
    two, three, four = (sum(count * work(size, step) for step, count in steps.items()) for size in _SIZES)
    # Newton's forward differences, in whole numbers.
    extra = batch_size - _SIZES[0]
    whole = two + extra * (three - two) + extra * (extra - 1) // 2 * (four - 2 * three + two)
    return whole / (batch_size * sum(steps.values()))


def _kinds_of_steps(network: LocalNetwork, total_steps: int | None) -> dict[int, int]:
    """Return a step of every kind that the run has, and how many of these there are.

    A step's work follows from its place in the schedule's cycle and from which blocks are frozen.
    """
    method, num_blocks = network.method, len(network.blocks)
    cycle = method.schedule.cycle
    if total_steps is None or method.optimizer.freeze_from == 1:
        return Counter(range(cycle))
    kinds: dict[tuple[int, int], int] = {}
    numbers: Counter[int] = Counter()
    for step in range(total_steps):
        frozen = method.optimizer.frozen_blocks(step / total_steps, num_blocks)
        numbers[kinds.setdefault((step % cycle, frozen), step)] += 1
    return numbers
