"""``trifecta compare`` as a person meets it."""

import json
from pathlib import Path

import pytest

from command import run
from trifecta import bench
from trifecta.bench import Setting, Variant
from trifecta.comparison import COMPARISONS

ASKED: list[tuple[Variant, Setting]] = []


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own, and without the processes that measure memory."""

    def memory(setting: Setting, variant: Variant) -> dict[str, int]:
        ASKED.append((variant, setting))
        return {"training_bytes": 3 * 2**20, "saved_bytes": 2**19}

    ASKED.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "training_memory", memory)


def test_methods_stand_beside_each_other_on_equal_work(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "class-groups, backprop"]
    arguments += ["--budget", "quick", "--seeds", "2", "--thresholds", "0.01,1"]
    status, out, err = run(capsys, *arguments, "--figure", "seconds.svg", "--precision", "fp32")
    assert status == 0
    assert "[4/4]" in err
    assert [(variant.method.name, setting.width) for variant, setting in ASKED] == [
        ("class-groups", 0.125),
        ("backprop", 0.125),
    ]
    rows = json.loads(run(capsys, *arguments, "--show", "--json")[1])
    assert [row["locality"] for row in rows] == ["overlapping", "end-to-end"]
    for row in rows:
        assert (row["n"], row["training_bytes"], row["saved_bytes"]) == (2, 3 * 2**20, 2**19)
        assert row["images_per_second"] > 0
        assert row["total_seconds"] > row["evaluation_seconds"] > 0
        assert row["parameters"] >= row["block_parameters"] > 0
        assert row["multiply_adds_per_image"] > 0
        assert row["beside"] == rows[1]["recipe"]
        assert row["seconds_to"]["0.01"] > 0
        assert f"{row['accuracy']:.2f} ± {row['deviation']:.2f}% (n = 2)" in out
    assert "budget quick; small: width 0.125, epochs 1, batch 128" in out
    assert out.count("3 MiB (1.00×)") == 2
    assert "×: over backprop with the same optimizer where that is a row, else over backprop" in out
    assert "<svg" in (tmp_path / "seconds.svg").read_text()
    stored = [path.read_text() for path in (tmp_path / "benchmarks/results/compared").iterdir()]
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
    assert both["total_seconds"] == alone["total_seconds"]
    (untimed,) = (tmp_path / "benchmarks/results/compared").glob("*_seed-1_*.json")
    assert not any("second" in name for name in json.loads(untimed.read_text())["result"])
    # Without a row of backprop there is nothing to stand beside.
    assert "×" not in run(capsys, *arguments[:-1], "--show")[1]


@pytest.mark.slow
def test_rivals_run_as_rows_of_their_own_at_their_own_width(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path
) -> None:
    """Of images that have no name, so that the width is found from the images themselves."""
    names = ["superfecta", "backprop-muon", "backprop-muon-wide"]
    arguments = [
        "compare",
        "--data",
        str(stripes_folder),
        "--methods",
        ",".join(names),
        "--budget",
        "quick",
    ]
    arguments += ["--pipeline", "2", "--json"]
    rows = json.loads(run(capsys, *arguments)[1])
    assert [row["recipe"] for row in rows] == [
        f"compared-{name}-small-{stripes_folder.name}" for name in names
    ]
    assert {row["beside"] for row in rows} == {rows[1]["recipe"]}
    assert rows[0]["parameters"] == pytest.approx(rows[2]["parameters"], rel=0.01)
    assert rows[1]["width"] == 0.125 < rows[2]["width"]
    # Memory is asked for as the run was made: its method, its width, blocks two at a time where that gains.
    assert [variant.method for variant, _ in ASKED] == [COMPARISONS[name] for name in names]
    assert [setting.width for _, setting in ASKED] == [row["width"] for row in rows]
    assert [variant.pipeline for variant, _ in ASKED] == [2, 1, 1]


def test_a_figure_of_runs_without_times_is_not_drawn(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "--data", str(stripes_folder), "--methods", "backprop", "--budget", "quick"]
    status, out, err = run(capsys, *arguments, "--untimed", "--figure", "x.svg")
    assert status == 2
    assert "backprop " in out
    assert err.splitlines()[-1].startswith(
        "trifecta: a figure shows accuracy over seconds: no run here was timed"
    )
    assert not (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--methods", "class-group"], "unknown method 'class-group': did you mean class-groups"),
        (["--methods", "backprop-moun"], "unknown method 'backprop-moun': did you mean backprop-muon"),
        (["--networks", "smal"], "unknown network 'smal': did you mean small"),
        (["--budget", "tiny"], "unknown budget of compared-backprop-small-digits 'tiny'"),
        (["--thresholds", "70"], "Invalid value for '--thresholds': 70.0 is not in the range 0<x<=1"),
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
    stored = (tmp_path / "benchmarks/results/compared").iterdir()
    configs = [json.loads(path.read_text())["config"] for path in stored]
    pipelines = {config["method"]["name"]: config["pipeline"] for config in configs}
    assert pipelines == {"class-groups": 2, "backprop": 1}
    # Its results are those of blocks one at a time.
    assert "[" not in run(capsys, *arguments, "--budget", "quick")[2]
