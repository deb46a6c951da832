"""Settings from strangers: limits on their files, and names that stay names."""

import re
import shutil
from pathlib import Path

import pytest

from command import run
from run_files import edit_config
from trifecta.data import ImageData
from trifecta.training import DatasetFacts, RunConfig, RunFolder, read_config, to_plain, train
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


@pytest.fixture(scope="module")
def finished(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings") / "run"
    train(SMALL, data=stripes, out=folder)
    return folder


def test_settings_that_were_changed_are_read(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    assert read_config(copy / "config.yaml").width == 0.05
    edit_config(copy, "width: 0.05", "width: 0.1  # wider")
    assert RunFolder(copy).read_config()[0].width == read_config(copy / "config.yaml").width == 0.1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("sample_shape", [1, -1], r"a data set has sizes, .*sample_shape=\(1, -1\)"),
        ("sample_shape", 8, r"expected a list, received 8 \(in dataset.sample_shape\)"),
        ("classes", [], r"a data set has sizes, classes, .*classes=\(\)"),
        ("mean", [0.1, 0.2], "a mean and an std above 0 for each channel or none"),
        ("std", [0.0], "an std above 0"),
        ("grey_range", [8], r"a data set has .*grey_range=\(8,\)"),
    ],
)
def test_facts_that_no_data_has_are_refused(
    stripes: ImageData, name: str, value: object, told: str
) -> None:
    plain = to_plain(DatasetFacts.of(stripes))
    assert DatasetFacts.from_plain(plain) == DatasetFacts.of(stripes)
    with pytest.raises(ValueError, match=told):
        DatasetFacts.from_plain(plain | {name: value})


def test_facts_from_before_rows_and_greys_were_noted_are_read(stripes: ImageData) -> None:
    plain = to_plain(DatasetFacts.of(stripes))
    old = {name: value for name, value in plain.items() if name not in {"rows", "grey_range"}}
    facts = DatasetFacts.from_plain(old | {"later": 3})
    assert (facts.rows, facts.grey_range, facts.classes) == ("", (), stripes.classes)


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        (r"(\n  mean:)\n  - 0.5", r"expected a list, received None \(in dataset.mean\)"),
        (r"(?s)()\n  std:.*", r"missing .* 'std' \(in dataset\)"),
        (r"(?s)(\n  std:)\n.*", r"expected a list, received None \(in dataset.std\)"),
        (r"(?s)(\n  sample_shape:).*", r"expected a list, received None \(in dataset.sample_shape\)"),
        (r"(?s)(\ndataset:).*", "was stopped before it began to train"),
    ],
)
def test_a_file_that_was_cut_gives_one_line(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cut: str,
    told: str,
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    edit_config(copy, cut, r"\1\n")
    status, out, error = run(capsys, "evaluate", copy)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert re.search(told, error)


def test_an_edited_fact_is_used_and_a_renamed_one_missed(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    edit_config(copy, "- vertical", "- 3")
    assert RunFolder(copy).read_config()[1].classes[0] == "3"
    edit_config(copy, "std:", "deviation:")
    with pytest.raises(ValueError, match=r"config.yaml: .* missing .* 'std' \(in dataset\)"):
        RunFolder(copy).read_config()
