"""What every block of a network costs on this machine, for the simulator of layouts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from simulation import BlockTimes
from trifecta._utils.devices import autocast, in_memory_format, synchronize
from trifecta.bench import Setting
from trifecta.learner import Learner, training_input
from trifecta.method import Method
from trifecta.network import LocalNetwork
from trifecta.schedules import LAYER_WISE

_WARM_UP, _ROUNDS = 2, 7


def block_times(setting: Setting, method: Method, *, pieces: int = 1) -> list[BlockTimes]:
    """Measure every block, on one thread: medians over seven rounds.

    Args:
        setting: network, batch, precision.
        method: whose local losses are those of single blocks here, whatever its schedule.
        pieces: in which a batch is computed, one after another: a micro-batch takes more time an image.

    Raises:
        ValueError: a batch that cannot be cut into equal pieces.
    """
    if setting.batch_size % pieces:
        raise ValueError(
            f"a batch is cut into equal pieces: received {setting.batch_size} images for {pieces}; use "
            f"{max(1, setting.batch_size // pieces) * pieces}"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        piece = replace(setting, batch_size=setting.batch_size // pieces)
        local = _local_and_update(piece, replace(method, schedule=LAYER_WISE))
        both = _both_passes(piece, method)
    finally:
        torch.set_num_threads(threads)
    return [
        BlockTimes(
            forward=forward * pieces,
            backward=backward * pieces,
            local=learning * pieces,
            update=update,
            sends=sends * pieces,
            gradients=gradients,
        )
        for (learning, update), (forward, backward, sends, gradients) in zip(local, both, strict=True)
    ]


def _local_and_update(setting: Setting, method: Method) -> list[tuple[float, float]]:
    """Seconds in which each block learns by itself but for its update, and those of the update."""
    updates: list[float] = []
    learner = Learner(
        setting.build(method),
        generator=torch.Generator(setting.torch_device).manual_seed(0),
        precision=setting.resolved_precision,
        step_optimizer=lambda optimizer: updates.append(_timed(setting, optimizer.step)),
    )
    images, labels = setting.batch()

    def turn() -> list[float]:
        step, seconds = learner.begin(images, labels), []
        while not step.is_done:
            updates.clear()
            whole = _timed(setting, lambda: learner.learn(step))
            seconds += [whole - sum(updates), sum(updates)]
        return seconds

    medians = _medians(turn)
    return list(zip(medians[::2], medians[1::2], strict=True))


def _both_passes(setting: Setting, method: Method) -> list[tuple[float, float, float, float]]:
    """Seconds of each block's forward and backward pass; bytes that it passes on, and of its gradients."""
    network = setting.build(method)
    network.train()
    images, labels = setting.batch()
    inputs: list[Tensor] = []
    sizes: list[tuple[float, float]] = []
    device = setting.torch_device
    with torch.no_grad(), autocast(setting.resolved_precision, device):
        x = in_memory_format(
            training_input(network, images, labels, torch.Generator(device).manual_seed(0))
        )
        for k in range(len(network.blocks)):
            inputs.append(x)
            _, x = network.pass_block(k, x)
            gradients = sum(p.numel() * p.element_size() for p in network.own_parameters(k))
            sizes.append((x.numel() * x.element_size(), gradients))
    passes = []
    for k, x in enumerate(inputs):
        forward, backward = _medians(lambda k=k, x=x: _pass(setting, network, k, x))  # type: ignore[misc]
        passes.append((forward, backward, *sizes[k]))
    return passes


def _pass(setting: Setting, network: LocalNetwork, block: int, x: Tensor) -> list[float]:
    """Seconds of a block's forward pass, and of its backward pass to the gradient of its input."""
    received = x.detach().requires_grad_(block > 0)
    outputs: list[Tensor] = []

    def forward() -> None:
        with autocast(setting.resolved_precision, setting.torch_device):
            outputs.append(network.pass_block(block, received)[1])

    first = _timed(setting, forward)
    gradient = torch.ones_like(outputs[0])
    second = _timed(setting, lambda: torch.autograd.backward(outputs[0], gradient))
    network.zero_grad(set_to_none=True)
    return [first, second]


def _timed(setting: Setting, work: Callable[[], object]) -> float:
    synchronize(setting.torch_device)
    began = time.perf_counter()
    work()
    synchronize(setting.torch_device)
    return time.perf_counter() - began


def _medians(turn: Callable[[], list[float]]) -> list[float]:
    """Medians of what ``turn`` returns, over its rounds."""
    turns = [turn() for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]
    return [statistics.median(values) for values in zip(*turns, strict=True)]
