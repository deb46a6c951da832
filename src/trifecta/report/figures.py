"""Charts: each function returns one, as SVG for a page or as a file.

matplotlib is imported where it is used.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

Records = Sequence[Mapping[str, Any]]
POSITIVE, NEGATIVE, PLAIN = "#1a7f5a", "#c2453d", "#8a8a8a"
MOST_CLASSES_NUMBERED, MOST_CLASSES_NAMED = 12, 40
MARKERS = "os^Dv"
# Names of a legend under each other, beside axes of the usual height.
MOST_IN_COLUMN = 16
FORMATS = (".svg", ".png", ".pdf")
HOVER = "hover:"
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Chart:
    """Chart that is drawn when it is asked for.

    Attributes:
        draw: draws on matplotlib axes.
        width: inches.
        height: inches.
    """

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
        """Write the chart to an .svg, .png or .pdf file.

        Raises:
            ValueError: the file has another suffix.
        """
        check_format(path)
        with self._figure() as figure:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)

    @contextmanager
    def _figure(self, **style: Any) -> Iterator[Any]:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        # A fixed salt, so that equal charts are equal files; a dollar in a name is one.
        fixed: Any = {
            "svg.hashsalt": "trifecta",
            "text.parse_math": False,
            "font.size": 8,
            "legend.frameon": False,
        }
        with rc_context(fixed | style):
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            self.draw(axes)
            yield figure


def check_format(path: Path) -> None:
    """Refuse a kind of file that is not drawn, before hours are spent on its figures.

    Raises:
        ValueError: the suffix is none of ``FORMATS``.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"a figure is {', '.join(FORMATS)}: received '{path.name}'")


# ---- Charts of a run.


def block_curves(
    history: Records, key: str, label: str, *, lines: Mapping[str, float] | None = None
) -> Chart:
    """Chart one line for each block over the epochs; ``key`` is a list over blocks in every record.

    ``lines`` are levels to compare with, such as chance.
    """

    def draw(axes: Any) -> None:
        num_blocks = len(history[-1][key])
        for block in range(num_blocks):
            # In an epoch of few steps a block may close none, and has no loss.
            known = [(r["epoch"], r[key][block]) for r in history if r[key][block] is not None]
            if known:
                told = [f"block {block}, epoch {epoch}: {value:.4g}" for epoch, value in known]
                style = {"marker": ".", "color": _shade(block, num_blocks), "gid": _hover(told)}
                axes.plot(*zip(*known, strict=True), label=f"block {block}", **style)
        for name, level in (lines or {}).items():
            axes.axhline(level, color="grey", linestyle=":", linewidth=1, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        _whole_epochs(axes, [record["epoch"] for record in history])
        _legend(axes, ncols=1 + num_blocks // MOST_IN_COLUMN)

    return Chart(draw, 6.0, 3.2)


def score_curves(history: Records) -> Chart:
    """Chart the mean score of true and wrong labels on validation images, two lines for each block."""

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in history]
        num_blocks = len(history[-1]["positive_score"])
        kinds = (("true", "positive_score", POSITIVE), ("wrong", "negative_score", NEGATIVE))
        for block in range(num_blocks):
            for kind, key, color in kinds:
                values = [record[key][block] for record in history]
                if None not in values:
                    points = zip(epochs, values, strict=True)
                    told = [f"block {block}, epoch {e}, {kind} label: {v:.4g}" for e, v in points]
                    strength = 0.3 + 0.7 * (block + 1) / num_blocks
                    axes.plot(epochs, values, color=color, alpha=strength, marker=".", gid=_hover(told))
        for kind, _, color in kinds:
            axes.plot([], [], color=color, label=f"{kind} label")
        axes.set(xlabel="epoch", ylabel="mean score (later blocks darker)")
        _whole_epochs(axes, epochs)
        _legend(axes)

    return Chart(draw, 6.0, 3.2)


def score_histogram(block: int, positive: Tensor, negative: Tensor) -> Chart:
    """Chart two histograms of one block's scores (N,), of true labels and of wrong ones.

    Labels that a shortlist left out score −∞ and are not drawn.
    """
    positive, negative = (scores[scores.isfinite()] for scores in (positive, negative))
    both = torch.cat([positive, negative])
    low, high = torch.quantile(both[:: max(1, len(both) // 100_000)], torch.tensor([0.005, 0.995]))
    bins = torch.linspace(low.item(), max(high, low + 1e-6).item(), 41).tolist()

    def draw(axes: Any) -> None:
        for kind, scores, color in (("true", positive, POSITIVE), ("wrong", negative, NEGATIVE)):
            axes.hist(scores.tolist(), bins=bins, color=color, alpha=0.55, label=f"{kind} label")
        axes.set(title=f"block {block}", xlabel="score", yticks=[])
        # Beside axes this small a legend would leave them no room.
        axes.figure.legend(fontsize=6, loc="outside lower center", ncols=2)

    return Chart(draw, 2.9, 2.3)


def confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> Chart:
    """Chart the shares of each true class (row) by predicted class (column), from counts (K, K)."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)

    def draw(axes: Any) -> None:
        image = axes.imshow(shares.tolist(), cmap="Greens", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        if len(classes) <= MOST_CLASSES_NUMBERED:
            axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
            for row, column in (shares >= 0.005).nonzero().tolist():
                share = shares[row, column].item()
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", size=7, color=color)
            return
        axes.figure.colorbar(image, shrink=0.8, label="share of the true class")
        if len(classes) <= MOST_CLASSES_NAMED:
            axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=5)
            axes.set_yticks(range(len(classes)), classes, fontsize=5)

    return Chart(draw, 5.2, 4.6)


def bars(values: Sequence[tuple[str, float]], label: str, *, lines: Mapping[str, float]) -> Chart:
    """Chart one bar for each name, and levels to compare with."""

    def draw(axes: Any) -> None:
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

    return Chart(draw, 6.0, 3.0)


# ---- Charts of several runs and of benchmarks.


def run_curves(histories: Mapping[str, Records]) -> Chart:
    """Chart validation accuracy over the epochs, one line for each run."""

    def draw(axes: Any) -> None:
        longest: list[int] = [1]
        for rank, (name, history) in enumerate(histories.items()):
            known = [r for r in history if r["validation_accuracy"] is not None]
            epochs = [record["epoch"] for record in known]
            values = [record["validation_accuracy"] for record in known]
            told = [f"{name}, epoch {e}: {v:.4g}" for e, v in zip(epochs, values, strict=True)]
            axes.plot(epochs, values, label=name, gid=_hover(told), **_line(rank, len(histories)))
            longest = max(longest, epochs, key=len)
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        _whole_epochs(axes, longest)
        _legend(axes)

    return Chart(draw, 7.2, 3.8)


def depth_curves(curves: Mapping[str, Sequence[float | None]], label: str) -> Chart:
    """Chart a value of every block, first to last, one line for each title."""

    def draw(axes: Any) -> None:
        # The best last block first, so that the legend lists the lines from the top down.
        ordered = sorted(curves.items(), key=lambda curve: -(curve[1][-1] or 0.0))
        for rank, (title, values) in enumerate(ordered):
            known = [(block, value) for block, value in enumerate(values) if value is not None]
            axes.plot(*zip(*known, strict=True), label=title, **_line(rank, len(ordered)))
        axes.set(xlabel="block", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)

    return Chart(draw, 7.2, 3.6)


def seconds_curves(curves: Sequence[tuple[str, Records, bool]]) -> Chart:
    """Chart validation accuracy over seconds of training.

    Args:
        curves: title, history and whether the method is end-to-end, for each line.
    """

    def draw(axes: Any) -> None:
        # Ten colours, then the same with another marker.
        for number, (title, history, end_to_end) in enumerate(curves):
            axes.plot(
                list(accumulate(record["seconds"] for record in history)),
                [record["validation_accuracy"] for record in history],
                marker="osD"[number // 10 % 3],
                markersize=3,
                linewidth=1,
                linestyle="--" if end_to_end else "-",
                color=f"C{number % 10}",
                label=title,
            )
        axes.set(xlabel="seconds of training", ylabel="validation accuracy")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))

    return Chart(draw, 7.2, 4.2)


def speed_bars(report: Mapping[str, Any]) -> Chart:
    """Chart images a second of every row of a benchmark, with their range over the rounds."""

    def draw(axes: Any) -> None:
        rows = report["rows"][::-1]
        low, middle, high = (
            torch.tensor([row["images_per_second"][key] for row in rows])
            for key in ("low", "median", "high")
        )
        errors = [(middle - low).tolist(), (high - middle).tolist()]
        colors = [_color(row) for row in rows]
        axes.barh([row["title"] for row in rows], middle.tolist(), xerr=errors, color=colors)
        axes.set(xlabel=f"images a second ({report['benchmark']})")

    return Chart(draw, 6.4, 3.6)


def memory_curves(report: Mapping[str, Any]) -> Chart:
    """Chart training memory over the depth of networks of equal blocks, one line for each row."""

    def draw(axes: Any) -> None:
        equal = [row for row in report["rows"] if row["network"].startswith("equal:")]
        titles = dict.fromkeys(row["title"] for row in equal)
        for title, marker in zip(titles, cycle("os^DvPX*")):
            own = [row for row in equal if row["title"] == title]
            depths = [int(row["network"].split(":")[1]) for row in own]
            memory = [row["training_bytes"] / 2**20 for row in own]
            axes.plot(depths, memory, marker=marker, color=_color(own[0]), label=title)
        axes.set(xlabel="equal blocks", ylabel="training memory above the model, MiB", ylim=(0, None))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)

    return Chart(draw, 6.4, 3.6)


# ---- Parts of charts.


def _line(rank: int, count: int) -> dict[str, Any]:
    """Return the style of one of several lines."""
    return {"color": _shade(rank, count), "marker": MARKERS[rank % len(MARKERS)], "markersize": 4}


def _shade(index: int, count: int) -> Any:
    from matplotlib import colormaps

    # Neither end of the map shows on both a light and a dark page.
    return colormaps["viridis"](0.25 + index / max(1, count - 1) * 0.55)


def _color(row: Mapping[str, Any]) -> str:
    if row["name"] in ("published", "trifecta-plain-graph"):
        return PLAIN
    return NEGATIVE if row["locality"] == "end-to-end" else POSITIVE


def _whole_epochs(axes: Any, epochs: Sequence[int]) -> None:
    """Mark whole epochs, a single one in the middle."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(epochs) < 2:
        axes.set_xlim(epochs[0] - 1 if epochs else 0, epochs[0] + 1 if epochs else 2)


def _legend(axes: Any, *, ncols: int = 1) -> None:
    """Write the legend beside the axes: inside it would cover lines."""
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=ncols)


def _hover(told: Sequence[str]) -> str:
    """Return an id for a line whose points get these texts as tooltips, see :func:`_with_tooltips`."""
    return HOVER + json.dumps(list(told))


def _with_tooltips(svg: str) -> str:
    """Give each point of a line with an id from :func:`_hover` its text as a tooltip."""
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        if not group.get("id", "").startswith(HOVER):
            continue
        texts = json.loads(group.attrib.pop("id").removeprefix(HOVER))
        for point, text in zip(group.iter(f"{{{SVG}}}use"), texts, strict=False):
            ElementTree.SubElement(point, f"{{{SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="unicode")
