from dataclasses import asdict
from typing import Any

import pytest
import yaml

from trifecta.data import DataConfig


def test_a_configuration_survives_yaml() -> None:
    config = DataConfig(source="digits", image_size=(16, 12), hold_out=0.25, subset="all")
    assert DataConfig(**yaml.safe_load(yaml.safe_dump(asdict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": ""}, "--data is empty"),
        ({"validation": 1.0}, "--validation .* got 1.0"),
        ({"validation": -0.1}, "--validation .* got -0.1"),
        ({"hold_out": 0.0}, "--hold-out .* got 0.0"),
        ({"hold_out": 1}, "--hold-out .* got 1"),
        ({"image_size": (0, 4)}, "--image-size .* got \\(0, 4\\)"),
        ({"image_size": (4,)}, "--image-size .* got \\(4,\\)"),
        ({"image_size": (4.5, 4)}, "--image-size .* got \\(4.5, 4\\)"),
        ({"train_split": "test"}, "must differ, got 'test'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DataConfig(**{"source": "digits", **values})
    assert "\n" not in str(caught.value)
