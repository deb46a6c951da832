"""Settings survive their YAML, whatever they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from trifecta.data import Augmentation, DataConfig
from trifecta.experiments.recipes import RECIPES
from trifecta.losses import CrossEntropy, Symmetric, Threshold
from trifecta.methods import METHODS, get_method
from trifecta.schedules import Schedule
from trifecta.training import RunConfig, from_plain, read_config, to_plain

CONFIGS = {
    **{name: recipe() for name, recipe in RECIPES.items()},
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name not in RECIPES else pytest.mark.slow) for name in CONFIGS]
)
def test_settings_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(config)))
    assert read_config(path) == config


@pytest.mark.parametrize("objective", [Symmetric(alpha=2.0), Threshold(), CrossEntropy(pool=4)])
def test_an_objective_is_saved_with_its_kind(objective: Symmetric | Threshold | CrossEntropy) -> None:
    label_input = "channel" if objective.pairs else "none"
    method = replace(get_method("trifecta"), objective=objective, label_input=label_input)
    config = RunConfig(data=DataConfig(source="x"), method=method)
    assert to_plain(config)["method"]["objective"]["kind"] == objective.kind
    assert from_plain(to_plain(config)) == config


def test_unknown_settings_are_named(tmp_path: Path) -> None:
    plain = to_plain(CONFIGS["demo"]) | {"epocs": 3}
    with pytest.raises(ValueError, match="epocs"):
        from_plain(plain)


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "\x00"])
def test_files_without_settings_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="cannot read settings from"):
        read_config(tmp_path / "config.yaml")
