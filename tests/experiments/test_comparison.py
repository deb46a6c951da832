"""The table of the comparison: what each row stands beside, and what old result files do not say."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trifecta.comparison import (
    FIGURES,
    Images,
    compare,
    comparison_recipes,
    comparison_table,
    equal_work,
)
from trifecta.data import DataConfig
from trifecta.experiments import RowSummary, StoredRun


def rows_of(
    names: str,
    *,
    network: str = "small",
    data: str = "digits",
    changes: Mapping[str, Any] | None = None,
) -> dict[str, RowSummary]:
    """Rows of budget ``quick`` with one run each: 100, 200 … images a second, in their order."""
    config, images = DataConfig(source=data), Images((1, 8, 8), 10)
    recipes = comparison_recipes(
        names.split(), [network], config, budget="quick", find_images=lambda: images
    )
    return {
        name: RowSummary(recipe=recipe, budget="quick", runs=[run_of(100 * (k + 1), changes or {})])
        for k, (name, recipe) in enumerate(zip(names.split(), recipes, strict=True))
    }


def run_of(speed: float, changes: Mapping[str, Any]) -> StoredRun:
    """A result file; a change to None leaves the figure out."""
    result = {
        "test_accuracy": speed / 1000,
        "seconds": 10.0,
        "total_seconds": 12.0,
        "images_per_second": speed,
        "training_bytes": 2**20 * speed,
        "saved_bytes": 2**20,
        "parameters": 7,
        "block_parameters": 5,
        "multiply_adds_per_image": 3e6,
        "evaluation_seconds": 1.0,
        "hardware": "abacus",
        "precision": "fp32",
    }
    history = [{"seconds": 10.0, "validation_accuracy": 0.5}]
    result = {name: value for name, value in {**result, **changes}.items() if value is not None}
    return StoredRun(name="run", command="", config={}, result=result, history=history)


def beside(rows: dict[str, RowSummary]) -> dict[str, str | None]:
    plain = compare(list(rows.values()), [])
    return {name: row["beside"] for name, row in zip(rows, plain, strict=True)}


def test_a_row_stands_beside_backprop_with_its_own_optimizer() -> None:
    rows = rows_of("pred backprop backprop-muon-classifier backprop-muon superfecta backprop-muon-wide dgl")
    adam, muon = "compared-backprop-small-digits", "compared-backprop-muon-small-digits"
    assert beside(rows) == {
        "pred": adam,
        "backprop": adam,
        "backprop-muon-classifier": muon,
        "backprop-muon": muon,
        "superfecta": muon,
        "backprop-muon-wide": muon,
        "dgl": adam,
    }
    superfecta = compare(list(rows.values()), [])[4]
    assert superfecta["ratios"] == {
        "images_per_second": 500 / 400,
        "training_bytes": 500 / 400,
        "saved_bytes": 1.0,
    }


def test_freezing_is_no_other_optimizer() -> None:
    rows = rows_of("backprop backprop-muon superfecta")
    row = rows["superfecta"]
    method = row.recipe.base.method
    freezing = replace(method, optimizer=replace(method.optimizer, freeze_from=0.5))
    recipe = replace(row.recipe, base=replace(row.recipe.base, method=freezing))
    rows["superfecta"] = replace(row, recipe=recipe)
    assert beside(rows)["superfecta"] == "compared-backprop-muon-small-digits"


def test_without_that_row_it_stands_beside_plain_backprop_and_without_both_alone() -> None:
    rows = rows_of("backprop backprop-muon superfecta")
    rows["backprop-muon"] = replace(rows["backprop-muon"], runs=[])
    assert beside(rows)["superfecta"] == "compared-backprop-small-digits"
    alone = rows_of("superfecta pred backprop-muon-classifier")
    assert set(beside(alone).values()) == {None}
    assert "×" not in equal_work(list(alone.values()))


def test_rows_of_another_network_are_no_reference() -> None:
    rows = rows_of("backprop") | {"other": rows_of("superfecta", network="mlp")["superfecta"]}
    assert beside(rows)["other"] is None
    titles = [row["title"] for row in compare(list(rows.values()))]
    assert titles == ["backprop, small", "superfecta, mlp"]


def test_the_table_says_what_is_not_equal() -> None:
    rows = rows_of("backprop backprop-muon-wide", data="cifar10")
    head, body = comparison_table(list(rows.values()), [0.5, 0.75])
    assert head == [
        *("row", "published elsewhere", "test accuracy", "parameters", "in blocks", "multiply-adds"),
        *("images/s", "whole run, s", "training memory", "held by graph", "crosses a block"),
        *("s to 50%", "s to 75%"),
    ]
    width = rows["backprop-muon-wide"].recipe("quick").width
    assert body == [
        [
            *(f"backprop-muon-wide, width {width:g}", "–", "20.00% (n = 1)", "7", "5", "3.0 M"),
            *("200 (2.00×)", "12", "200 MiB (2.00×)", "1.0 MiB (1.00×)", "end-to-end", "10", "–"),
        ],
        [
            *("backprop", "94.01%", "10.00% (n = 1)", "7", "5", "3.0 M"),
            *("100 (1.00×)", "12", "100 MiB (1.00×)", "1.0 MiB (1.00×)", "end-to-end", "10", "–"),
        ],
    ]
    assert "small: width 0.125, epochs 1" in equal_work(list(rows.values()))
    assert "published elsewhere" not in comparison_table(list(rows_of("backprop").values()), [])[0]


def test_a_row_that_was_not_run_shows_nothing_but_what_it_is() -> None:
    row = replace(rows_of("superfecta")["superfecta"], runs=[])
    (plain,) = compare([row], [0.5])
    assert {plain[name] for name in FIGURES} == {None}
    _, (cells,) = comparison_table([row], [0.5])
    assert cells == ["superfecta", "not measured", *["–"] * 7, "strict", "–"]
