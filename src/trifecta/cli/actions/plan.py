"""``trifecta plan``: which process would hold which blocks."""

import json

from trifecta.cli.actions import options
from trifecta.methods import get_method
from trifecta.network import build_network
from trifecta.parallel.plan import describe, parse_layout
from trifecta.report.terminal import percent, plain_console, simple_table


def show_plan(
    method: str,
    network: str,
    width: float,
    image_shape: str,
    classes: int,
    processes: int,
    parallel: str,
    as_json: bool,
) -> None:
    """Build the network, place its blocks, print."""
    layout = parse_layout(parallel, processes)
    shape = options.image_shape(image_shape)
    built = build_network(get_method(method), network, sample_shape=shape, num_classes=classes, width=width)
    plan = describe(built, layout)
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    console = plain_console()
    head = ["stage", "ranks", "blocks", "share of the work", "parameters", "sends an image, fp32"]
    body = [
        [
            str(number),
            ", ".join(map(str, stage["ranks"])),
            _run(stage["blocks"]),
            percent(stage["share"]),
            f"{stage['parameters']:,}",
            f"{stage['sends'] * 4 / 1024:,.0f} KiB" if stage["sends"] else "–",
        ]
        for number, stage in enumerate(plan["stages"])
    ]
    console.print(simple_table(head, body))
    console.print(f"balance {percent(plan['balance'])}: the mean stage's work over the largest one's")
    for crossing in plan["crossings"]:
        turn = "every step" if plan["cycle"] == 1 else f"step {crossing['step']} of {plan['cycle']}"
        console.print(
            f"{turn}: blocks {_run(crossing['blocks'])} learn together on stages "
            f"{_run(crossing['stages'])}; their gradient goes back, and no other"
        )
    if not plan["crossings"] and layout.layers > 1:
        console.print("no gradient goes from one stage to another")


def _run(numbers: list[int]) -> str:
    """``3``, or ``3–5``."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
