"""``trifecta bench`` as a person meets it."""

import json
from pathlib import Path

import pytest

from command import run
from trifecta import bench

TINY = ["--width", "0.05", "--image-shape", "1x8x8", "--classes", "3", "--batch-size", "6", "--rounds", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "arguments", "shown"),
    [
        ("speed", ["--rows", "trifecta,backprop", *TINY], "Trifecta, exact pairs"),
        ("inference", TINY, "published rule, plain PyTorch"),
        ("memory", ["--networks", "equal:2:4", "--rows", "backprop", *TINY], "equal:2:4"),
        (
            "accuracy",
            ["--data", "STRIPES", "--epochs", "1", "--network", "mlp", "--width", "0.01"],
            "class-groups",
        ),
    ],
)
def test_a_benchmark_leaves_a_table_a_report_and_a_figure(
    capsys: pytest.CaptureFixture[str],
    stripes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    benchmark: str,
    arguments: list[str],
    shown: str,
) -> None:
    # In processes of its own; what it measures has tests beside the benchmarks.
    measured = {"training_bytes": 3 * 2**20, "saved_bytes": 2**19}
    monkeypatch.setattr(bench, "training_memory", lambda setting, variant: measured)
    words = [str(stripes_folder) if word == "STRIPES" else word for word in arguments]
    out, figure = tmp_path / "report.jsonl", tmp_path / "figure.png"
    status, printed, _ = run(capsys, "bench", benchmark, *words, "--out", out, "--figure", figure)
    assert status == 0
    assert shown in printed
    assert figure.read_bytes().startswith(b"\x89PNG")
    report = json.loads(out.read_text())
    assert report["benchmark"] == benchmark
    assert report["hardware"] in printed
    assert report["command"].startswith(f"trifecta bench {benchmark} --")
    assert str(tmp_path) not in report["command"]
    assert str(stripes_folder) not in report["command"]


def test_reports_are_appended_and_json_is_the_report_alone(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.jsonl"
    words: list[str | Path] = ["bench", "accuracy", "--data", stripes_folder, "--methods", "backprop"]
    words += ["--epochs", "1", "--network", "mlp", "--width", "0.01", "--out", out, "--json"]
    first, second = (json.loads(run(capsys, *words)[1]) for _ in range(2))
    assert [json.loads(line) for line in out.read_text().splitlines()] == [first, second]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "--rows", "trifekta"], "trifecta"),
        (["speed", "--image-shape", "32x32"], "'32x32' is not CxHxW in pixels, such as 3x32x32"),
        (["speed", "--network", "smal"], "small"),
        (["speed", "--network", "equal:12"], "equal:DEPTH:CHANNELS"),
        (["speed", "--figure", "speed.txt"], ".svg, .png, .pdf"),
        (["speed", "--rounds", "0"], "--rounds"),
        (["speed", "--precision", "fp8", "--width", "0.05"], "fp32"),
        (["memory", "--networks", "equal:x:4", "--rounds", "1"], "equal:DEPTH:CHANNELS"),
        (["accuracy", "--data", "digits", "--thresholds", "80"], "80.0 is not in the range 0<x<=1"),
        (["accuracy", "--data", "digits", "--methods", "symbal"], "symba"),
    ],
    ids=str,
)
def test_a_mistake_gets_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = run(capsys, "bench", *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
