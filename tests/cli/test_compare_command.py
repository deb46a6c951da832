"""``trifecta compare`` as a person meets it."""

import json
from pathlib import Path

import pytest

from command import run
from trifecta.bench.setting import Setting

ASKED: list[tuple[str, Setting]] = []


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own, and without the processes that measure memory."""

    def memory(setting: Setting, method: str) -> dict[str, int]:
        ASKED.append((method, setting))
        return {"training_bytes": 3 * 2**20, "saved_bytes": 2**19}

    ASKED.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trifecta.cli.compare.training_memory", memory)


def test_methods_stand_beside_each_other_on_equal_work(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "class-groups, backprop"]
    arguments += ["--budget", "quick", "--seeds", "2", "--thresholds", "0.01,1"]
    status, out, err = run(capsys, *arguments, "--figure", "seconds.svg", "--precision", "fp32")
    assert status == 0
    assert "[4/4]" in err
    assert [(method, setting.width) for method, setting in ASKED] == [
        ("class-groups", 0.125),
        ("backprop", 0.125),
    ]
    rows = json.loads(run(capsys, *arguments, "--show", "--json")[1])
    assert [row["locality"] for row in rows] == ["overlapping", "end-to-end"]
    for row in rows:
        assert (row["n"], row["training_bytes"], row["saved_bytes"]) == (2, 3 * 2**20, 2**19)
        assert row["images_per_second"] > 0
        assert row["seconds_to"]["0.01"] > 0
        assert f"{row['accuracy']:.2f} ± {row['deviation']:.2f}% (n = 2)" in out
    assert "budget quick; small: width 0.125, epochs 1, batch 128" in out
    assert out.count("3 MiB (1.00×)") == 2
    assert "×: over backprop of the same network" in out
    assert "<svg" in (tmp_path / "seconds.svg").read_text()
    stored = [path.read_text() for path in (tmp_path / "benchmarks/compared").iterdir()]
    assert len(stored) == 4
    assert not any(str(stripes_folder.parent) in text for text in stored)
    # Nothing is left to do.
    assert "[" not in run(capsys, *arguments)[2]


def test_times_are_of_the_seeds_that_were_timed(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "class-groups", "--budget", "quick"]
    arguments += ["--thresholds", "0.01", "--json"]
    alone = json.loads(run(capsys, *arguments)[1])[0]
    both = json.loads(run(capsys, *arguments, "--seeds", "2", "--untimed")[1])[0]
    assert both["n"] == 2
    assert both["seconds_to"] == alone["seconds_to"]
    assert both["images_per_second"] == alone["images_per_second"]
    # Without a row of backprop there is nothing to stand beside.
    assert "×" not in run(capsys, *arguments[:-1], "--show")[1]


def test_a_figure_of_runs_without_times_is_not_drawn(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "backprop", "--budget", "quick"]
    status, out, err = run(capsys, *arguments, "--untimed", "--figure", "x.svg")
    assert status == 2
    assert "backprop, small" in out
    assert err.splitlines()[-1].startswith(
        "trifecta: a figure shows accuracy over seconds: no run here was timed"
    )
    assert not (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--methods", "class-group"], "unknown method 'class-group': did you mean class-groups"),
        (["--networks", "smal"], "unknown network 'smal': did you mean small"),
        (["--budget", "tiny"], "unknown budget of league-backprop-small-digits 'tiny'"),
        (["--thresholds", "70"], "--thresholds are numbers between 0 and 1"),
        (["--figure", "x.gif"], "a figure is .svg, .png, .pdf"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    status, _, err = run(capsys, "compare", "--data", "digits", "--methods", "backprop", *changes)
    assert status == 2
    assert err.startswith(f"trifecta: {message}")
    assert len(err.splitlines()) == 1


def test_blocks_learn_at_the_same_time_where_the_method_allows(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "class-groups,backprop"]
    assert run(capsys, *arguments, "--budget", "quick", "--pipeline", "2")[0] == 0
    stored = (tmp_path / "benchmarks/compared").iterdir()
    configs = [json.loads(path.read_text())["config"] for path in stored]
    pipelines = {config["method"]["name"]: config["pipeline"] for config in configs}
    assert pipelines == {"class-groups": 2, "backprop": 1}
    # Its results are those of blocks one at a time.
    assert "[" not in run(capsys, *arguments, "--budget", "quick")[2]
