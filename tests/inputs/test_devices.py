"""Whatever is drawn or counted stands where its input does: shown on PyTorch's device without storage."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trifecta.inputs import (
    LabelChannel,
    LabelOverlay,
    MaskedMix,
    OtherImage,
    draw_offsets,
    hard_labels,
    region_masks,
    wrong_labels,
)
from trifecta.losses.functional import unsettled

META = torch.device("meta")
IMAGES = torch.empty(4, 2, 3, 3, device=META)
ROWS = torch.empty(4, 6, device=META)
LABELS = torch.empty(4, dtype=torch.int64, device=META)


def moved(
    kind: type[LabelChannel] | type[LabelOverlay], shape: tuple[int, ...] = (2, 3, 3)
) -> LabelChannel | LabelOverlay:
    return kind(shape, 3).to(META)


CASES: dict[str, Callable[[], Tensor]] = {
    "wrong labels": lambda: wrong_labels(LABELS, 3),
    "hard labels": lambda: hard_labels(LABELS, torch.empty(4, 3, device=META)),
    "pictures": lambda: moved(LabelChannel)(IMAGES, LABELS),
    "no picture": lambda: moved(LabelChannel).base(IMAGES),
    "all pictures": lambda: moved(LabelChannel).maps(IMAGES),
    "overlay": lambda: moved(LabelOverlay)(IMAGES, LABELS),
    "no overlay": lambda: moved(LabelOverlay).base(IMAGES),
    "all overlays": lambda: moved(LabelOverlay).maps(IMAGES),
    "columns": lambda: moved(LabelOverlay, (6,)).maps(ROWS),
    "offsets": lambda: draw_offsets(2, 5, None, META),
    "offset of one image": lambda: draw_offsets(2, 1, None, META),
    "masks": lambda: region_masks(IMAGES, None),
    "masks of rows": lambda: region_masks(ROWS, None),
    "pairs": lambda: OtherImage().pairs(IMAGES, None),
    "neutral pairs": lambda: OtherImage().neutral(IMAGES),
    "mixtures": lambda: MaskedMix().pairs(IMAGES, None),
    "unsettled": lambda: unsettled(torch.empty(4, device=META), 0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_results_stand_where_the_input_does(name: str) -> None:
    assert CASES[name]().device == META


def test_wrong_labels_keep_the_type_of_labels() -> None:
    for dtype in (torch.int64, torch.int32):
        labels = torch.zeros(5, dtype=dtype)
        assert wrong_labels(labels, 3).dtype == dtype
