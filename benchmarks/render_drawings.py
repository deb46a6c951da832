"""Drawings of README and docs that no command of the library makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

LOCAL, END_TO_END, INK = "#1a7f5a", "#c2453d", "#333333"
ROWS = {"backprop-muon": ("backprop", END_TO_END), "superfecta": ("local (superfecta)", LOCAL)}
BLOCKS = 4
DRAWN_LINK = "10 Gbit/s, 0.05 ms"
Row = dict[str, Any]


def draw_overview(path: Path, report: dict[str, Any]) -> None:
    """Draw both panels; the right one from a report of ``trifecta bench memory``."""
    with rc_context({"svg.hashsalt": "trifecta", "font.size": 8}):
        figure = Figure(figsize=(7.6, 3.0), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_blocks(left)
        _draw_memory(right, report)
        figure.savefig(path, metadata={"Date": None})


def _draw_blocks(axes: Axes) -> None:
    axes.set_axis_off()
    axes.set_xlim(-1.3, BLOCKS + 0.2)
    axes.set_ylim(-0.25, 3.1)
    _row(axes, 2.0, "backprop", END_TO_END, local=False)
    _row(axes, 0.25, "local", LOCAL, local=True)


def _row(axes: Axes, y: float, title: str, color: str, *, local: bool) -> None:
    """Blocks from left to right, data through them, and where gradients go."""
    axes.text(-1.3, y + 0.3, title, va="center", color=color, weight="bold")
    for k in range(BLOCKS):
        box = FancyBboxPatch((k + 0.08, y), 0.64, 0.6, "round,pad=0.02", fc="#f3f3f3", ec=INK)
        axes.add_patch(box)
        axes.text(k + 0.4, y + 0.3, f"block {k}", ha="center", va="center", color=INK, fontsize=7)
        _arrow(axes, (k - 0.26, y + 0.38), (k + 0.06, y + 0.38), INK)
        if local or k == BLOCKS - 1:
            axes.text(k + 0.4, y + 0.98, "loss", ha="center", va="center", color=color)
            _arrow(axes, (k + 0.4, y + 0.88), (k + 0.4, y + 0.64), color)
        if not local and k:
            _arrow(axes, (k + 0.06, y + 0.14), (k - 0.26, y + 0.14), color)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=color, lw=1.2))


def _draw_memory(axes: Axes, report: dict[str, Any]) -> None:
    for name, (label, color) in ROWS.items():
        points = [_point(row) for row in report["rows"] if row["name"] == name and _depth(row)]
        depths, mebibytes = zip(*sorted(points), strict=True)
        axes.plot(depths, mebibytes, "o-", color=color, label=label, ms=3.5)
        axes.annotate(
            f"{mebibytes[-1]:.0f} MiB",
            (depths[-1], mebibytes[-1]),
            (-2, 6),
            textcoords="offset points",
            ha="right",
        )
    axes.set_xlabel(
        f"blocks of 128 channels, batch {report['batch_size']}, {report['precision']}\n"
        f"{report['hardware']}\nPyTorch {report['versions']['torch']}, {report['date']}",
        fontsize=7,
    )
    axes.set_ylabel("training memory, MiB")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return _depth(row), row["training_bytes"] / 2**20


def _depth(row: dict[str, Any]) -> int:
    words = row["network"].split(":")
    return int(words[1]) if words[0] == "equal" else 0


def draw_scaling(path: Path, rows: Sequence[Row]) -> None:
    """Speed-up over the number of devices, on one link."""
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
