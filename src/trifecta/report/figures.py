"""Figures of a run as SVG text. matplotlib is imported where it is used."""

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

Draw = Callable[[Any], None]
Records = Sequence[Mapping[str, Any]]
POSITIVE, NEGATIVE = "#1a7f5a", "#c2453d"
MOST_CLASSES_NUMBERED, MOST_CLASSES_NAMED = 12, 40
MARKERS = "os^Dv"
# Names of a legend under each other, beside axes of the usual height.
MOST_IN_COLUMN = 16
HOVER = "hover:"
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def block_curves(
    history: Records, key: str, label: str, *, lines: Mapping[str, float] | None = None
) -> str:
    """One line a block over the epochs; ``key`` is a per-block list in every record.

    ``lines`` are levels to compare with, such as chance.
    """

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in history]
        num_blocks = len(history[-1][key])
        for block in range(num_blocks):
            # In an epoch of few steps a block may close none, and has no loss.
            known = [(r["epoch"], r[key][block]) for r in history if r[key][block] is not None]
            if known:
                shade = _shade(block, num_blocks)
                told = [f"block {block}, epoch {epoch}: {value:.4g}" for epoch, value in known]
                axes.plot(
                    *zip(*known, strict=True),
                    marker=".",
                    color=shade,
                    label=f"block {block}",
                    gid=_hover(told),
                )
        for name, level in (lines or {}).items():
            axes.axhline(level, color="grey", linestyle=":", linewidth=1, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        _whole_epochs(axes, epochs)
        _legend(axes, ncols=1 + num_blocks // MOST_IN_COLUMN)

    return _figure(draw, width=6.0, height=3.2)


def depth_curves(curves: Mapping[str, Sequence[float | None]], label: str) -> str:
    """A value of every block, first to last, one line a title."""

    def draw(axes: Any) -> None:
        # The best last block first, so that the legend lists the lines from the top down.
        ordered = sorted(curves.items(), key=lambda curve: -(curve[1][-1] or 0.0))
        for rank, (title, values) in enumerate(ordered):
            known = [(block, value) for block, value in enumerate(values) if value is not None]
            axes.plot(
                *zip(*known, strict=True),
                color=_shade(rank, len(ordered)),
                marker=MARKERS[rank % len(MARKERS)],
                markersize=4,
                label=title,
            )
        axes.set(xlabel="block", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)

    return _figure(draw, width=7.2, height=3.6)


def score_curves(history: Records) -> str:
    """Mean score of true and wrong labels on validation images, a pair of lines a block."""

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in history]
        num_blocks = len(history[-1]["positive_score"])
        for block in range(num_blocks):
            for key, color in (("positive_score", POSITIVE), ("negative_score", NEGATIVE)):
                values = [record[key][block] for record in history]
                if None not in values:
                    strength = 0.3 + 0.7 * (block + 1) / num_blocks
                    kind = "true" if key == "positive_score" else "wrong"
                    told = [
                        f"block {block}, epoch {e}, {kind} label: {v:.4g}"
                        for e, v in zip(epochs, values, strict=True)
                    ]
                    axes.plot(epochs, values, color=color, alpha=strength, marker=".", gid=_hover(told))
        axes.plot([], [], color=POSITIVE, label="true label")
        axes.plot([], [], color=NEGATIVE, label="wrong label")
        axes.set(xlabel="epoch", ylabel="mean score (later blocks darker)")
        _whole_epochs(axes, epochs)
        _legend(axes)

    return _figure(draw, width=6.0, height=3.2)


def score_histogram(block: int, positive: Tensor, negative: Tensor) -> str:
    """Draw two histograms of one block's scores (N,), of true labels and of wrong ones.

    Labels that a shortlist left out have none, which is −∞.
    """
    positive, negative = (scores[scores.isfinite()] for scores in (positive, negative))
    both = torch.cat([positive, negative])
    low, high = torch.quantile(both[:: max(1, len(both) // 100_000)], torch.tensor([0.005, 0.995]))

    def draw(axes: Any) -> None:
        for scores, color, label in (
            (positive, POSITIVE, "true label"),
            (negative, NEGATIVE, "wrong label"),
        ):
            bins = torch.linspace(low.item(), max(high, low + 1e-6).item(), 41).tolist()
            axes.hist(scores.tolist(), bins=bins, color=color, alpha=0.55, label=label)
        axes.set(title=f"block {block}", xlabel="score", yticks=[])
        _legend(axes, below=True)

    return _figure(draw, width=2.9, height=2.3)


def confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> str:
    """Shares of each true class (row) by predicted class (column), from counts (K, K)."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    few = len(classes) <= MOST_CLASSES_NUMBERED

    def draw(axes: Any) -> None:
        image = axes.imshow(shares.tolist(), cmap="Greens", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        if few:
            axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
            for row, column in (shares >= 0.005).nonzero().tolist():
                share = shares[row, column].item()
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", size=7, color=color)
        else:
            axes.figure.colorbar(image, shrink=0.8, label="share of the true class")
            if len(classes) <= MOST_CLASSES_NAMED:
                axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=5)
                axes.set_yticks(range(len(classes)), classes, fontsize=5)

    return _figure(draw, width=5.2, height=4.6)


def bars(values: Sequence[tuple[str, float]], label: str, *, lines: Mapping[str, float]) -> str:
    """One bar a name, and levels to compare with."""

    def draw(axes: Any) -> None:
        names = [name for name, _ in values]
        told = [f"{name}: {value:.4g}" for name, value in values]
        axes.bar(range(len(values)), [value for _, value in values], color=POSITIVE, alpha=0.7)
        # Bars are one path each: points at their tops carry the values.
        axes.plot(
            range(len(values)), [v for _, v in values], ".", color=POSITIVE, markersize=3, gid=_hover(told)
        )
        for rank, (name, level) in enumerate(lines.items()):
            axes.axhline(level, color=(NEGATIVE, "grey")[rank % 2], linestyle="--", linewidth=1, label=name)
        axes.set_xticks(range(len(values)), names, fontsize=7)
        axes.set(ylabel=label)
        _legend(axes)

    return _figure(draw, width=6.0, height=3.0)


def run_curves(histories: Mapping[str, Records]) -> str:
    """Validation accuracy over the epochs, one line a run."""

    def draw(axes: Any) -> None:
        longest: list[int] = [1]
        for rank, (name, history) in enumerate(histories.items()):
            known = [r for r in history if r["validation_accuracy"] is not None]
            epochs = [record["epoch"] for record in known]
            values = [record["validation_accuracy"] for record in known]
            told = [f"{name}, epoch {e}: {v:.4g}" for e, v in zip(epochs, values, strict=True)]
            shade = _shade(rank, len(histories))
            axes.plot(
                epochs,
                values,
                color=shade,
                marker=MARKERS[rank % len(MARKERS)],
                markersize=4,
                label=name,
                gid=_hover(told),
            )
            longest = max(longest, epochs, key=len)
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        _whole_epochs(axes, longest)
        _legend(axes)

    return _figure(draw, width=7.2, height=3.8)


def _whole_epochs(axes: Any, epochs: Sequence[int]) -> None:
    """Mark whole epochs; a single one stands in the middle."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(epochs) < 2:
        axes.set_xlim(epochs[0] - 1 if epochs else 0, epochs[0] + 1 if epochs else 2)


def _legend(axes: Any, *, ncols: int = 1, below: bool = False) -> None:
    """Write the legend beside the axes, or below small ones: inside it would lie over what is drawn."""
    if below:
        axes.figure.legend(fontsize=6, loc="outside lower center", ncols=2)
    else:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=ncols)


def _hover(told: Sequence[str]) -> str:
    """Name a line so that its points get these texts as tooltips, see :func:`_with_tooltips`."""
    return HOVER + json.dumps(list(told))


def _with_tooltips(svg: str) -> str:
    """Give each point of a line that :func:`_hover` named its text, as a ``title`` that browsers show."""
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        if not group.get("id", "").startswith(HOVER):
            continue
        texts = json.loads(group.attrib.pop("id").removeprefix(HOVER))
        for point, text in zip(group.iter(f"{{{SVG}}}use"), texts, strict=False):
            ElementTree.SubElement(point, f"{{{SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="unicode")


def _shade(index: int, count: int) -> Any:
    from matplotlib import colormaps

    # Neither end of the map shows on both a light and a dark page.
    return colormaps["viridis"](0.25 + index / max(1, count - 1) * 0.55)


def _figure(draw: Draw, *, width: float, height: float) -> str:
    """Draw on axes of ``width`` × ``height`` inches; the SVG element, ready to stand in a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A fixed salt, so that equal runs give equal pages; text stays text and can be searched.
    style: Any = {
        "svg.hashsalt": "trifecta",
        "svg.fonttype": "none",
        "font.size": 8,
        "legend.frameon": False,
        # A dollar in a name is one.
        "text.parse_math": False,
    }
    with rc_context(style), warnings.catch_warnings():
        # Text stays text: the browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    # Lines and letters take the page's colour, light or dark.
    return _with_tooltips(svg[svg.index("<svg") :]).replace("#000000", "currentColor")
