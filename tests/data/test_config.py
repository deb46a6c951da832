from dataclasses import asdict
from typing import Any

import pytest
import yaml

from trifecta.data import DataConfig


def test_a_configuration_survives_yaml() -> None:
    config = DataConfig(source="digits", image_size=(16, 12), hold_out=0.25, subset="all")
    assert DataConfig(**yaml.safe_load(yaml.safe_dump(asdict(config)))) == config


def test_constants_survive_yaml_as_floats() -> None:
    config = DataConfig(source="x", mean=(0, 0.25, 0.5), std=(1, 0.5, 0.25))
    loaded = DataConfig(**yaml.safe_load(yaml.safe_dump(asdict(config))))
    assert loaded == config
    assert hash(loaded) == hash(config)
    assert loaded.mean == (0.0, 0.25, 0.5)
    assert all(isinstance(value, float) for value in (loaded.mean or ()) + (loaded.std or ()))


def test_a_file_from_before_the_constants_still_loads() -> None:
    plain = asdict(DataConfig(source="x"))
    del plain["mean"], plain["std"]
    assert DataConfig(**plain) == DataConfig(source="x", mean=None, std=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": ""}, "data.source is empty"),
        ({"validation": 1.0}, "data.validation .* got 1.0"),
        ({"validation": -0.1}, "data.validation .* got -0.1"),
        ({"hold_out": 0.0}, "data.hold_out .* got 0.0"),
        ({"hold_out": 1}, "data.hold_out .* got 1"),
        ({"image_size": (0, 4)}, "data.image_size .* got \\(0, 4\\)"),
        ({"image_size": (4,)}, "data.image_size .* got \\(4,\\)"),
        ({"image_size": (4.5, 4)}, "data.image_size .* got \\(4.5, 4\\)"),
        ({"mean": (0.5,)}, "got mean \\(0.5,\\) and std None"),
        ({"std": (0.5,)}, "got mean None and std \\(0.5,\\)"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "got mean \\(0.5,\\) and std \\(0.5, 0.5\\)"),
        ({"mean": (), "std": ()}, "got mean \\(\\) and std \\(\\)"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0 .*: got mean \\(0.5,\\) and std \\(0.0,\\)"),
        ({"mean": [0.5], "std": [float("nan")]}, "got mean \\(0.5,\\) and std \\(nan,\\)"),
        ({"mean": (125.3,), "std": (63.0,)}, "got mean \\(125.3,\\) .*; divide grey levels by 255"),
        ({"mean": (-0.1,), "std": (1.0,)}, "got mean \\(-0.1,\\)"),
        ({"train_split": "test"}, "must differ, got 'test'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DataConfig(**{"source": "digits", **values})
    assert "\n" not in str(caught.value)
