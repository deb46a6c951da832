"""Tables and the figure of docs/scaling.md: several processes, measured and simulated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Cells = tuple[list[str], list[list[str]]]
DRAWN_LINK = "10 Gbit/s, 0.05 ms"


def checked_simulator(rows: Sequence[Row]) -> Cells:
    """Seconds a step, measured and predicted."""
    body = [
        [
            row["kind"],
            row["layout"],
            str(row["processes"]),
            f"{1000 * row['seconds_a_step']:.0f}",
            f"{1000 * row['predicted']:.0f}",
            f"{100 * row['error']:+.1f}%",
        ]
        for row in rows
    ]
    return ["blocks", "layout", "processes", "ms a step", "predicted", "error"], body


def predictions(rows: Sequence[Row]) -> Cells:
    """Speed-up over one device, by link, layout and number of devices."""
    if not rows:
        return [], []
    devices = list(dict.fromkeys(n for row in rows for n in row["gain"]))
    body = [
        [
            row["link"],
            row["layout"],
            *(_times(row["gain"].get(n)) for n in devices),
        ]
        for row in rows
    ]
    return ["link", "layout", *(f"{int(n):,}" for n in devices)], body


def _times(gain: float | None) -> str:
    if gain is None:
        return "–"
    return f"{gain:,.0f}×" if gain >= 100 else f"{gain:.3g}×"


def hosts(rows: Sequence[Row]) -> Cells:
    """Images a second on two emulated hosts, by the rate of their link."""
    layouts = list(dict.fromkeys(row["layout"] for row in rows if row["rate"]))
    alone = next((row["images_per_second"] for row in rows if not row["rate"]), None)
    body = []
    for rate in dict.fromkeys(row["rate"] for row in rows if row["rate"]):
        own = {row["layout"]: row["images_per_second"] for row in rows if row["rate"] == rate}
        cells = [f"{own[layout]:,.0f} ({own[layout] / alone:.2f}×)" if alone else "–" for layout in layouts]
        body.append([rate, *cells])
    if alone is not None:
        body.append(["one process", f"{alone:,.0f}", *[""] * (len(layouts) - 1)])
    return ["link", *(f"{layout}, images/s" for layout in layouts)], body


def draw_scaling(path: Path, rows: Sequence[Row]) -> None:
    """Speed-up over the number of devices, on one link."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8}):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        markers = iter("os^DvPX")
        for row in rows:
            if row["link"] != DRAWN_LINK:
                continue
            devices = [int(n) for n in row["gain"]]
            style = ":" if "free" in row["layout"] else "-"
            axes.plot(devices, list(row["gain"].values()), style, marker=next(markers), label=row["layout"])
        axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="times one device, simulated")
        axes.set_xticks(devices, [f"{n:,}" for n in devices])
        axes.minorticks_off()
        axes.legend(
            loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, title=DRAWN_LINK
        )
        figure.savefig(path, metadata={"Date": None})
