"""Which choices of a method contradict each other."""

import re
from dataclasses import replace
from typing import Any

import pytest

from trifecta import CrossEntropy, Head, Method, Objective, Symmetric, get_method
from trifecta.losses import LabelGoodness, LocalTargets
from trifecta.network import build_network
from trifecta.nn.blocks import BlockStyle
from trifecta.nn.shapes import FeatureShape
from trifecta.schedules import DEEPLY_SUPERVISED, LAYER_WISE

PAIRS = (
    "a loss over pairs needs labels at the input, or pairs of images and a read-out; any other loss needs "
    "none there: received loss {} (pairs={}, scores_classes={}) with label input {}, which needs pairs={}, "
    "scores_classes={}: change one of them"
)
COARSE = "superclasses need a loss that scores classes from a block alone: received loss {}"


class Own(Objective):
    """An objective without a kind."""

    def head(self, feature_shape: FeatureShape, num_classes: int) -> Head:
        raise NotImplementedError


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ff", {"dropout": 1.0}, "dropout is a share, 0 or more and below 1: received 1.0"),
    ("ff", {"dropout": -0.1}, "dropout is a share, 0 or more and below 1: received -0.1"),
    ("ff", {"negatives": "easy"}, "unknown negatives 'easy': known: uniform, hard"),
    (
        "scff",
        {"negatives": "hard"},
        "negatives hard are wrong labels, and none enters: received label input other-image",
    ),
    (
        "pred",
        {"objective": CrossEntropy},
        f"an objective is an object such as CrossEntropy(): received {CrossEntropy!r}",
    ),
    ("pred", {"objective": "pred"}, "an objective is an object such as CrossEntropy(): received 'pred'"),
    (
        "tierce",
        {"objective": LabelGoodness(reads="input")},
        "unknown reads of an objective 'input': known: output, unpooled, response",
    ),
    (
        "pred",
        {"label_input": "channel"},
        PAIRS.format("local-prediction", False, True, "channel", True, False),
    ),
    (
        "pred",
        {"objective": Own(), "label_input": "channel"},
        PAIRS.format("Own", False, True, "channel", True, False),
    ),
    ("ff", {"label_input": "chanel"}, "unknown label input 'chanel': did you mean channel?"),
    ("ff", {"normalization": "lenth"}, "unknown normalization 'lenth': did you mean length?"),
    ("ff", {"activation": "triangel"}, "unknown activation 'triangel': did you mean triangle?"),
    (
        "pred",
        {"label_input": "masked-mix"},
        PAIRS.format("local-prediction", False, True, "masked-mix", True, True),
    ),
    ("pred", {"objective": Symmetric()}, PAIRS.format("symmetric", True, False, "none", False, True)),
    ("scff", {"label_input": "none"}, PAIRS.format("position-thresholds", True, True, "none", False, True)),
    ("ff", {"finds_superclasses": True}, COARSE.format("threshold")),
    ("pred", {"objective": LocalTargets(), "superclasses": [[0, 1]]}, COARSE.format("local-targets")),
    ("scff", {"superclasses": [[0, 1]]}, COARSE.format("position-thresholds")),
]


@pytest.mark.parametrize(("name", "choices", "message"), REFUSED)
def test_choices_that_contradict_each_other_are_refused(
    name: str, choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(get_method(name), **choices)


def test_a_loss_at_every_block_has_one_gradient() -> None:
    method = get_method("trifecta")
    objective = replace(method.optimizer, ownership="objective")
    assert replace(method, optimizer=objective, schedule=LAYER_WISE).optimizer.ownership == "objective"
    assert replace(method, schedule=DEEPLY_SUPERVISED).schedule.deep_supervision
    message = "^a loss at every block needs optimizer ownership weight: received objective$"
    with pytest.raises(ValueError, match=message):
        replace(method, optimizer=objective, schedule=DEEPLY_SUPERVISED)


def test_choices_at_their_bounds_are_kept() -> None:
    method = replace(get_method("deeper-forward"), dropout=0.0, superclasses=[[0, 0, 1], [0, 1, 2]])  # type: ignore[arg-type]
    assert method.superclasses == ((0, 0, 1), (0, 1, 2))
    assert replace(get_method("trifecta"), negatives="hard").locality == "feedback"


def test_a_name_is_no_method() -> None:
    message = r"^method is a Method: received 'superfecta'; get_method\(name\) makes one$"
    with pytest.raises(ValueError, match=message):
        build_network("superfecta", sample_shape=(1, 8, 8), num_classes=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("trifecta", (2, 8, 8)), ("pred", (1, 8, 8)), ("scff", (1, 8, 8))],
)
def test_a_label_may_add_channels(name: str, shape: tuple[int, ...]) -> None:
    assert get_method(name).input_shape([1, 8, 8], 3) == shape  # type: ignore[arg-type]


def test_a_label_may_add_columns() -> None:
    assert replace(get_method("ff"), label_input="overlay").input_shape((2,), 3) == (5,)


def test_blocks_have_the_methods_style() -> None:
    style = BlockStyle(normalization="none", activation="triangle", dropout=0.5, num_classes=3)
    assert replace(get_method("scff"), dropout=0.5).block_style(3) == style


def test_a_loss_of_one_label_a_sample_has_no_form_for_positions() -> None:
    method: Method = get_method("backprop").at_positions()
    assert method.at_positions() is method
    message = (
        "^method trifecta learns one label a sample: received one at every position; use superfecta, "
        "mono-forward, deep-supervision or backprop$"
    )
    with pytest.raises(ValueError, match=message):
        get_method("trifecta").at_positions()
