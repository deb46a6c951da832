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
        ({"source": ""}, "data.source is a folder"),
        ({"validation": 1.0}, "data.validation .* received 1.0"),
        ({"validation": -0.1}, "data.validation .* received -0.1"),
        ({"hold_out": 0.0}, "data.hold_out .* received 0.0"),
        ({"hold_out": 1}, "data.hold_out .* received 1"),
        ({"image_size": (0, 4)}, "data.image_size .* received \\(0, 4\\)"),
        ({"image_size": (4,)}, "data.image_size .* received \\(4,\\)"),
        ({"image_size": (4.5, 4)}, "data.image_size .* received \\(4.5, 4\\)"),
        ({"mean": (0.5,)}, "received \\(0.5,\\) and std None"),
        ({"std": (0.5,)}, "received None and std \\(0.5,\\)"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "received \\(0.5,\\) and std \\(0.5, 0.5\\)"),
        ({"mean": (), "std": ()}, "received \\(\\) and std \\(\\)"),
        ({"mean": (0.5,), "std": (0.0,)}, "one above 0 .*: received \\(0.5,\\) and std \\(0.0,\\)"),
        ({"mean": [0.5], "std": [float("nan")]}, "received \\(0.5,\\) and std \\(nan,\\)"),
        ({"mean": (125.3,), "std": (63.0,)}, "received \\(125.3,\\) .*; divide grey levels by 255"),
        ({"mean": (-0.1,), "std": (1.0,)}, "received \\(-0.1,\\)"),
        ({"train_split": "test"}, "data.test_split is another split than .* received 'test'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DataConfig(**{"source": "digits", **values})
    assert "\n" not in str(caught.value)
