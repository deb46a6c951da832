"""Figures of a run as SVG text. matplotlib is imported where it is used."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Draw = Callable[[Any], None]
Records = Sequence[Mapping[str, Any]]
POSITIVE, NEGATIVE = "#1a7f5a", "#c2453d"
MOST_CLASSES_NUMBERED = 12
MARKERS = "os^Dv"


def block_curves(history: Records, key: str, label: str) -> str:
    """One line a block over the epochs; ``key`` is a per-block list in every record."""

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in history]
        num_blocks = len(history[-1][key])
        for block in range(num_blocks):
            values = [record[key][block] for record in history]
            if values[-1] is not None:
                shade = _shade(block, num_blocks)
                axes.plot(epochs, values, marker=".", color=shade, label=f"block {block}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(
            fontsize=7,
            loc="upper right" if key == "loss" else "lower right",
            ncols=2 if num_blocks > 6 else 1,
        )

    return _figure(draw, width=5.2, height=3.2)


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
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    return _figure(draw, width=7.2, height=3.6)


def score_curves(history: Records) -> str:
    """Mean score of true and wrong labels on validation images, a pair of lines a block."""

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in history]
        num_blocks = len(history[-1]["positive_score"])
        for block in range(num_blocks):
            for key, color in (("positive_score", POSITIVE), ("negative_score", NEGATIVE)):
                values = [record[key][block] for record in history]
                if values[-1] is not None:
                    strength = 0.3 + 0.7 * (block + 1) / num_blocks
                    axes.plot(epochs, values, color=color, alpha=strength)
        axes.plot([], [], color=POSITIVE, label="true label")
        axes.plot([], [], color=NEGATIVE, label="wrong label")
        axes.set(xlabel="epoch", ylabel="mean score (later blocks darker)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7, loc="upper left")

    return _figure(draw, width=5.2, height=3.2)


def score_histogram(block: int, positive: Tensor, negative: Tensor) -> str:
    """Draw two histograms of one block's scores (N,), of true labels and of wrong ones."""
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
        axes.legend(fontsize=6, loc="upper right")

    return _figure(draw, width=2.9, height=2.1)


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

    return _figure(draw, width=5.2, height=4.6)


def _shade(index: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](index / max(1, count - 1) * 0.9)


def _figure(draw: Draw, *, width: float, height: float) -> str:
    """Draw on axes of ``width`` × ``height`` inches; the SVG element, ready to stand in a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A fixed salt, so that equal runs give equal pages; text stays text and can be searched.
    with rc_context({"svg.hashsalt": "trifecta", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
