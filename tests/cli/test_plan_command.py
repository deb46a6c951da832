"""``trifecta plan``: what it says is what a run would do."""

import json
from typing import Any

import pytest

from command import run
from trifecta import build_network, get_method
from trifecta.counts import block_costs
from trifecta.parallel.plan import Layout, make_plan

SIZE = ("--network", "large", "--width", "0.1", "--image-shape", "3x16x16", "--classes", "4")


def plan_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    status, out, _ = run(capsys, "plan", *SIZE, *arguments, "--json")
    assert status == 0
    return json.loads(out)


def test_a_plan_is_that_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan_of(capsys, "--method", "trifecta", "--processes", "6", "--parallel", "2x3")
    network = build_network(
        get_method("trifecta"), "large", sample_shape=(3, 16, 16), num_classes=4, width=0.1
    )
    made = make_plan(Layout(data=2, layers=3), block_costs(network), network.method.schedule)
    assert [stage["blocks"] for stage in shown["stages"]] == [list(blocks) for blocks in made.stages]
    assert [stage["ranks"] for stage in shown["stages"]] == [[0, 3], [1, 4], [2, 5]]
    assert [stage["share"] for stage in shown["stages"]] == [made.share(k) for k in range(3)]
    assert shown["balance"] == made.balance
    assert len(shown["crossings"]) == len(made.crossings)
    assert sum(stage["parameters"] for stage in shown["stages"]) == sum(
        p.numel() for p in network.parameters()
    )
    # A pair is two images.
    last = made.stages[0][-1]
    channels, height, width = network.feature_shapes[last]
    assert shown["stages"][0]["sends"] == 2 * channels * height * width
    assert shown["stages"][-1]["sends"] == 0


def test_a_plan_says_which_gradient_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    _, strict, _ = run(capsys, "plan", *SIZE)
    assert "no gradient goes from one stage to another" in strict
    _, overlapping, _ = run(capsys, "plan", *SIZE, "--method", "trifecta")
    assert overlapping.count("learn together on stages 0–1; their gradient goes back, and no other") == 1
    _, data, _ = run(capsys, "plan", *SIZE, "--parallel", "data")
    assert "gradient" not in data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "backprop"), "blocks that learn from one loss at the network's end wait"),
        (("--processes", "13"), "a stage holds one block or more: received 13 stages for 12 blocks"),
        (("--parallel", "2x2"), "--parallel 2x2 needs 4 processes: received 2"),
        (("--image-shape", "3x16"), "'3x16' is not CxHxW in pixels, such as 3x32x32"),
        (("--method", "trifect"), "did you mean trifecta"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, "plan", *SIZE, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
