"""``trifecta reproduce`` as a person meets it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from command import run
from trifecta.data import DataConfig
from trifecta.methods import get_method
from trifecta.recipes import FACTORS, TABLES, Budget, Published, Recipe, ResultTable
from trifecta.training import RunConfig


def reproduce(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return run(capsys, "reproduce", *arguments)


@pytest.fixture(autouse=True)
def table(stripes_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ResultTable:
    recipes = [
        Recipe(
            name=f"{name}-stripes",
            title=f"{name} on stripes",
            base=RunConfig(
                data=DataConfig(source=str(stripes_folder), validation=0.0),
                method=get_method(name),
                network="mlp",
            ),
            budgets={"quick": Budget(width=0.01, epochs=1, batch_size=40)},
            source="a test",
            published=published,
        )
        for name, published in (
            ("trifecta", Published(accuracy=87.5, source="A paper", tolerance=1.0)),
            ("backprop", None),
        )
    ]
    table = ResultTable(name="stripes", title="Stripes", recipes=recipes, budget="quick")
    monkeypatch.setitem(TABLES, "stripes", table)
    monkeypatch.chdir(tmp_path)
    return table


def test_it_runs_the_table_then_shows_it_and_writes_pages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = reproduce(capsys, "stripes", "--seeds", "2", "--precision", "fp32")
    assert status == 0
    assert "[1/4] trifecta-stripes_quick_seed-0" in err
    assert "[4/4]" in err
    rows = json.loads(reproduce(capsys, "stripes", "--seeds", "2", "--show", "--json")[1])["stripes"]
    assert [(row["recipe"], row["n"]) for row in rows] == [("trifecta-stripes", 2), ("backprop-stripes", 2)]
    shown = f"{rows[0]['accuracy']:.2f} ± {rows[0]['deviation']:.2f}% (n = 2)"
    difference = f"{rows[0]['accuracy'] - 87.5:+.2f}"
    page = (tmp_path / "runs/reproduce/stripes.html").read_text()
    text = (tmp_path / "runs/reproduce/stripes.md").read_text()
    for place in (out, page, text):
        assert "87.50%" in place
        assert shown in place
        assert difference in place
        assert "quick" in place
    assert "A paper" in page
    assert "A paper" in text
    assert page.count("<svg") == 1
    assert out.splitlines()[-1] == "page runs/reproduce/stripes.html"
    assert len(list((tmp_path / "benchmarks/results/reproduced").glob("*.json"))) == 4


def test_show_runs_nothing_and_what_was_not_run_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = reproduce(capsys, "stripes", "--show")
    assert status == 0
    assert out.count("not measured") == 2
    assert not (tmp_path / "benchmarks").exists()


def test_a_second_time_it_only_shows(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("stripes", "--rows", "backprop-*", "--precision", "fp32")
    assert "[1/1]" in reproduce(capsys, *arguments)[2]
    status, out, err = reproduce(capsys, *arguments)
    assert (status, err) == (0, "")
    assert "(n = 1)" in out


@pytest.mark.slow
def test_a_grid_shows_its_effects(
    capsys: pytest.CaptureFixture[str], table: ResultTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = TABLES["ablation-small-cifar10"]
    source = table.recipes[0].base.data
    size = {"quick": Budget(width=0.02, epochs=1, batch_size=60)}
    recipes = [replace(r, base=replace(r.base, data=source), budgets=size) for r in grid.recipes]
    monkeypatch.setitem(TABLES, "grid", replace(grid, name="grid", recipes=recipes, budget="quick"))
    status, out, _ = reproduce(capsys, "grid", "--precision", "fp32")
    assert status == 0
    assert "synergy" in out
    assert all(f"{levels[-1]} in place of {levels[0]}" in out for levels in FACTORS.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stripe"], "unknown table 'stripe': did you mean stripes?"),
        (["stripes", "--budget", "huge"], "unknown budget of trifecta-stripes 'huge'"),
        (["stripes", "--rows", "x*"], "rows 'x\\*' fits no row of stripes"),
        (["stripes", "--seeds", "0"], "--seeds"),
        (["stripes", "--device", "cuda:7"], "no such device 'cuda:7'"),
        (["stripes", "--precision", "fp8"], "unknown precision 'fp8': did you mean fp32"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    status, _, err = reproduce(capsys, *arguments)
    assert status == 2
    lines = [line for line in err.splitlines() if line.startswith("trifecta: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert not (tmp_path / "benchmarks/results/reproduced").exists()
