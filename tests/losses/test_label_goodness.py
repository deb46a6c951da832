"""Goodness of all labels at once, against its formula and against the symmetric loss."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from trifecta._utils import chunks
from trifecta.losses import LabelGoodness
from trifecta.losses.functional import symmetric_loss
from trifecta.losses.label_goodness import label_goodness

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


def test_the_gradient_passes_gradcheck() -> None:
    assert gradcheck(label_goodness, (response((4, 3)).requires_grad_(), shifts(4).requires_grad_()))


def test_of_two_labels_the_loss_is_the_symmetric_one() -> None:
    head = LabelGoodness(alpha=3.0).head((4, 3, 3), 2).double()
    r, labels = response((4, 3, 3)), torch.tensor([0, 1, 1, 0, 1])
    goodness = head.scores(r) / 3.0
    true, wrong = (goodness.gather(1, k.unsqueeze(1)).squeeze(1) for k in (labels, 1 - labels))
    torch.testing.assert_close(head.loss(r, labels), symmetric_loss(true, wrong, alpha=3.0))


def test_half_precision_is_reduced_in_float32() -> None:
    head = LabelGoodness().head((4, 3, 3), CLASSES)
    r = response((4, 3, 3), torch.float32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head.scores(r)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, head.scores(r.float()))


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ValueError, match="alpha is a number from 1e-09"):
        LabelGoodness(alpha=0.0)
