"""Settings from strangers: limits on their files, and names that stay names."""

from dataclasses import replace
from pathlib import Path

import pytest

from run_files import edit_config
from trifecta.data import ImageData
from trifecta.training import DatasetFacts, RunConfig, RunFolder, load, train
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


def test_a_run_whose_settings_have_a_comment_is_used(stripes: ImageData, tmp_path: Path) -> None:
    train(SMALL, data=stripes, out=tmp_path / "run")
    file = tmp_path / "run/config.yaml"
    file.write_text(f"# my best one\n{file.read_text()}")
    assert RunFolder(tmp_path / "run").read_config()[0] == replace(SMALL, data=None)
    assert load(tmp_path / "run").classes == stripes.classes


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sample_shape", [1, -1], "sample_shape has numbers of 1 or more"),
        ("sample_shape", 8, "sample_shape is a list of int"),
        ("classes", [3], "classes is a list of str"),
        ("classes", [], "classes are one name or more"),
        ("mean", [float("nan")], "mean.0 is a finite number"),
        ("mean", [0.1, 0.2], "mean and std have as many values"),
        ("std", [0.0], "std are above 0"),
        ("grey_range", [7], "grey_range is a low and a higher number"),
        ("grey_range", [-1, 7], "grey_range is a low and a higher number"),
        ("grey_range", [8, 7], "grey_range is a low and a higher number"),
        ("rows", 3, "rows is a text"),
        ("other", 1, "the facts about its data are"),
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
    with pytest.raises(ValueError, match=r"config.yaml: dataset cannot be used: classes is a list of str"):
        RunFolder(tmp_path / "run").read_config()
