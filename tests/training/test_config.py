"""Settings survive their YAML, whatever they are."""

import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from trifecta.data import Augmentation, DataConfig
from trifecta.losses import CrossEntropy, Objective, Symmetric, Threshold
from trifecta.method import Method
from trifecta.methods import METHODS, get_method
from trifecta.recipes import RECIPES
from trifecta.schedules import Schedule, parse_schedule
from trifecta.training import RunConfig, from_plain, read_config, to_plain
from trifecta.training.config import changed, yaml_text

CONFIGS = {
    **{name: RunConfig(data=DataConfig(source="x"), method=get_method(name)) for name in METHODS},
    "varied": RunConfig(
        data=DataConfig(source="x", subset="y", image_size=(32, 48), hold_out=0.25),
        method=replace(
            get_method("trifecta"),
            objective=Threshold(threshold=1.5),
            schedule=Schedule(size=3, overlapping=True, trains_remainder=False),
            readout="1,2",
        ),
        augmentation=Augmentation(rotation=7.5, cutout=3),
        device="cuda:1",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml_text(to_plain(CONFIGS[name])))
    assert read_config(path) == CONFIGS[name]


@pytest.mark.slow
def test_recipes_survive_a_round_trip() -> None:
    for recipe in RECIPES.values():
        assert from_plain(to_plain(recipe())) == recipe()


@pytest.mark.parametrize("objective", [Symmetric(alpha=2.0), Threshold(), CrossEntropy(pool=4)])
def test_an_objective_is_saved_with_its_kind(objective: Symmetric | Threshold | CrossEntropy) -> None:
    label_input = "channel" if objective.pairs else "none"
    method = replace(get_method("trifecta"), objective=objective, label_input=label_input)
    config = RunConfig(data=DataConfig(source="x"), method=method)
    assert to_plain(config)["method"]["objective"]["kind"] == objective.kind
    assert from_plain(to_plain(config)) == config


def test_unknown_settings_are_named() -> None:
    plain = to_plain(RunConfig()) | {"epocs": 3}
    with pytest.raises(ValueError, match="epocs"):
        from_plain(plain)


def test_an_unknown_field_is_answered_with_the_nearest_one_and_its_place() -> None:
    for name, near in {
        "lr": r"did you mean learning_rate of method\.optimizer\?$",
        "epoch": r"did you mean epochs\?$",
        "hold_out": r"did you mean hold_out of data\?$",
        "qqq": "known: data, method, network, ",
    }.items():
        with pytest.raises(TypeError, match=f"^unknown setting '{name}' of a RunConfig: {near}"):
            RunConfig(**{name: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "\x00"])
def test_files_without_settings_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="cannot read settings from"):
        read_config(tmp_path / "config.yaml")


def test_names_stand_for_parts() -> None:
    plain: dict[str, Any] = {"device": torch.device("cpu"), "epochs": np.int64(3)}
    named = RunConfig(
        data="digits",
        method="trifecta",
        augmentation="crop-flip",
        **plain,
    )
    assert named == RunConfig(
        data=DataConfig(source="digits"),
        method=get_method("trifecta"),
        augmentation=Augmentation(crop_padding=4, flip=True),
        device="cpu",
        epochs=3,
    )
    assert type(named.epochs) is int
    assert from_plain(to_plain(named)) == named


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "superfect"}, "unknown method 'superfect': did you mean superfecta"),
        ({"method": "forward_forward"}, r"unknown method 'forward_forward': did you mean ff\?"),
        ({"method": None}, r"expected a name or settings, received None \(in method\)"),
        ({"method": get_method}, "expected a name or settings, received <function"),
        ({"method": Augmentation()}, "expected a name or settings, received Augmentation"),
        ({"augmentation": "crop-flop"}, "unknown augmentation 'crop-flop': did you mean crop-flip"),
        ({"data": 3}, r"expected a name or settings, received 3 \(in data\)"),
        ({"data": ""}, r"data\.source is a folder, a Hub id or 'digits': received ''"),
        ({"network": None}, "network is a name .* or a class or function of your own: received None"),
        *(
            ({"seed": seed}, rf"expected int, received {seed!r} \(in seed\)")
            for seed in (1.5, "a", None, True)
        ),
        ({"seed": -1}, "seed is a whole number, 0 or more: received -1"),
        ({"seed": 2**64}, r"seed is a whole number, below 2\*\*63: received 18446744073709551616"),
        *(
            ({name: 0}, f"{name} is a whole number, 1 or more: received 0")
            for name in ("epochs", "pipeline")
        ),
        ({"network": "smal"}, "unknown network 'smal': did you mean small"),
        ({"batch_size": 0}, "batch_size is a whole number, 1 or more: received 0"),
        ({"batch_size": 1e3}, "expected int, received 1000.0"),
        ({"pipeline": 0.5}, "expected int, received 0.5"),
        *(({"width": value}, "expected float, received") for value in (None, "x", True, 1j)),
        *(({"width": value}, "width is a number above 0") for value in (0, -1.0)),
        ({"width": float("nan")}, "width is a finite number"),
        *(({"channels": value}, "expected a list") for value in (3, "34")),
        ({"channels": (3, 0)}, "channels are whole numbers, 1 or more"),
        ({"precision": None}, "expected str, received None"),
        ({"precision": "fp23"}, "unknown precision 'fp23'"),
        ({"on_nan": ["stop"]}, "expected str, received"),
        ({"compiled": "yes"}, "expected bool, received 'yes'"),
        *(({"class_weights": value}, "expected a list, received") for value in ("balance", 3)),
        *(({"class_weights": value}, "expected float, received") for value in ({"cat": "x"}, ("a", "b"))),
        *(
            ({"class_weights": value}, "class_weights are numbers above 0")
            for value in ((), (1, 0), (1, -1))
        ),
    ],
)
def test_a_setting_of_the_wrong_kind_gives_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        RunConfig(**settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("weights", ["balanced", (1.0, 2.5), {"cat": 2.0, "dog": 0.5}])
def test_class_weights_survive_a_round_trip(weights: Any, tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source="x"), class_weights=weights)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(config)))
    assert read_config(path) == config
    assert read_config(path).class_weights == weights


def without(config: RunConfig, *names: str) -> dict[str, object]:
    return {name: value for name, value in to_plain(config).items() if name not in names}


def test_a_run_of_an_older_version_trains_as_that_version_did(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = RunConfig(data=DataConfig(source="digits"), epochs=7)
    older = without(config, "keep", "statistics", "class_weights", "on_nan")
    file.write_text(yaml_text(older | {"dataset": {"classes": ["a", "b"]}}) + "# crc32 0123abcd\n")
    assert read_config(file) == replace(config, keep="last", statistics="running")


def test_a_recipe_by_hand_says_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# mine\ndata: digits\nmethod: trifecta\naugmentation: crop-flip\nepochs: 3\n")
    assert read_config(file) == RunConfig(
        data="digits", method="trifecta", augmentation=Augmentation(crop_padding=4, flip=True), epochs=3
    )
    file.write_text(
        "method: {name: mine, objective: threshold, label_input: overlay, schedule: overlapping:2}\n"
    )
    expected = Method(
        name="mine", objective=Threshold(), label_input="overlay", schedule=parse_schedule("overlapping:2")
    )
    assert read_config(file).method == expected


def test_settings_change_by_path_and_parts_by_name() -> None:
    # Neither of these methods would do with half of the changes.
    config = changed(
        RunConfig(),
        {"method.objective": "threshold", "method.label_input": "overlay", "method.objective.threshold": 2},
    )
    assert config.method.objective == Threshold(threshold=2.0)
    assert changed(config, {"method": "ff", "width": 0.5}) == RunConfig(method="ff", width=0.5)
    with pytest.raises(ValueError, match="unknown setting of method 'dropuot': did you mean dropout"):
        changed(config, {"method.dropuot": 1})
    with pytest.raises(ValueError, match=r"expected float, received .* \(in width\)"):
        changed(config, {"width.x": 1})


class Shape(Enum):
    ROUND = "round"


@dataclass(frozen=True, kw_only=True)
class Varied(CrossEntropy):
    """An objective of one's own with fields of many types."""

    shape: Shape = Shape.ROUND
    file: Path = Path("a")
    pair: tuple[int, str] = (1, "x")
    bare: tuple = ()  # type: ignore[type-arg]
    anything: Any = None
    other: Objective | None = None
    many: list[Objective] = field(default_factory=list, hash=False)


def test_fields_of_many_types_survive_a_round_trip(tmp_path: Path) -> None:
    objective = Varied(
        file=Path("b/c"),
        pair=(2, "3"),
        bare=(4, 5),
        anything={"a": [1]},
        other=Threshold(threshold=0.5),
        many=[CrossEntropy(pool=4), Varied()],
    )
    config = RunConfig(method=Method(name="varied", objective=objective))
    (tmp_path / "config.yaml").write_text(yaml_text(to_plain(config)))
    assert read_config(tmp_path / "config.yaml", imports=[sys.modules[__name__]]) == config
