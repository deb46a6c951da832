"""Labels at the input: negatives uniform over the wrong labels, each label input's content."""

import pytest
import torch

from trifecta.inputs import (
    LABEL_INPUTS,
    LabelChannel,
    LabelInput,
    LabelOverlay,
    LabelPattern,
    hard_labels,
    wrong_labels,
)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_wrong_labels_are_never_true_and_uniform_over_the_wrong_ones(num_classes: int) -> None:
    draws = 3000 * num_classes
    labels = torch.full((draws,), num_classes // 2)
    wrong = wrong_labels(labels, num_classes, torch.Generator().manual_seed(1))
    counts = torch.bincount(wrong, minlength=num_classes).double()
    assert counts[num_classes // 2] == 0
    expected = draws / (num_classes - 1)
    chi_square = ((counts - expected) ** 2 / expected).sum() - expected  # less the true label's cell
    # Mean K−2 and variance 2(K−2) where uniform; five deviations, with room for K = 2.
    assert chi_square <= (num_classes - 2) + 5 * (2 * (num_classes - 2)) ** 0.5 + 1e-9


def test_hard_labels_are_wrong_and_follow_the_scores() -> None:
    labels = torch.zeros(4000, dtype=torch.int64)
    scores = torch.tensor([9.0, 2.0, 1.0, 0.0]).repeat(4000, 1)
    drawn = hard_labels(labels, scores, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 4000
    expected = (scores[0, 1:] / scores[0].std()).softmax(0)
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], expected, rtol=0, atol=0.03)
    # The scale of the scores does not matter, nor that there is nothing to choose by.
    for scale in (100, 1e-3):
        assert torch.equal(hard_labels(labels, scale * scores, torch.Generator().manual_seed(0)), drawn)
    assert (hard_labels(labels, torch.zeros_like(scores)) != 0).all()


def test_overlay_writes_the_code_and_leaves_the_other_pixels() -> None:
    images, shown = torch.randn(2, 3, 4, 4), LabelOverlay((3, 4, 4), 5)
    out = shown(images, torch.tensor([0, 4]))
    assert out.flatten(2)[:, :, :5].tolist() == [[[1, 0, 0, 0, 0]] * 3, [[0, 0, 0, 0, 1]] * 3]
    assert torch.equal(out.flatten(2)[:, :, 5:], images.flatten(2)[:, :, 5:])
    assert torch.equal(shown.base(images).flatten(2), out.flatten(2) * (torch.arange(16) >= 5))


def test_overlay_needs_a_pixel_per_class() -> None:
    with pytest.raises(ValueError, match=r"100 classes do not fit into 8×8.*label_input='channel'"):
        LabelOverlay((1, 8, 8), 100)


def test_label_channel_shows_the_labels_picture_and_only_the_learned_one_learns() -> None:
    for kind, learned in ((LabelChannel, True), (LabelPattern, False)):
        channel = kind((2, 3, 4), 5)
        images = torch.randn(3, 2, 3, 4)
        out = channel(images, torch.tensor([4, 0, 4]))
        assert torch.equal(out[:, :2], images)
        assert torch.equal(out[0, 2], channel.pictures.weight[4].view(3, 4))
        assert torch.equal(out[0, 2], out[2, 2])
        assert out.requires_grad == learned


@pytest.mark.parametrize("name", LABEL_INPUTS)
def test_label_inputs_grow_the_images_by_what_they_declare(name: str) -> None:
    images = torch.zeros(2, 3, 6, 6)
    out = LABEL_INPUTS[name]((3, 6, 6), 4)(images, torch.tensor([0, 3]))
    assert out.shape == (2, 3 + LABEL_INPUTS[name].extra_channels, 6, 6)


def test_hard_labels_weigh_each_image_by_its_own_spread() -> None:
    """An image whose scores differ by thousands does not make another's look alike."""
    scores = torch.tensor([[0.0, 3000.0, 0.0, 1500.0], [0.0, 3.0, 0.0, 1.5]]).repeat(4000, 1)
    labels = torch.zeros(8000, dtype=torch.int64)
    drawn = hard_labels(labels, scores, torch.Generator().manual_seed(0)).view(-1, 2)
    shares = [torch.bincount(column, minlength=4) / 4000 for column in drawn.unbind(1)]
    torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=0.04)
    expected = (scores[0, 1:] / scores[0].std()).softmax(0)
    torch.testing.assert_close(shares[0][1:], expected, rtol=0, atol=0.04)


def test_overlay_clears_a_pixel_for_every_class_and_keeps_the_type() -> None:
    images = torch.full((1, 1, 2, 3), 7.0, dtype=torch.float64)
    out = LabelOverlay((1, 2, 3), 4)(images, torch.tensor([0]))
    assert out.flatten().tolist() == [1, 0, 0, 0, 7, 7]
    assert out.dtype == torch.float64
    # As many classes as pixels is enough.
    assert LabelOverlay((1, 2, 3), 6)(images, torch.tensor([5])).flatten().tolist() == [0, 0, 0, 0, 0, 1]


def test_a_table_gets_columns_for_the_overlaid_label() -> None:
    assert LabelOverlay.input_shape((2,), 3) == (5,)
    assert LabelOverlay.input_shape((2, 4), 3) == (2, 4)
    # More classes than columns fit, as no column is written over.
    shown = LabelOverlay((2,), 3)
    rows = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert shown(rows, torch.tensor([0, 2])).tolist() == [[1, 0, 0, 5, 6], [0, 0, 1, 7, 8]]
    assert shown.base(rows).tolist() == [[0, 0, 0, 5, 6], [0, 0, 0, 7, 8]]
    assert shown.maps(rows).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]


def test_an_overlaid_signal_needs_a_position_per_class() -> None:
    with pytest.raises(ValueError, match="5 classes do not fit into 4"):
        LabelOverlay((2, 4), 5)
    shown = LabelOverlay((2, 4), 3)(torch.full((1, 2, 4), 7.0), torch.tensor([1]))
    assert shown.tolist() == [[[0, 1, 0, 7], [0, 1, 0, 7]]]


@pytest.mark.parametrize("name", LABEL_INPUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_label_inputs_keep_the_type(name: str, dtype: torch.dtype) -> None:
    shown = LABEL_INPUTS[name]((1, 4, 4), 3)
    images, labels = torch.randn(2, 1, 4, 4, dtype=dtype), torch.tensor([0, 2])
    assert {x.dtype for x in (shown(images, labels), shown.base(images), shown.maps(images))} == {dtype}


def test_a_table_gets_as_many_columns_again_for_the_label() -> None:
    for kind in (LabelChannel, LabelPattern):
        assert kind.input_shape((3,), 5) == (6,)
        assert kind.input_shape((3, 4), 5) == (4, 4)
        shown, rows = kind((3,), 5), torch.randn(2, 3)
        out = shown(rows, torch.tensor([4, 1]))
        assert torch.equal(out, torch.cat([rows, shown.pictures.weight[[4, 1]]], dim=1))
        assert torch.equal(shown.base(rows), torch.cat([rows, torch.zeros(2, 3)], dim=1))
        assert torch.equal(shown.maps(rows), torch.cat([torch.zeros(5, 3), shown.pictures.weight], dim=1))


def test_a_wrong_label_is_the_true_one_and_the_drawn_offset() -> None:
    labels = torch.arange(12) % 5
    offsets = torch.randint(1, 5, (12,), generator=torch.Generator().manual_seed(3))
    drawn = wrong_labels(labels, 5, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, (labels + offsets) % 5)


def test_a_label_input_of_ones_own_adds_the_channels_it_declares() -> None:
    class Wide(LabelInput):
        extra_channels = 2

        def forward(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return samples

    assert Wide.input_shape((3, 4, 5), 7) == (5, 4, 5)
    assert Wide((3, 4, 5), 7).num_classes == LabelChannel((3, 4, 5), 7).num_classes == 7
