"""What is left of a network is what was there, and a smaller run is an ordinary run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from command import run
from trifecta import (
    DataConfig,
    Learner,
    LocalNetwork,
    RunConfig,
    build_network,
    get_method,
    load,
    resume,
    train,
)
from trifecta.data import ImageData
from trifecta.nn.shapes import channel_groups
from trifecta.shrinking import channel_importance, copy_kept, kept_channels, shrink

SHAPE, CLASSES = (1, 16, 16), 3


def network_of(method: str, network: str = "small", *, channels: tuple[int, ...] = ()) -> LocalNetwork:
    return build_network(
        get_method(method), network, sample_shape=SHAPE, num_classes=CLASSES, width=0.1, channels=channels
    )


def taught(network: LocalNetwork) -> LocalNetwork:
    draw = torch.Generator().manual_seed(0)
    learner = Learner(network, generator=draw)
    for _ in range(3):
        learner.step(torch.randn(12, *SHAPE, generator=draw), torch.arange(12) % CLASSES)
    return network.eval()


@pytest.mark.parametrize("network", ["small", "mlp", "vgg8b"])
@pytest.mark.parametrize("method", ["superfecta", "trifecta", "mono-forward", "class-groups", "cwcomp"])
def test_a_network_that_keeps_all_its_channels_predicts_the_same(method: str, network: str) -> None:
    whole = taught(network_of(method, network))
    counts = tuple(shape[0] for shape in whole.feature_shapes)
    same = network_of(method, network, channels=counts).eval()
    copy_kept(whole, same, [torch.arange(count) for count in counts])
    images = torch.randn(4, *SHAPE)
    if method == "mono-forward":
        # Its classifier reads maps as they are, and starts anew.
        for k in range(len(whole.blocks)):
            same.head(k).load_state_dict(whole.head(k).state_dict())
    assert torch.equal(same(images), whole(images))


@pytest.mark.parametrize("network", ["small", "mlp", "vgg8b"])
def test_channels_that_are_always_zero_leave_without_a_trace(network: str) -> None:
    whole = network_of("superfecta", network).eval()
    counts = [shape[0] for shape in whole.feature_shapes]
    kept = [torch.arange(count)[1::2] for count in counts]
    with torch.no_grad():
        for block, indices in zip(whole.blocks, kept, strict=True):
            weights = block.get_submodule("weights")
            gone = torch.ones(len(weights.weight), dtype=torch.bool)  # type: ignore[arg-type]
            gone[indices] = False
            for parameter in weights.parameters():
                parameter[gone] = 0
    smaller = network_of("superfecta", network, channels=tuple(len(k) for k in kept)).eval()
    copy_kept(whole, smaller, kept)
    images = torch.randn(4, *SHAPE)
    assert torch.allclose(smaller(images), whole(images), atol=1e-5)


def test_what_a_channel_is_worth_is_the_first_order_of_its_own_blocks_loss() -> None:
    network = taught(network_of("superfecta"))
    images, labels = torch.randn(8, *SHAPE), torch.arange(8) % CLASSES
    worth = channel_importance(network, images, labels)
    assert [len(values) for values in worth] == [shape[0] for shape in network.feature_shapes]
    x = images
    for k in range(2):
        features, x = network.pass_block(k, x.detach())
    leaf = features.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.head(1).loss(leaf, labels), leaf)
    assert torch.allclose(worth[1], (leaf * gradient).abs().mean((0, 2, 3)))


def test_classes_keep_their_channels() -> None:
    network = taught(network_of("class-groups"))
    worth = channel_importance(network, torch.randn(6, *SHAPE), torch.arange(6) % CLASSES)
    counts = [max(CLASSES, shape[0] // 2) for shape in network.feature_shapes]
    for shape, count, kept in zip(
        network.feature_shapes, counts, kept_channels(network, worth, counts), strict=True
    ):
        before = channel_groups(shape[0], CLASSES)[kept]
        assert torch.equal(before, channel_groups(count, CLASSES))


def config_of(method: str, folder: Path) -> RunConfig:
    return RunConfig(
        data=DataConfig(source=str(folder)),
        method=get_method(method),
        width=0.15,
        epochs=1,
        batch_size=72,
        precision="fp32",
    )


REFUSED = {
    "rec-lra": "method rec-lra has no loss without the network's error",
    "backprop": "a block is shrunk by its own loss, and method backprop has none on some",
}


# Each kind of head: one that is copied, with hidden units or without, and those that start anew.
KINDS = (
    "superfecta",
    "mono-forward",
    "predsim",
    "dgl",
    "trifecta",
    "scff",
    "class-groups",
    "hcl-ff",
    "asge",
)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*KINDS, *REFUSED])
def test_every_method_shrinks_or_says_why_not(
    method: str, stripes: ImageData, tmp_path: Path, stripes_folder: Path
) -> None:
    before = train(config_of(method, stripes_folder), out=tmp_path / "whole").result
    if method in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[method]):
            shrink(tmp_path / "whole", tmp_path / "smaller", keep=0.5, epochs=1)
        assert not (tmp_path / "smaller").exists()
        return
    after = shrink(tmp_path / "whole", tmp_path / "smaller", keep=0.5, epochs=1).result
    assert after["parameters"] <= 0.5 * before["parameters"]
    model = load(tmp_path / "smaller")
    assert model.scores(stripes.test.images).shape == (len(stripes.test), 3)


@pytest.mark.slow
def test_the_command_line_shrinks_a_run_that_goes_on(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    config, smaller = config_of("superfecta", stripes_folder), tmp_path / "smaller"
    train(config, out=tmp_path / "whole")
    status, out, _ = run(capsys, "shrink", tmp_path / "whole", "--out", smaller, "--epochs", "1")
    assert status == 0
    assert "of the parameters" in out
    assert run(capsys, "evaluate", smaller)[0] == 0
    further = resume(smaller, epochs=2)
    assert further.result["epochs"] == 2
    assert further.trainer.config.channels
    with pytest.raises(ValueError, match="one number for each of the 6 blocks"):
        train(replace(config, channels=(4, 4)))
    status, _, error = run(capsys, "shrink", tmp_path / "none", "--out", tmp_path / "other")
    assert (status, error.count("\n")) == (2, 1)
