"""Charts: each function returns one, as SVG for a page or as a file.

matplotlib is imported where it is used.
"""

import io
import json
import math
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import count, cycle
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from xml.etree import ElementTree

import torch
from torch import Tensor

Points = Sequence[tuple[float, float | None]]
POSITIVE, NEGATIVE = "#1a7f5a", "#c2453d"
MOST_CLASSES_NUMBERED, MOST_CLASSES_NAMED = 12, 40
# Names of a legend under each other, beside axes of the usual height.
MOST_IN_COLUMN = 18
FORMATS = (".svg", ".png", ".pdf")
HOVER = "hover:"
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
P = ParamSpec("P")


@dataclass(frozen=True)
class Chart:
    """Chart that is drawn on matplotlib axes when it is asked for, of a size in inches."""

    draw: Callable[[Any], None]
    width: float
    height: float

    def svg(self) -> str:
        """Return an SVG element for a page: searchable text, tooltips, colours that follow the page."""
        return self._svg("none", transparent=True).replace("#000000", "currentColor")

    def save(self, path: Path) -> None:
        """Write the chart to an .svg, .png or .pdf file."""
        check_format(path)
        if path.suffix == ".svg":
            path.write_text(self._svg("path") + "\n", encoding="utf-8")
            return
        with self._figure() as figure:
            figure.savefig(path, dpi=150)

    def _svg(self, text: str, **how: Any) -> str:
        """Return the chart as SVG whose text is text (``none``) or outlines (``path``)."""
        file = io.StringIO()
        with self._figure(**{"svg.fonttype": text}) as figure, warnings.catch_warnings():
            # Text stays text: the browser has the letters that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, format="svg", metadata={"Date": None}, **how)
        return _with_tooltips(file.getvalue())

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


@chart(7.2, 3.6)
def curves(
    axes: Any,
    lines: Mapping[str, Points],
    x: str,
    y: str,
    *,
    dashed: Container[str] = (),
    references: Container[str] = (),
    levels: Mapping[str, float] = {},
    bottom: float | None = None,
) -> None:
    """Chart a line for each name, through its points that have a value; each point has a tooltip.

    ``x`` and ``y`` are the labels of the axes, and ``bottom`` is where y starts. The lines whose names are
    ``dashed`` have the colours of the solid ones that they go with, and ``references`` are dashed and
    black. ``levels`` are values to compare with, such as chance.
    """
    ranks = {"-": count(), "--": count(), "k--": count()}
    for name, points in lines.items():
        known = [(a, b) for a, b in points if b is not None]
        form = "k--" if name in references else "--" if name in dashed else "-"
        rank = next(ranks[form])
        if not known:
            continue
        told = [f"{name}, {x} {a:.4g}: {b:.4g}" for a, b in known]
        # Ten colours, then the same with another marker; black has markers alone.
        style = {"marker": "osD^v"[(rank if form == "k--" else rank // 10) % 5], "markersize": 3}
        style |= {} if form == "k--" else {"color": f"C{rank % 10}"}
        axes.plot(*zip(*known, strict=True), form, linewidth=1, label=name, gid=_hover(told), **style)
    axes.set(xlabel=x, ylabel=y, ylim=(bottom, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = axes.dataLim.intervalx
    if not low < high:
        middle = low if math.isfinite(low) else 1
        axes.set_xlim(middle - 1, middle + 1)
    _add_legend(axes, levels, ncols=1 + len(lines) // MOST_IN_COLUMN)


@chart(6.0, 3.0)
def bars(axes: Any, values: Mapping[str, float], y: str, *, levels: Mapping[str, float]) -> None:
    """Chart a bar for each block, and levels to compare with."""
    axes.bar(range(len(values)), values.values(), color=POSITIVE, alpha=0.7)
    # Bars are one path each: points at their tops carry the values.
    told = [f"{name}: {value:.4g}" for name, value in values.items()]
    axes.plot(range(len(values)), values.values(), ".", color=POSITIVE, markersize=3, gid=_hover(told))
    axes.set_xticks(range(len(values)), values, fontsize=7)
    axes.set(xlabel="block", ylabel=y)
    _add_legend(axes, levels)


@chart(2.9, 2.3)
def score_histogram(axes: Any, block: int, positive: Tensor, negative: Tensor) -> None:
    """Chart two histograms of one block's scores (N,), of true labels and of wrong ones.

    Labels that a shortlist left out score −∞ and are not drawn.
    """
    finite = [scores[scores.isfinite()] for scores in (positive, negative)]
    both = torch.cat(finite)
    low, high = torch.quantile(both[:: max(1, len(both) // 100_000)], torch.tensor([0.005, 0.995]))
    bins = torch.linspace(low.item(), max(high, low + 1e-6).item(), 41).tolist()
    for kind, color, scores in zip(("true", "wrong"), (POSITIVE, NEGATIVE), finite, strict=True):
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


@chart(6.4, 3.6)
def speed_bars(axes: Any, report: Mapping[str, Any]) -> None:
    """Chart images per second of every row of a benchmark, with their range over the rounds."""
    rows = report["rows"][::-1]
    speeds = [row["images_per_second"] for row in rows]
    middle = [speed["median"] for speed in speeds]
    ends = [[s["median"] - s["low"] for s in speeds], [s["high"] - s["median"] for s in speeds]]
    colors = [NEGATIVE if row["locality"] == "end-to-end" else POSITIVE for row in rows]
    axes.barh([row["title"] for row in rows], middle, xerr=ends, color=colors)
    axes.set(xlabel=f"images per second ({report['benchmark']})")


def _add_legend(axes: Any, levels: Mapping[str, float], *, ncols: int = 1) -> None:
    """Draw levels to compare with, and write the legend beside the axes: inside it would cover lines."""
    for (name, level), color in zip(levels.items(), cycle(("grey", NEGATIVE)), strict=False):
        axes.axhline(level, color=color, linestyle=":", linewidth=1.5, label=name)
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
