"""Methods on equal work: every method, and rivals that differ from one in a single thing.

Data, network, epochs, batches and augmentation are the same for all rows; so is the width, except for a row
that is widened to the number of parameters of another. Optimizers, heads and their parameters are the
methods' own: the rivals set them equal, one at a time. A tenth of the training split is held out, so that
the seconds to an accuracy can be told.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch

from trifecta._utils.references import lookup
from trifecta.bench import seconds_chart, seconds_to
from trifecta.data import DataConfig, load_data
from trifecta.experiments import NOT_MEASURED, Estimate, RowSummary, accuracy_text
from trifecta.losses import (
    Combined,
    GroupCrossEntropy,
    PositionThresholds,
    SupervisedContrastive,
    Temperature,
)
from trifecta.methods import METHODS, Method, get_method
from trifecta.methods.superfecta import CLASSIFIER
from trifecta.network import build_network
from trifecta.nn.networks import NetworkBuilder
from trifecta.nn.shapes import SampleShape
from trifecta.optim import OptimizerConfig
from trifecta.recipes import BACKPROP, BUDGETS, SUPERFECTA, Budget, Published, Recipe, varied, with_muon
from trifecta.report import figures
from trifecta.report.terminal import DASH, Cells, Columns, cells_of, field, shown
from trifecta.training.config import RunConfig

# Backprop and deep supervision with what superfecta has, and superfecta with less.
RIVALS: dict[str, Method] = {
    "backprop-muon": with_muon(BACKPROP),
    "backprop-muon-classifier": with_muon(replace(BACKPROP, objective=CLASSIFIER)),
    "deep-supervision-muon-classifier": with_muon(
        replace(get_method("deep-supervision"), objective=CLASSIFIER)
    ),
    "superfecta-small-heads": varied(SUPERFECTA, objective={"pool": 2, "hidden": 16}),
    "backprop-muon-wide": with_muon(BACKPROP),
}
_SHARP_GROUPS = GroupCrossEntropy(goodness="mean", temperature=0.1)
_CONTRAST = SupervisedContrastive(temperature=Temperature(first=0.2, second=0.1))
_NEAR_THRESHOLDS = PositionThresholds(positive=(0.0,), negative=(1.0,), penalty=(0.0012,))
# Settings for a few epochs of narrow networks; the published ones are for hundreds of wide ones.
SHORT: dict[str, Method] = {
    # Means of activations differ by little, so a softmax over them is flat; dropout needs time.
    "deeper-forward-short": replace(get_method("deeper-forward"), objective=_SHARP_GROUPS, dropout=0.0),
    # The published temperature begins to fall in its first epoch and takes fifty.
    "hcl-ff-short": replace(
        get_method("hcl-ff"), objective=Combined(scoring=_SHARP_GROUPS, terms=(_CONTRAST,)), dropout=0.0
    ),
    # Goodness of 6 is far for blocks whose weights have just been drawn.
    "scff-short": replace(get_method("scff"), objective=_NEAR_THRESHOLDS),
}
COMPARISONS: dict[str, Method] = {name: get_method(name) for name in METHODS} | RIVALS | SHORT
# Rows whose network is widened until it has the parameters of another method's, heads included.
WIDENED: dict[str, Method] = {"backprop-muon-wide": SUPERFECTA}
# In thousandths: no row is wider, and so much more width always adds a channel.
MOST_WIDTH, A_CHANNEL = 4096, 64

# Test accuracy on CIFAR-10, in percent, as each paper reports it for a network and a training of its own:
# predsim's and backprop's are of VGG8B (Nøkland & Eidnes 2019); FF's, SymBa's (both of an MLP) and the
# Trifecta's are as later papers quote them.
PUBLISHED_CIFAR10: dict[str, float] = {
    **{"ff": 59.0, "symba": 59.09, "trifecta": 83.51, "cwcomp": 78.11, "scff": 80.75},
    **{"deeper-forward": 86.22, "distance-forward": 88.2, "asge": 90.62, "hcl-ff": 91.68},
    **{"dtg-ff": 91.8, "rec-lra": 93.6, "predsim": 94.42, "backprop": 94.01},
}


class Images(NamedTuple):
    """Shape (C, H, W) and number of classes of a data set, which decide the size of a network."""

    image_shape: SampleShape
    num_classes: int


def comparison_recipes(
    rows: Sequence[str],
    networks: Sequence[str],
    data: DataConfig,
    *,
    budget: str | None = None,
    find_images: Callable[[], Images] | None = None,
) -> list[Recipe]:
    """Return a recipe for each row, a name in ``COMPARISONS``, on each network, by network.

    The width of a widened row depends on the budget, or is found for all, and on the images:
    ``find_images`` tells what they are; without it ``data`` is loaded. An unknown row or network raises a
    ValueError with the nearest names.
    """
    name, recipes = data.source.rpartition("/")[2], []
    for network, row in product(networks, rows):
        method, budgets = lookup(COMPARISONS, row, "method"), lookup(BUDGETS, network, "network")
        if row in WIDENED:
            images = images_of(data) if find_images is None else find_images()
            wanted = [budget] if budget in budgets else list(budgets)
            budgets = {name: _widened(budgets[name], row, network, images) for name in wanted}
        published = None
        if name == "cifar10" and row in PUBLISHED_CIFAR10:
            source, figure = "its paper, for a network of its own", PUBLISHED_CIFAR10[row]
            published = Published(accuracy=figure, source=source, tolerance=0.0)
        recipe = Recipe(
            name=f"compared-{row}-{network}-{name}",
            title=f"{row}, {network}",
            base=RunConfig(data=data, method=method, network=network),
            budgets=budgets,
            source="ours: all methods on equal work",
            published=published,
        )
        recipes.append(recipe)
    return recipes


def images_of(data: DataConfig) -> Images:
    """Load images, and return what decides the size of a network."""
    loaded = load_data(data)
    return Images(loaded.sample_shape, loaded.num_classes)


def _widened(size: Budget, row: str, network: str, images: Images) -> Budget:
    """Return a budget with the width at which a row has the parameters that it is widened to."""
    wanted = parameters_at(size.width, WIDENED[row], network, images)
    return replace(size, width=width_with(wanted, COMPARISONS[row], network, images))


@cache
def parameters_at(width: float, method: Method, network: str, images: Images) -> int:
    """Count the parameters of a network with all its heads, without allocating them."""
    shape, classes = images
    with torch.device("meta"):
        built = build_network(method, network, sample_shape=shape, num_classes=classes, width=width)
    return sum(p.numel() for p in built.parameters())


def width_with(parameters: int, method: Method, network: str, images: Images) -> float:
    """Return the width, in thousandths, with the nearest number of parameters; the smallest of equals."""

    def count(thousandths: int) -> int:
        return parameters_at(thousandths / 1000, method, network, images)

    # More width never has fewer parameters. Finer widths than thousandths round to the same channels.
    above = bisect_left(range(MOST_WIDTH), parameters, key=count, lo=2)
    nearest = min(count(above - 1), count(above), key=lambda found: abs(found - parameters))
    return bisect_left(range(above), nearest, key=count, lo=max(1, above - A_CHANNEL)) / 1000


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

    ``ratios`` are to the row that ``beside`` names: backprop of the same network with the same optimizer,
    or plain backprop if no such row was made. ``seconds_to`` are means over the timed seeds, None unless
    each of them reaches the threshold. What is not known is None.
    """
    several = len({row.recipe.base.network for row in rows}) > 1
    records = []
    for row in rows:
        config, reference = row.config, _reference(row, rows)
        own = {name: row.mean(name) for name in FIGURES}
        ratios = {name: _ratio(own[name], reference.mean(name) if reference else None) for name in COMPARED}
        title = row.recipe.title if several else row.recipe.title.removesuffix(f", {config.network}")
        wider = config.width != usual_width(rows, config.network)
        record = {
            **row.record(),
            **own,
            "title": f"{title}, width {config.width:g}" if wider else title,
            "width": config.width,
            "beside": None if reference is None else reference.recipe.name,
            "ratios": ratios,
            "locality": config.method.locality,
            "seconds_to": {f"{t:g}": _seconds_to(row, t) for t in thresholds},
        }
        records.append(record)
    return records


def comparison_table(rows: Sequence[RowSummary], thresholds: Sequence[float]) -> Cells:
    """Return heading and cells, the most accurate row first and what was not measured last."""
    records = sorted(compare(rows, thresholds), key=_by_accuracy)
    one = len({row.recipe.base.network for row in rows}) == 1
    published = any(record["published"] is not None for record in records)
    columns: Columns[Record] = [
        ("row" if one else "row, network", field("title")),
        *([("published elsewhere", field("published", "{:g}%"))] if published else []),
        ("test accuracy", accuracy_of),
        ("parameters", field("parameters", "{:,.0f}")),
        ("in blocks", field("block_parameters", "{:,.0f}")),
        ("multiply-adds", field("multiply_adds_per_image", "{:,.1f} M", 1e6)),
        ("images/s", _beside("images_per_second", "{:,.0f}")),
        ("whole run, s", field("total_seconds", "{:,.0f}")),
        ("training memory", _beside("training_bytes", "{:.0f} MiB", 2**20)),
        ("held by graph", _beside("saved_bytes", "{:.1f} MiB", 2**20)),
        ("crosses a block", field("locality")),
        *(
            (f"s to {100 * t:g}%", lambda r, t=t: shown(r["seconds_to"][f"{t:g}"], "{:.0f}"))
            for t in thresholds
        ),
    ]
    return cells_of(records, columns)


def _beside(name: str, form: str, unit: float = 1) -> Callable[[Record], str]:
    """Return a column's function that shows a figure, and its ratio to backprop's if it has one."""
    show = field(name, form, unit)
    return lambda record: show(record) + shown(record["ratios"][name], " ({:.2f}×)").removesuffix(DASH)


def accuracy_of(record: Record) -> str:
    """Return the accuracy of a record of :func:`compare` with its spread."""
    mean, deviation, n = (record[name] for name in ("accuracy", "deviation", "n"))
    return accuracy_text(None if mean is None else Estimate(mean=mean, deviation=deviation, n=n))


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
    """Return a chart of validation accuracy over seconds: each row's first timed seed, one at least."""
    # The most accurate first, as the table has them.
    named = sorted(zip(compare(rows), rows, strict=True), key=lambda pair: _by_accuracy(pair[0]))
    timed = {record["title"]: [run for run in row.runs if run.timed] for record, row in named}
    first = {title: runs[0] for title, runs in timed.items() if runs}
    if not first:
        raise ValueError(
            "a figure shows accuracy over seconds: no run here was timed; run seed 0 with times"
        )
    runs = {
        title: tuple([epoch[name] for epoch in run.history] for name in ("seconds", "validation_accuracy"))
        for title, run in first.items()
    }
    references = {title for title, run in first.items() if run.result["locality"] == "end-to-end"}
    return seconds_chart(runs, references)


def usual_width(rows: Sequence[RowSummary], network: str | NetworkBuilder) -> float:
    """Return the width of all rows of a network except the widened ones."""
    return min(row.config.width for row in rows if row.recipe.base.network == network)


def _by_accuracy(record: Record) -> tuple[bool, float]:
    return record["accuracy"] is None, -(record["accuracy"] or 0.0)


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _seconds_to(row: RowSummary, threshold: float) -> float | None:
    reached = [seconds_to(run.history, threshold) for run in row.runs if run.timed]
    estimate = Estimate.of(reached)
    return estimate.mean if estimate is not None and estimate.n == len(reached) else None


def _reference(row: RowSummary, rows: Sequence[RowSummary]) -> RowSummary | None:
    """Return the row of backprop that a row is compared with."""
    network, width = row.recipe.base.network, usual_width(rows, row.recipe.base.network)
    references = {
        _steps(other.config.method): other
        for other in rows
        if other.runs
        and other.recipe.base.network == network
        and other.config.width == width
        and other.config.method == replace(BACKPROP, optimizer=other.config.method.optimizer)
    }
    return references.get(_steps(row.config.method), references.get(_steps(BACKPROP)))


def _steps(method: Method) -> OptimizerConfig:
    """Return the settings that decide a weight's step, whatever owns its state."""
    return replace(method.optimizer, ownership="weight", freeze_from=1.0)
