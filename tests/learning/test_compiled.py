"""Compiled blocks learn what plain ones learn, and every block is compiled."""

import copy

import pytest
import torch
from torch import nn

from trifecta import Learner, LocalNetwork, build_network, get_method
from trifecta.nn import BlockStyle, SampleShape, conv_block
from trifecta.nn.blocks import PLAIN
from trifecta.nn.networks import NetworkBuilder

# PyTorch looks at it while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def two(input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = PLAIN) -> nn.Sequential:
    """Two blocks, of which the first halves the image."""
    return nn.Sequential(
        conv_block(input_shape, 4, style, pool=True, first=True), conv_block((4, 8, 8), 4, style)
    )


def trained(network: LocalNetwork, *, steps: int = 2) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Losses and weights after some steps, in which windows alternate."""
    draw = torch.Generator().manual_seed(0)
    learner = Learner(network, generator=torch.Generator().manual_seed(1), kernels=False)
    losses = []
    for _ in range(steps):
        images = torch.randn(6, 3, 16, 16, generator=draw, dtype=torch.float64)
        labels = torch.randint(4, (6,), generator=draw)
        losses.append([float(loss) for loss in learner.step(images, labels) if loss is not None])
    return losses, network.state_dict()


@pytest.mark.parametrize(
    ("method", "network"), [("superfecta", two), pytest.param("trifecta", "large", marks=pytest.mark.slow)]
)
def test_compiled_blocks_learn_what_plain_ones_do(method: str, network: str | NetworkBuilder) -> None:
    plain = build_network(
        get_method(method), network, sample_shape=(3, 16, 16), num_classes=4, width=0.07
    ).double()
    compiled = copy.deepcopy(plain)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled.compile(backend="aot_eager", dynamic=False)
    wanted, weights = trained(plain)
    losses, found = trained(copy.deepcopy(compiled))
    for one, other in zip(losses, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-10)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-8, atol=1e-10)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= len(plain.blocks)
    assert not counters["graph_break"]
    assert not counters["unimplemented"]
    # A copy learns by its own weights and leaves the original's alone.
    fresh = dict(compiled.named_parameters())
    assert any(not torch.equal(fresh[n], p) for n, p in weights.items() if n in fresh)


def test_a_compiled_network_predicts_by_its_plain_blocks() -> None:
    network = build_network(get_method("superfecta"), two, sample_shape=(3, 16, 16), num_classes=4)
    images = torch.randn(3, 3, 16, 16)
    wanted = network.eval()(images)

    def refuse(*arguments: object) -> object:
        raise AssertionError("compiled")

    network.compile(backend=refuse)
    assert torch.equal(network(images), wanted)
    with pytest.raises(Exception, match="compiled"):
        Learner(network).step(images, torch.arange(3))
