"""Settings from strangers: limits on their files, and names that stay names."""

from pathlib import Path

import pytest

from run_files import edit_config
from trifecta.data import ImageData
from trifecta.training import DatasetFacts, RunConfig, RunFolder, read_config, train
from trifecta.training.config import MOST_BYTES, MOST_DEPTH, read_yaml, yaml_text

SMALL = RunConfig(width=0.05, epochs=1, batch_size=60, precision="fp32")
ALIASES = "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ALIASES, r"it has an alias, \*a"),
        ("a: " + "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested more than 32 levels"),
        ("a: " + "[" * 100_000, "nested more than 32 levels"),
        ("a: " + "x" * MOST_BYTES, "larger than a megabyte"),
        ("a: 2001-99-99", "month must be"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [a, b]\n: c", "unhashable"),
        ("a: \x00", "unacceptable character"),
        ("- a", "expected `name: value` lines"),
        ("", "expected `name: value` lines"),
    ],
)
def test_a_file_that_is_no_settings_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"cannot read settings from .*config.yaml: .*{told}"):
        read_yaml(file)


def test_settings_are_written_without_aliases() -> None:
    shared = [1, 2]
    assert "*" not in yaml_text({"a": shared, "b": shared})


def test_settings_that_were_changed_are_read(stripes: ImageData, tmp_path: Path) -> None:
    train(SMALL, data=stripes, out=tmp_path / "run")
    file = tmp_path / "run/config.yaml"
    assert read_config(file).width == 0.05
    edit_config(tmp_path / "run", "width: 0.05", "width: 0.1  # wider")
    assert RunFolder(tmp_path / "run").read_config()[0].width == read_config(file).width == 0.1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sample_shape", [1, -1], "sample_shape needs sizes of 1 or more"),
        ("sample_shape", 8, "dataset cannot be used"),
        ("classes", [], "classes needs one name or more"),
        ("mean", [0.1, 0.2], "mean needs 1 values, one per channel"),
        ("std", [0.0], "std needs as many values as mean, all above 0"),
        ("grey_range", [8, 7], "grey_range needs a low and a high value"),
    ],
)
def test_facts_that_no_data_has_are_refused(
    stripes: ImageData, tmp_path: Path, name: str, value: object, told: str
) -> None:
    plain = DatasetFacts.of(stripes).to_plain()
    assert DatasetFacts.from_plain(plain) == DatasetFacts.of(stripes)
    with pytest.raises(ValueError, match=told):
        DatasetFacts.from_plain(plain | {name: value})


def test_facts_from_before_rows_and_greys_were_noted_are_read(stripes: ImageData) -> None:
    plain = DatasetFacts.of(stripes).to_plain()
    old = {name: value for name, value in plain.items() if name not in {"rows", "grey_range"}}
    facts = DatasetFacts.from_plain(old)
    assert (facts.rows, facts.grey_range, facts.classes) == ("", (), stripes.classes)


def test_a_damaged_fact_is_named_with_its_file(stripes: ImageData, tmp_path: Path) -> None:
    train(SMALL, data=stripes, out=tmp_path / "run")
    edit_config(tmp_path / "run", "- vertical", "- 3")
    assert RunFolder(tmp_path / "run").read_config()[1].classes[0] == "3"
    edit_config(tmp_path / "run", "std:", "deviation:")
    with pytest.raises(ValueError, match=r"config.yaml: dataset cannot be used: std needs as many values"):
        RunFolder(tmp_path / "run").read_config()
