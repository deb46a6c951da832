"""Charts: each function returns one, as SVG for a page or as a file.

matplotlib is imported where it is used.
"""

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from xml.etree import ElementTree

import torch
from torch import Tensor

Records = Sequence[Mapping[str, Any]]
POSITIVE, NEGATIVE, PLAIN = "#1a7f5a", "#c2453d", "#8a8a8a"
KINDS = (("true", POSITIVE), ("wrong", NEGATIVE))
MOST_CLASSES_NUMBERED, MOST_CLASSES_NAMED = 12, 40
# Names of a legend under each other, beside axes of the usual height.
MOST_IN_COLUMN = 16
FORMATS = (".svg", ".png", ".pdf")
HOVER = "hover:"
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Chart:
    """Chart that is drawn on matplotlib axes when it is asked for, of a size in inches."""

    draw: Callable[[Any], None]
    width: float
    height: float

    def svg(self) -> str:
        """Return an SVG element for a page: searchable text, tooltips, colours that follow the page."""
        text = io.StringIO()
        with self._figure(**{"svg.fonttype": "none"}) as figure, warnings.catch_warnings():
            # Text stays text: the browser has the letters that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
        svg = text.getvalue()
        return _with_tooltips(svg[svg.index("<svg") :]).replace("#000000", "currentColor")

    def save(self, path: Path) -> None:
        """Write the chart to an .svg, .png or .pdf file."""
        check_format(path)
        with self._figure() as figure:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)

    @contextmanager
    def _figure(self, **style: Any) -> Iterator[Any]:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        # A fixed salt, so that equal charts are equal files; a dollar in a name is one.
        fixed: Any = {"svg.hashsalt": "trifecta", "text.parse_math": False, "font.size": 8}
        with rc_context(fixed | {"legend.frameon": False} | style):
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            self.draw(axes)
            yield figure


def check_format(path: Path) -> None:
    """Raise ValueError for an unknown kind of file, before hours are spent on measuring."""
    if path.suffix not in FORMATS:
        raise ValueError(f"a figure is {', '.join(FORMATS)}: received '{path.name}'")


P = ParamSpec("P")


def chart(
    width: float, height: float
) -> Callable[[Callable[Concatenate[Any, P], None]], Callable[P, Chart]]:
    """Make a function that draws on axes one that returns the chart, of a size in inches."""

    def add(draw: Callable[Concatenate[Any, P], None]) -> Callable[P, Chart]:
        @wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> Chart:
            return Chart(lambda axes: draw(axes, *args, **kwargs), width, height)

        return drawn

    return add


@chart(6.0, 3.2)
def block_curves(
    axes: Any, history: Records, key: str, label: str, *, lines: Mapping[str, float] | None = None
) -> None:
    """Chart one line for each block over the epochs; ``key`` is a list over blocks in every record.

    ``lines`` are levels to compare with, such as chance.
    """
    axes.set(xlabel="epoch", ylabel=label)
    num_blocks = len(history[-1][key])
    for block in range(num_blocks):
        points = [(record["epoch"], record[key][block]) for record in history]
        style = {"marker": ".", "color": _shade(block, num_blocks)}
        _plot(axes, points, f"block {block}", label=f"block {block}", **style)
    for name, level in (lines or {}).items():
        axes.axhline(level, color="grey", linestyle=":", linewidth=1, label=name)
    _finish(axes, ncols=1 + num_blocks // MOST_IN_COLUMN)


@chart(6.0, 3.2)
def score_curves(axes: Any, history: Records) -> None:
    """Chart the mean score of true and wrong labels on validation images, two lines for each block."""
    axes.set(xlabel="epoch", ylabel="mean score (later blocks darker)")
    num_blocks = len(history[-1]["positive_score"])
    for (kind, color), key in zip(KINDS, ("positive_score", "negative_score"), strict=True):
        for block in range(num_blocks):
            points = [(record["epoch"], record[key][block]) for record in history]
            style = {"marker": ".", "color": color, "alpha": 0.3 + 0.7 * (block + 1) / num_blocks}
            _plot(axes, points, f"block {block}, {kind} label", **style)
        axes.plot([], [], color=color, label=f"{kind} label")
    _finish(axes)


@chart(2.9, 2.3)
def score_histogram(axes: Any, block: int, positive: Tensor, negative: Tensor) -> None:
    """Chart two histograms of one block's scores (N,), of true labels and of wrong ones.

    Labels that a shortlist left out score −∞ and are not drawn.
    """
    finite = [scores[scores.isfinite()] for scores in (positive, negative)]
    both = torch.cat(finite)
    low, high = torch.quantile(both[:: max(1, len(both) // 100_000)], torch.tensor([0.005, 0.995]))
    bins = torch.linspace(low.item(), max(high, low + 1e-6).item(), 41).tolist()
    for (kind, color), scores in zip(KINDS, finite, strict=True):
        axes.hist(scores.tolist(), bins=bins, color=color, alpha=0.55, label=f"{kind} label")
    axes.set(title=f"block {block}", xlabel="score", yticks=[])
    # Beside axes this small a legend would leave them no room.
    axes.figure.legend(fontsize=6, loc="outside lower center", ncols=2)


@chart(5.2, 4.6)
def confusion_matrix(axes: Any, confusion: Tensor, classes: Sequence[str]) -> None:
    """Chart the shares of each true class (row) by predicted class (column), from counts (K, K)."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    is_numbered = len(classes) <= MOST_CLASSES_NUMBERED
    image = axes.imshow(shares.tolist(), cmap="Greens", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= MOST_CLASSES_NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(labelsize=7 if is_numbered else 5)
    if not is_numbered:
        axes.figure.colorbar(image, shrink=0.8, label="share of the true class")
        return
    for row, column in (shares >= 0.005).nonzero().tolist():
        share = shares[row, column].item()
        color = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", size=7, color=color)


@chart(6.0, 3.0)
def bars(axes: Any, values: Sequence[tuple[str, float]], label: str, *, lines: Mapping[str, float]) -> None:
    """Chart one bar for each name, and levels to compare with."""
    names, heights = zip(*values, strict=True)
    axes.bar(range(len(values)), heights, color=POSITIVE, alpha=0.7)
    # Bars are one path each: points at their tops carry the values.
    told = [f"{name}: {value:.4g}" for name, value in values]
    axes.plot(range(len(values)), heights, ".", color=POSITIVE, markersize=3, gid=_hover(told))
    for (name, level), color in zip(lines.items(), cycle((NEGATIVE, "grey"))):
        axes.axhline(level, color=color, linestyle="--", linewidth=1, label=name)
    axes.set_xticks(range(len(values)), names, fontsize=7)
    axes.set(ylabel=label)
    _legend(axes)


@chart(7.2, 3.8)
def run_curves(axes: Any, histories: Mapping[str, Records]) -> None:
    """Chart validation accuracy over the epochs, one line for each run."""
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    for rank, (name, history) in enumerate(histories.items()):
        points = [(record["epoch"], record["validation_accuracy"]) for record in history]
        _plot(axes, points, name, label=name, **_line(rank, len(histories)))
    _finish(axes)


@chart(7.2, 3.6)
def depth_curves(axes: Any, curves: Mapping[str, Sequence[float | None]], label: str) -> None:
    """Chart a value of every block, first to last, one line for each title."""
    # The best last block first, so that the legend lists the lines from the top down.
    ordered = sorted(curves.items(), key=lambda curve: -(curve[1][-1] or 0.0))
    for rank, (title, values) in enumerate(ordered):
        _plot(axes, enumerate(values), label=title, **_line(rank, len(ordered)))
    axes.set(xlabel="block", ylabel=label)
    _finish(axes)


@chart(7.2, 4.2)
def seconds_curves(axes: Any, curves: Sequence[tuple[str, Sequence[float], Sequence[float], bool]]) -> None:
    """Chart validation accuracy over seconds of training.

    Each line is a title, seconds and accuracy by epoch, and whether the method is end-to-end.
    """
    # Ten colours, then the same with another marker.
    for number, (title, seconds, accuracy, end_to_end) in enumerate(curves):
        style = {"color": f"C{number % 10}", "marker": "osD"[number // 10 % 3], "markersize": 3}
        dashes = "--" if end_to_end else "-"
        axes.plot(list(accumulate(seconds)), accuracy, dashes, linewidth=1, label=title, **style)
    axes.set(xlabel="seconds of training", ylabel="validation accuracy")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


@chart(6.4, 3.6)
def speed_bars(axes: Any, report: Mapping[str, Any]) -> None:
    """Chart images per second of every row of a benchmark, with their range over the rounds."""
    rows = report["rows"][::-1]
    speeds = [row["images_per_second"] for row in rows]
    middle = [speed["median"] for speed in speeds]
    below = [speed["median"] - speed["low"] for speed in speeds]
    above = [speed["high"] - speed["median"] for speed in speeds]
    colors = [_color(row) for row in rows]
    axes.barh([row["title"] for row in rows], middle, xerr=[below, above], color=colors)
    axes.set(xlabel=f"images per second ({report['benchmark']})")


@chart(6.4, 3.6)
def memory_curves(axes: Any, report: Mapping[str, Any]) -> None:
    """Chart training memory over the depth of networks of equal blocks, one line for each row."""
    equal = [row for row in report["rows"] if row["network"].startswith("equal:")]
    titles = dict.fromkeys(row["title"] for row in equal)
    for title, marker in zip(titles, cycle("os^DvPX*")):
        own = [row for row in equal if row["title"] == title]
        points = [(int(row["network"].split(":")[1]), row["training_bytes"] / 2**20) for row in own]
        _plot(axes, points, marker=marker, color=_color(own[0]), label=title)
    axes.set(xlabel="equal blocks", ylabel="training memory above the model, MiB", ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)


def _plot(axes: Any, points: Iterable[tuple[float, float | None]], name: str = "", **style: Any) -> None:
    """Draw a line through the points that have a value; with a name, each has a tooltip."""
    known = [(x, y) for x, y in points if y is not None]
    if not known:
        return
    if name:
        style["gid"] = _hover([f"{name}, {axes.get_xlabel()} {x}: {y:.4g}" for x, y in known])
    axes.plot(*zip(*known, strict=True), **style)


def _line(rank: int, count: int) -> dict[str, Any]:
    """Return the style of one of several lines."""
    return {"color": _shade(rank, count), "marker": "os^Dv"[rank % 5], "markersize": 4}


def _shade(index: int, count: int) -> Any:
    from matplotlib import colormaps

    # Neither end of the map shows on both a light and a dark page.
    return colormaps["viridis"](0.25 + index / max(1, count - 1) * 0.55)


def _color(row: Mapping[str, Any]) -> str:
    if row["name"] in ("published", "trifecta-plain-graph"):
        return PLAIN
    return NEGATIVE if row["locality"] == "end-to-end" else POSITIVE


def _finish(axes: Any, *, ncols: int = 1) -> None:
    """Mark whole numbers, a single one in the middle, and add a legend."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = axes.dataLim.intervalx
    if not low < high:
        middle = low if math.isfinite(low) else 1
        axes.set_xlim(middle - 1, middle + 1)
    _legend(axes, ncols=ncols)


def _legend(axes: Any, *, ncols: int = 1) -> None:
    """Write the legend beside the axes: inside it would cover lines."""
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=ncols)


def _hover(told: Sequence[str]) -> str:
    """Return an id for a line whose points get these texts as tooltips, see :func:`_with_tooltips`."""
    return HOVER + json.dumps(told)


def _with_tooltips(svg: str) -> str:
    """Give each point of a line with an id from :func:`_hover` its text as a tooltip."""
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        if group.get("id", "").startswith(HOVER):
            texts = json.loads(group.attrib.pop("id").removeprefix(HOVER))
            for point, text in zip(group.iter(f"{{{SVG}}}use"), texts, strict=False):
                ElementTree.SubElement(point, f"{{{SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="unicode")
