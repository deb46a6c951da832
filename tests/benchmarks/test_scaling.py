"""The benchmark of several processes: shares of a network, and batches that can be shared."""

import pytest

from scaling import Report, measure_scaling, scaling_columns, select_rows
from trifecta.bench import Setting
from trifecta.report.terminal import cells_of

TINY = Setting(width=0.05, image_shape=(1, 8, 8), num_classes=3, batch_size=6, precision="fp32")


def measured(rows: str, *, method: str = "superfecta", micro_batches: int = 2) -> Report:
    return measure_scaling(
        TINY,
        method,
        select_rows(rows),
        processes=2,
        micro_batches=micro_batches,
        steps=2,
        rounds=1,
        say=lambda _: None,
    )


@pytest.mark.slow
def test_layers_are_compared_with_pipelines_of_backprop() -> None:
    report = measured("one,layers,backprop,ddp,1f1b,interleaved")
    rows = {row["name"]: row for row in report["rows"]}
    assert {name: len(row["seconds"]) for name, row in rows.items()} == dict.fromkeys(rows, 1)
    assert {name: len(row["model_bytes"]) for name, row in rows.items()} == {
        **dict.fromkeys(rows, 2),
        "one": 1,
        "backprop": 1,
    }
    # Each stage holds its own blocks, and both together what one process does.
    assert sum(rows["layers"]["model_bytes"]) == rows["one"]["model_bytes"][0]
    assert sum(rows["1f1b"]["model_bytes"]) == rows["backprop"]["model_bytes"][0]
    assert rows["ddp"]["model_bytes"] == rows["backprop"]["model_bytes"] * 2
    # A stage's graph is one window's.
    assert max(rows["layers"]["saved_bytes"]) <= rows["one"]["saved_bytes"][0]
    _, body = cells_of(report["rows"], scaling_columns())
    assert [cells[0] for cells in body][:2] == ["superfecta, one process", "superfecta, layers"]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="received 6 images for 4 micro-batches; use batch_size=4"):
        measured("1f1b", micro_batches=4)


@pytest.mark.slow
def test_a_processs_refusal_is_that_of_the_benchmark() -> None:
    with pytest.raises(ValueError, match="need the whole network's prediction"):
        measured("layers", method="rec-lra")
