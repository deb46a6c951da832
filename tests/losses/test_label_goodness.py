"""Goodness of all labels at once, against its formula and against the symmetric loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from trifecta._utils import devices as chunks
from trifecta.losses import LabelGoodness
from trifecta.losses.class_goodness import label_goodness
from trifecta.losses.functional import symmetric_loss

CLASSES = 3


def response(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def shifts(channels: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(CLASSES, channels, generator=draw, dtype=torch.float64)


def written_out(r: Tensor, v: Tensor) -> Tensor:
    """The formula, a label at a time, in the graph."""
    maps = v.view(*v.shape, *[1] * (r.ndim - 2))
    return torch.stack([(r + shift).relu().square().flatten(1).mean(1) for shift in maps], dim=1)


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 3, 5), (4, 2, 3, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_goodness_and_its_gradient_equal_the_formula(
    shape: tuple[int, ...], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CPU_BYTES", 1000)  # several pieces
    r, v = response(shape).requires_grad_(), shifts(4).requires_grad_()
    x = r.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else r
    weights = torch.rand(5, CLASSES, dtype=torch.float64)
    goodness, expected = label_goodness(x, v), written_out(r, v)
    torch.testing.assert_close(goodness, expected)
    found = torch.autograd.grad((goodness * weights).sum(), (r, v))
    for ours, theirs in zip(found, torch.autograd.grad((expected * weights).sum(), (r, v)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 5)])
def test_a_traced_goodness_is_the_same(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    r, v = response(shape), shifts(4)
    expected = label_goodness(r, v)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(label_goodness(r, v), expected)


def test_the_gradient_passes_gradcheck() -> None:
    assert gradcheck(label_goodness, (response((4, 3)).requires_grad_(), shifts(4).requires_grad_()))


@pytest.mark.parametrize("pool", [0, 2])
def test_of_two_labels_the_loss_is_the_symmetric_one(pool: int) -> None:
    head = LabelGoodness(alpha=3.0, pool=pool).head((4, 3, 3), 2).double()
    r, labels = response((4, 3, 3)), torch.tensor([0, 1, 1, 0, 1])
    goodness = head.scores(r) / 3.0
    true, wrong = (goodness.gather(1, k.unsqueeze(1)).squeeze(1) for k in (labels, 1 - labels))
    torch.testing.assert_close(head.loss(r, labels), symmetric_loss(true, wrong, alpha=3.0))


def test_patches_have_shifts_of_their_own() -> None:
    head = LabelGoodness(alpha=2.0, pool=2).head((4, 6, 6), CLASSES).double()
    (own,) = head.parameters()
    r = response((4, 6, 6))
    means = F.avg_pool2d(r, 3).permute(0, 2, 3, 1).flatten(1)
    assert own.shape == (CLASSES, 16)
    torch.testing.assert_close(head.scores(r), 2.0 * written_out(means, own))


@pytest.mark.parametrize("pool", [0, 1, 2])
def test_one_sample_has_a_goodness_and_a_gradient(pool: int) -> None:
    head = LabelGoodness(pool=pool).head((4, 6, 6), CLASSES)
    assert head.reads_patch_means == (2 if pool == 2 else 0)
    r = response((4, 6, 6), torch.float32)[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(head.loss(r, torch.tensor([1])), r)
    assert head.scores(r).shape == (1, CLASSES)
    assert gradient.abs().sum() > 0
