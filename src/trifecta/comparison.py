"""Methods on equal work: every method, and rivals that differ from one in a single thing.

Data, network, epochs, batches and augmentation are the same for all rows; so is the width, except for a row
that is widened to the number of parameters of another. Optimizers, heads and their parameters are the
methods' own: the rivals set them equal, one at a time. A tenth of the training split is held out, so that
the seconds to an accuracy can be told.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch

from trifecta._utils.references import lookup, name_of
from trifecta.bench.speed import seconds_to
from trifecta.counts import counts
from trifecta.data import DataConfig
from trifecta.experiments import Estimate, RowSummary
from trifecta.losses import (
    Combined,
    GroupCrossEntropy,
    PositionThresholds,
    SupervisedContrastive,
    Temperature,
)
from trifecta.methods import (
    METHODS,
    Method,
    backprop,
    deep_supervision,
    deeper_forward,
    hcl_ff,
    scff,
    superfecta,
)
from trifecta.methods.superfecta import CLASSIFIER
from trifecta.network import build_network
from trifecta.nn.networks import NetworkBuilder, get_network
from trifecta.nn.shapes import ImageShape
from trifecta.optim.config import OptimizerConfig
from trifecta.recipes import BUDGETS, SUPERFECTA_ROWS, Budget, Recipe, with_muon
from trifecta.report import figures
from trifecta.report.terminal import Cells, Columns, cells_of, shown
from trifecta.reproduction import NOT_MEASURED, accuracy_text
from trifecta.training.config import RunConfig

# Backprop and deep supervision with what superfecta has, and superfecta with less.
RIVALS: dict[str, Method] = {
    "backprop-muon": SUPERFECTA_ROWS["backprop"][1],
    "backprop-muon-classifier": SUPERFECTA_ROWS["backprop-classifier"][1],
    "deep-supervision-muon-classifier": with_muon(replace(deep_supervision.method(), objective=CLASSIFIER)),
    "superfecta-small-heads": replace(
        superfecta.method(), objective=replace(CLASSIFIER, pool=2, hidden=16)
    ),
    "backprop-muon-wide": SUPERFECTA_ROWS["backprop"][1],
}
_SHARP_GROUPS = GroupCrossEntropy(goodness="mean", temperature=0.1)
# Settings for a few epochs of narrow networks; the published ones are for hundreds of wide ones.
SHORT: dict[str, Method] = {
    # Means of activations differ by little, so a softmax over them is flat; dropout needs time.
    "deeper-forward-short": replace(deeper_forward.method(), objective=_SHARP_GROUPS, dropout=0.0),
    # The published temperature begins to fall in its first epoch and takes fifty.
    "hcl-ff-short": replace(
        hcl_ff.method(),
        objective=Combined(
            scoring=_SHARP_GROUPS,
            terms=(SupervisedContrastive(temperature=Temperature(first=0.2, second=0.1)),),
        ),
        dropout=0.0,
    ),
    # Goodness of 6 is far for blocks whose weights have just been drawn.
    "scff-short": replace(
        scff.method(), objective=PositionThresholds(positive=(0.0,), negative=(1.0,), penalty=(0.0012,))
    ),
}
COMPARISONS: dict[str, Method] = {name: build() for name, build in METHODS.items()} | RIVALS | SHORT
# Rows whose network is widened until it has the parameters of another method's, heads included.
WIDENED: dict[str, Method] = {"backprop-muon-wide": superfecta.method()}

# Test accuracy on CIFAR-10, in percent, as each paper reports it for a network and a training of its own:
# predsim's and backprop's are of VGG8B (Nøkland & Eidnes 2019); FF's, SymBa's (both of an MLP) and the
# Trifecta's are as later papers quote them.
PUBLISHED_CIFAR10: dict[str, float] = {
    "ff": 59.0,
    "symba": 59.09,
    "trifecta": 83.51,
    "cwcomp": 78.11,
    "scff": 80.75,
    "deeper-forward": 86.22,
    "distance-forward": 88.2,
    "asge": 90.62,
    "hcl-ff": 91.68,
    "dtg-ff": 91.8,
    "rec-lra": 93.6,
    "predsim": 94.42,
    "backprop": 94.01,
}


class Images(NamedTuple):
    """Shape (C, H, W) and number of classes of a data set, which decide the size of a network."""

    image_shape: ImageShape
    num_classes: int


# By the end of the data's name.
_IMAGES: dict[str, Images] = {
    "mnist": Images((1, 28, 28), 10),
    "fashion_mnist": Images((1, 28, 28), 10),
    "svhn": Images((3, 32, 32), 10),
    "cifar10": Images((3, 32, 32), 10),
    "digits": Images((1, 8, 8), 10),
}


def known_images(data: DataConfig) -> Images | None:
    """Return what is known of a data set by its name; None for others."""
    images = _IMAGES.get(_short(data))
    if images is None or data.image_size is None:
        return images
    return images._replace(image_shape=(images.image_shape[0], *data.image_size))


def comparison_recipes(
    rows: Sequence[str],
    networks: Sequence[str],
    data: DataConfig,
    *,
    find_images: Callable[[], Images] | None = None,
) -> list[Recipe]:
    """Return a recipe for each row and network, by network and then by row.

    Args:
        rows: names in ``COMPARISONS``.
        networks: names as in ``trifecta list``.
        data: data of all rows.
        find_images: called for the images' shape where a row's width depends on it and ``data`` is not
            known by its name.

    Raises:
        ValueError: there is no such row or network (the message names the nearest ones), or a row is
            widened for images of unknown shape.
    """
    for network in networks:
        get_network(network)
    return [
        Recipe(
            name=_name(row, network, data),
            title=f"{row}, {network}",
            base=RunConfig(data=data, method=lookup(COMPARISONS, row, "method"), network=network),
            budgets=_budgets(row, network, data, find_images),
            source="ours: all methods on equal work",
        )
        for network in networks
        for row in rows
    ]


def published_elsewhere(recipe: Recipe) -> float | None:
    """Return the accuracy in percent that a paper reports; None except for the row of its own method."""
    method, network, data = recipe.base.method.name, name_of(recipe.base.network), recipe.data
    own = recipe.name == _name(method, network, data) and _short(data) == "cifar10"
    return PUBLISHED_CIFAR10.get(method) if own else None


def _budgets(
    row: str, network: str, data: DataConfig, find_images: Callable[[], Images] | None
) -> Mapping[str, Budget]:
    """Return the network's budgets, each with a width of its own for a row that is widened."""
    budgets = BUDGETS[network]
    if row not in WIDENED:
        return budgets
    images = known_images(data) or (None if find_images is None else find_images())
    if images is None:
        raise ValueError(
            f"{row} is as wide as its parameters say, which depend on the images, and {data.source} is not "
            "known by its name: leave it out, or say what the images are (find_images)"
        )
    method, wanted = COMPARISONS[row], WIDENED[row]
    return {
        name: replace(
            budget,
            width=width_with(parameters_at(budget.width, wanted, network, images), method, network, images),
        )
        for name, budget in budgets.items()
    }


@cache
def parameters_at(width: float, method: Method, network: str, images: Images) -> int:
    """Count the parameters of a network with all its heads, without allocating them."""
    with torch.device("meta"):
        built = build_network(
            method,
            network,
            sample_shape=images.image_shape,
            num_classes=images.num_classes,
            width=width,
        )
    return sum(p.numel() for p in built.parameters())


def width_with(parameters: int, method: Method, network: str, images: Images) -> float:
    """Return the width, in thousandths, with the nearest number of parameters; the smallest of equals."""

    def count(thousandths: int) -> int:
        return parameters_at(thousandths / 1000, method, network, images)

    # More width never has fewer parameters. Finer widths than thousandths round to the same channels.
    high = 2
    while count(high) < parameters:
        high *= 2
    above = bisect_left(range(high), parameters, key=count, lo=high // 2 + 1)
    nearest = min((above - 1, above), key=lambda part: abs(count(part) - parameters))
    while count(nearest - 1) == count(nearest):
        nearest -= 1
    return nearest / 1000


def _name(row: str, network: str, data: DataConfig) -> str:
    return f"compared-{row}-{network}-{_short(data)}"


def _short(data: DataConfig) -> str:
    return data.source.rpartition("/")[2]


# Fields of a result of which a ratio to backprop's says something.
COMPARED = ("images_per_second", "training_bytes", "saved_bytes")
FIGURES = (
    *("parameters", "block_parameters", "multiply_adds_per_image", "total_seconds", "evaluation_seconds"),
    *COMPARED,
)
BESIDE = "over backprop with the same optimizer where that is a row, else over backprop"
Record = dict[str, Any]


def compare(rows: Sequence[RowSummary], thresholds: Sequence[float] = ()) -> list[Record]:
    """Return what is known of each row, for machines and for :func:`comparison_table`.

    Accuracies are in percent; ``ratios`` are to the row that ``beside`` names: backprop of the same network
    with the same optimizer, or plain backprop if no such row was made. ``seconds_to`` are means over the
    timed seeds, None unless each of them reaches the threshold. What is not known is None.
    """
    measured = {id(row): {name: _figure(row, name) for name in FIGURES} for row in rows}
    several = len({row.recipe.base.network for row in rows}) > 1
    records = []
    for row in rows:
        config, accuracy, reference = row.config, row.accuracy, _reference(row, rows)
        own, other = measured[id(row)], {} if reference is None else measured[id(reference)]
        title = row.recipe.title if several else row.recipe.title.removesuffix(f", {config.network}")
        if config.width != usual_width(rows, config.network):
            title += f", width {config.width:g}"
        records.append(
            {
                "recipe": row.recipe.name,
                "title": title,
                "published": published_elsewhere(row.recipe),
                "accuracy": None if accuracy is None else accuracy.mean,
                "deviation": None if accuracy is None else accuracy.deviation,
                "n": len(row.runs),
                "width": config.width,
                **own,
                "beside": None if reference is None else reference.recipe.name,
                "ratios": {name: _ratio(own[name], other.get(name)) for name in COMPARED},
                "locality": config.method.locality,
                "seconds_to": {f"{t:g}": _seconds_to(row, t) for t in thresholds},
                "budget": row.budget,
                "hardware": row.hardware,
            }
        )
    return records


def comparison_table(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> Cells:
    """Return heading and cells, the most accurate row first and what was not measured last.

    The column of figures that papers report is there if any row has one.
    """
    records = compare(rows, thresholds)
    one = len({row.recipe.base.network for row in rows}) == 1
    published = any(record["published"] is not None for record in records)
    columns: Columns[Record] = [
        ("row" if one else "row, network", lambda r: r["title"]),
        *([("published elsewhere", lambda r: shown(r["published"], "{:g}%"))] if published else []),
        ("test accuracy", accuracy_of),
        ("parameters", lambda r: shown(r["parameters"])),
        ("in blocks", lambda r: shown(r["block_parameters"])),
        ("multiply-adds", lambda r: _scaled(r, "multiply_adds_per_image", 1e6, "{:,.1f} M")),
        ("images/s", lambda r: _scaled(r, "images_per_second", 1, "{:,.0f}")),
        ("whole run, s", lambda r: shown(r["total_seconds"])),
        ("training memory", lambda r: _scaled(r, "training_bytes", 2**20, "{:.0f} MiB")),
        ("held by graph", lambda r: _scaled(r, "saved_bytes", 2**20, "{:.1f} MiB")),
        ("crosses a block", lambda r: r["locality"]),
        *(
            (f"s to {100 * t:g}%", lambda r, t=t: shown(r["seconds_to"][f"{t:g}"], "{:.0f}"))
            for t in thresholds
        ),
    ]
    return cells_of(sorted(records, key=_by_accuracy), columns)


def accuracy_of(record: Record) -> str:
    """Return the accuracy of a record of :func:`compare` with its spread."""
    if record["accuracy"] is None:
        return NOT_MEASURED
    return accuracy_text(Estimate(mean=record["accuracy"], deviation=record["deviation"], n=record["n"]))


def equal_work(rows: Sequence[RowSummary]) -> str:
    """Return a line about the settings that all rows of a network share."""
    configs = {row.recipe.base.network: row.config for row in rows}
    sizes = "; ".join(
        f"{name}: width {usual_width(rows, name):g}, epochs {config.epochs}, batch {config.batch_size}"
        for name, config in configs.items()
    )
    hardware = "; ".join(sorted({row.hardware for row in rows if row.runs}))
    beside = f"; ×: {BESIDE}" if any(_reference(row, rows) for row in rows) else ""
    return (
        f"{rows[0].recipe.data.source}, budget {rows[0].budget}; {sizes}; "
        f"{hardware or NOT_MEASURED}; multiply-adds of a training step, an image{beside}"
    )


def comparison_chart(rows: Sequence[RowSummary]) -> figures.Chart:
    """Return a chart of validation accuracy over seconds, a line for the first timed seed of each row.

    Raises:
        ValueError: no run was timed.
    """
    # The most accurate first, as the table has them.
    named = sorted(zip(compare(rows), rows, strict=True), key=lambda pair: _by_accuracy(pair[0]))
    curves = [
        (record["title"], run.history, run.result["locality"] == "end-to-end")
        for record, row in named
        for run in [run for run in row.runs if run.timed][:1]
    ]
    if not curves:
        raise ValueError(
            "a figure shows accuracy over seconds: no run here was timed; run seed 0 with times"
        )
    return figures.seconds_curves(curves)


def usual_width(rows: Sequence[RowSummary], network: str | NetworkBuilder) -> float:
    """Return the width of all rows of a network except the widened ones."""
    return min(row.config.width for row in rows if row.recipe.base.network == network)


def _by_accuracy(record: Record) -> float:
    return math.inf if record["accuracy"] is None else -record["accuracy"]


def _scaled(record: Record, name: str, unit: float, form: str) -> str:
    """Return a figure in a unit, and its ratio to backprop's if it has one."""
    value, ratio = record[name], record["ratios"].get(name)
    text = shown(None if value is None else value / unit, form)
    return text if ratio is None else f"{text} ({ratio:.2f}×)"


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _seconds_to(row: RowSummary, threshold: float) -> float | None:
    reached = [seconds_to(run.history, threshold) for run in row.runs if run.timed]
    estimate = Estimate.of(reached)
    return estimate.mean if estimate is not None and estimate.n == len(reached) else None


def _reference(row: RowSummary, rows: Sequence[RowSummary]) -> RowSummary | None:
    """Return the row of backprop that a row is compared with."""
    network, plain = row.recipe.base.network, backprop.method()
    width = usual_width(rows, network)
    references = {
        _steps(other.config.method): other
        for other in rows
        if other.runs
        and other.recipe.base.network == network
        and other.config.width == width
        and other.config.method == replace(plain, optimizer=other.config.method.optimizer)
    }
    return references.get(_steps(row.config.method), references.get(_steps(plain)))


def _steps(method: Method) -> OptimizerConfig:
    """Return the settings that decide a weight's step, whatever owns its state."""
    return replace(method.optimizer, ownership="weight", freeze_from=1.0)


def _figure(row: RowSummary, name: str) -> float | None:
    """Return the mean of a field over the runs, or a count if these are of before the field existed."""
    mean = row.mean(name)
    if mean is not None or not row.runs:
        return mean
    counted = _counted(row.config)
    same_network = {run.result["parameters"] for run in row.runs} == {counted.get("parameters")}
    return counted.get(name) if same_network else None


@cache
def _counted(config: RunConfig) -> Mapping[str, Any]:
    images = None if config.data is None else known_images(config.data)
    if images is None:
        return {}
    method = config.method
    network = build_network(
        method,
        config.network,
        sample_shape=images.image_shape,
        num_classes=images.num_classes,
        width=config.width,
    )
    found = counts(network, batch_size=config.batch_size)
    if method.optimizer.freeze_from < 1 or (method.finds_superclasses and not method.superclasses):
        # When blocks freeze follows from the number of images, what they learn from the images themselves.
        del found["multiply_adds_per_image"]
    return found
