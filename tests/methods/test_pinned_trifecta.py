"""The Trifecta against the numbers that its published code computes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pinned import assert_pinned, labels_of, reference, tensor, wrong_labels_of
from steps import step_with
from trifecta import Learner, LocalNetwork, build_network, get_recipe

pytestmark = pytest.mark.usefixtures("window_of_any_size")
WIDTH = 0.125


def published(values: dict[str, Any]) -> LocalNetwork:
    """The recipe's network with an eighth of its channels, and the weights of the file."""
    method = get_recipe("published-trifecta-small-cifar10")().method
    shape = shape_of(values)
    network = build_network(method, "small", sample_shape=shape, num_classes=10, width=WIDTH).double()
    offset = values["settings"]["offset"]
    with torch.no_grad():
        pictures = network.get_parameter("label_input.pictures.weight")
        pictures.copy_(tensor(offset, 10, shape[1] * shape[2]))
        for k in range(6):
            weight = network.get_parameter(f"blocks.{k}.weights.weight")
            scale = (9 * weight.shape[1]) ** -0.5
            weight.copy_(tensor(offset + 1 + k, *weight.shape, scale=scale))
    return network


def shape_of(values: dict[str, Any]) -> tuple[int, ...]:
    """Of an image."""
    return tuple(values["settings"].get("image", (3, 32, 32)))


def batch_of(values: dict[str, Any]) -> int:
    """Images a step."""
    return int(values["settings"].get("batch", 8))


def named(network: LocalNetwork, name: str) -> torch.Tensor:
    """A tensor of the network by the file's name for it."""
    if name == "embedding":
        return network.get_parameter("label_input.pictures.weight")
    block, _, part = name.partition(".")
    where = "weights.weight" if part == "conv" else part.replace("norm.", "normalize.")
    found: torch.Tensor = network.state_dict()[f"blocks.{block}.{where}"]
    return found


@pytest.mark.parametrize(
    ("file", "steps_per_epoch", "table"),
    [
        ("trifecta_small", 12, (60, 4)),
        ("trifecta_small_odd_epoch", 3, (340, 2)),
        # Maps of 28, 14, 7 and 3 positions a side.
        ("trifecta_mnist_small", 3, (460, 4)),
    ],
)
def test_every_step_is_that_of_the_published_code(
    file: str, steps_per_epoch: int, table: tuple[int, int]
) -> None:
    values = reference(file)
    network = published(values)
    learner = Learner(network, steps_per_epoch=steps_per_epoch)
    first_images, size, shape = 20 + values["settings"]["offset"], batch_of(values), shape_of(values)
    for step, losses in enumerate(values["losses"]):
        images = tensor(first_images + step, size, *shape, scale=2)
        wrong = wrong_labels_of(size * step, size)
        received = step_with(learner, images, labels_of(size * step, size), wrong)
        assert [loss is None for loss in received] == [loss is None for loss in losses]
        for loss, expected in zip(received, losses, strict=True):
            if loss is not None:
                assert_pinned(loss, expected)
        for name, expected in values["after_steps"].get(str(step + 1), {}).items():
            assert_pinned(named(network, name), expected)
    number, count = table
    scores = network.eval().block_scores(tensor(number, count, *shape, scale=2))
    goodness = torch.stack([each.T for each in scores if each is not None], dim=1)
    assert_pinned(goodness, values["goodness_eval (label, block, image)"])


def test_a_second_state_for_the_labels_would_be_noticed() -> None:
    """With the optimizer of block 1 moving the label too, the first step is 6e-3 away."""
    values = reference("trifecta_small")
    network = published(values)
    learner = Learner(network)
    learner.optimizers[1].add_param_group({"params": network.label_parameters()})
    size = batch_of(values)
    images, labels = tensor(20, size, 3, 32, 32, scale=2), labels_of(0, size)
    step_with(learner, images, labels, wrong_labels_of(0, size))
    with pytest.raises(AssertionError):
        assert_pinned(named(network, "embedding"), values["after_steps"]["1"]["embedding"])


def test_steps_counted_on_over_epochs_would_be_noticed() -> None:
    method = get_recipe("published-trifecta-small-cifar10")().method
    network = build_network(method, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.03)
    counted_on = build_network(
        replace(method, schedule=replace(method.schedule, restarts=False)),
        "small",
        sample_shape=(1, 8, 8),
        num_classes=3,
        width=0.03,
    )
    closing = []
    for each in (network, counted_on):
        learner = Learner(each, steps_per_epoch=3)
        step = [learner.step(torch.randn(4, 1, 8, 8), torch.arange(4) % 3) for _ in range(5)]
        closing.append([[k for k, loss in enumerate(losses) if loss is not None] for losses in step])
    assert closing[0] == [[1, 3, 5], [0, 2, 4], [1, 3, 5], [1, 3, 5], [0, 2, 4]]
    assert closing[1] == [[1, 3, 5], [0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5]]
