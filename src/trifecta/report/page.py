"""Self-contained pages of one run, of several runs side by side, and of tables of results.

jinja2, matplotlib and pandas are imported where they are used.
"""

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trifecta._utils.extras import how_to_install, require
from trifecta._utils.files import write_atomically
from trifecta._utils.references import printable
from trifecta.data import normalize
from trifecta.network import LocalNetwork
from trifecta.nn.cutting import map_tensors
from trifecta.report import figures
from trifecta.report.figures import Chart, Points
from trifecta.report.terminal import Columns, Section, cells_of, field, percent
from trifecta.training import RunFolder
from trifecta.training.config import read_yaml, to_plain, yaml_text
from trifecta.training.run import Run

MOST_MISTAKES, MOST_PAIRS, MOST_MAPPED = 12, 10, 4
# Samples for counting memory: enough for a batch norm, few enough for any machine.
COUNTED_SAMPLES = 4
# Characters that no page may hold: controls except white space, and halves of surrogate pairs.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Of several runs: the results that are shown, and what is no setting or has a column of its own.
_RESULTS: Columns[Mapping[str, Any]] = [
    *((name, field(name)) for name in ("run", "method", "network", "data")),
    ("test accuracy", field("test_accuracy", "{:.2%}")),
    ("parameters", field("parameters", "{:,}")),
    ("epochs", field("epochs")),
    ("seconds", field("seconds", "{:.1f}")),
    *((name, field(name)) for name in ("locality", "seed")),
]
_NO_SETTINGS = {"dataset", "resolved", "recipe", "budget", "checksum"}
_SHOWN_SETTINGS = {"method", "network", "data", "epochs", "seed", "data.source", "method.name"}


def fill(template: str, **values: object) -> str:
    """Render a template of this package, such as ``page.html``, with ``values``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trifecta", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    return _UNREADABLE.sub("\ufffd", environment.get_template(template).render(values))


def missing_libraries() -> list[str]:
    """Return the libraries that pages need and that are not installed, with a warning."""
    missing = [name for name in ("matplotlib", "jinja2") if util.find_spec(name) is None]
    if missing:
        warnings.warn(f"no page without {' and '.join(missing)}: {how_to_install('report')}", stacklevel=3)
    return missing


def write_text(path: Path, text: str) -> None:
    """Write a page completely or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_report(run: Run, page: Path | None = None) -> None:
    """Write ``page``, by default ``report.html`` in the run's folder; only warn if the extra is missing."""
    folder = run.trainer.folder
    if folder is None:
        raise ValueError("a report needs a run folder: train with out=…")
    if not missing_libraries():
        write_text(page or folder.report, render(run))


def render(run: Run) -> str:
    """Return the page of a finished run."""
    trainer, test, confusion = run.trainer, run.test, run.test.confusion
    # Non-printing characters act on nothing here.
    classes = [printable(name) for name in trainer.data.classes]
    shape = trainer.data.sample_shape
    has_pictures = len(shape) == 3 and shape[0] in (1, 3) and trainer.data.test.labels.ndim == 1
    return fill(
        "page.html",
        run=run,
        kept=trainer.history[trainer.kept_epoch - 1],
        curves=_curves(run),
        histograms=[
            figures.score_histogram(block, positive, negative)
            for block, (positive, negative) in enumerate(zip(test.positive, test.negative, strict=True))
            if positive is not None and negative is not None and bool(positive.isfinite().any())
        ],
        added=_added(run),
        memory=_memory(run),
        confusion=figures.confusion_matrix(confusion, classes),
        by_class=zip(classes, confusion.diagonal().tolist(), confusion.sum(1).tolist(), strict=True),
        pairs=_confused_pairs(confusion, classes),
        mistakes=_mistakes(run, classes) if has_pictures else [],
        maps=_maps(run, classes) if has_pictures else [],
        settings=yaml_text(to_plain(trainer.config)),
    )


def _curves(run: Run) -> list[tuple[Chart, str]]:
    """Return charts over the epochs with their captions."""
    history, chance = run.trainer.history, {"chance": 1 / len(run.trainer.data.classes)}

    def by_block(key: str, name: str = "block {}") -> dict[str, Points]:
        blocks = range(len(history[-1][key]))
        return {name.format(k): [(record["epoch"], record[key][k]) for record in history] for k in blocks}

    losses = figures.curves(by_block("loss"), "epoch", "loss")
    curves = [(losses, "Each block's local loss, mean over the epoch")]
    if history[-1]["validation_accuracy"] is not None:
        own = figures.curves(by_block("block_accuracy"), "epoch", "validation accuracy", levels=chance)
        true = by_block("positive_score", "block {}, true label")
        wrong = by_block("negative_score", "block {}, wrong label")
        scores = figures.curves(true | wrong, "epoch", "mean score", dashed=wrong)
        curves.append((own, "Each block's own accuracy on validation images"))
        curves.append((scores, "Mean score of true and of wrong labels on validation images"))
    return curves


def _added(run: Run) -> Chart | None:
    """Return a chart of what each block adds to the blocks before it, if several have scores."""
    first, *others = run.network.scored_blocks
    if not others:
        return None
    reached = [accuracy for accuracy in run.test.cumulative_accuracy if accuracy is not None]
    names = [str(first), *(f"{first}–{k}" for k in others)]
    values = dict(zip(names, reached, strict=True))
    return figures.bars(values, "test accuracy", levels={"this run": run.test.accuracy})


def _memory(run: Run) -> Chart:
    """Return a chart of what each block's graph holds, with the sums that train at once."""
    trainer, network = run.trainer, run.network.eval()
    data, schedule = trainer.data, trainer.config.method.schedule
    first = torch.arange(min(COUNTED_SAMPLES, len(data.test)), device=data.test.labels.device)
    samples = normalize(data.test.select(first).images.to(trainer.device), data.mean, data.std)
    held = [size / len(samples) / 2**10 for size in held_bytes(network, samples)]
    windows = [w for step in range(schedule.cycle) for w in schedule.windows(step, len(held))]
    largest = max(sum(held[k] for k in window.blocks) for window in windows)
    levels = {"end to end: all at once": sum(held), "this run: its largest window": largest}
    values = {str(block): size for block, size in enumerate(held)}
    return figures.bars(values, "KiB an image", levels=levels)


def _confused_pairs(confusion: Tensor, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return true class, predicted class and number of images of the most frequent mistakes."""
    wrong = confusion.clone().fill_diagonal_(0)
    counts, places = wrong.flatten().topk(min(MOST_PAIRS, wrong.numel()))
    found = [
        (divmod(place, len(classes)), n) for place, n in zip(places.tolist(), counts.tolist(), strict=True)
    ]
    return [(classes[true], classes[predicted], int(n)) for (true, predicted), n in found if n]


def _mistakes(run: Run, classes: Sequence[str]) -> list[dict[str, object]]:
    """Return the wrong predictions that the network is surest of."""
    test, found = run.trainer.data.test, run.test
    labels = test.labels.cpu()
    wrong = (found.predicted != labels).nonzero().flatten()
    surest = wrong[found.confidence[wrong].argsort(descending=True)][:MOST_MISTAKES].tolist()
    return [
        {
            "png": picture_png(test.select(torch.tensor([index])).images[0]),
            "true": classes[int(labels[index])],
            "predicted": classes[int(found.predicted[index])],
            "confidence": float(found.confidence[index]),
        }
        for index in surest
    ]


def _maps(run: Run, classes: Sequence[str]) -> list[dict[str, object]]:
    """Return a few test images of different classes, with the map of every block."""
    data, network = run.trainer.data, run.trainer.network.eval()
    labels = data.test.labels
    first = [int((labels == k).nonzero()[0]) for k in sorted(set(labels.tolist()))[:MOST_MAPPED]]
    chosen = data.test.select(torch.tensor(first, device=labels.device)).to(run.trainer.device)
    maps = input_maps(network, normalize(chosen.images, data.mean, data.std), chosen.labels)
    shares = {"cmap": "magma", "vmin": 0, "vmax": 1}
    return [
        {
            "name": classes[int(label)],
            "png": picture_png(picture),
            "maps": [(block, _png(m[k], **shares)) for block, m in enumerate(maps) if m is not None],
        }
        for k, (picture, label) in enumerate(zip(chosen.images, chosen.labels, strict=True))
    ]


def picture_png(image: Tensor) -> str:
    """Return an image (C, H, W) of 1 or 3 channels, bytes or floats of any range, as a data URI."""
    if image.is_floating_point():
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8)
    pixels = image[0] if image.shape[0] == 1 else image.movedim(0, -1)
    return _png(pixels, cmap="gray", vmin=0, vmax=255)


def _png(pixels: Tensor, **colors: Any) -> str:
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, pixels.cpu().numpy(), format="png", **colors)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


@torch.no_grad()
def held_bytes(network: LocalNetwork, samples: Tensor) -> list[int]:
    """Count the bytes that each block's graph holds for a backward pass over ``samples``, without weights.

    The graphs are plain ones of the blocks alone, without heads, which all schedules have in common.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    x: Any = network.prediction_input(samples, samples.new_zeros(len(samples), dtype=torch.int64))
    sizes = []
    for k in range(len(network.blocks)):
        held.clear()
        with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
            _, output = network.pass_block(k, x)
        sizes.append(sum(held.values()))
        x = map_tensors(Tensor.detach, output)
    return sizes


def input_maps(network: LocalNetwork, samples: Tensor, labels: Tensor) -> list[Tensor | None]:
    """Return the pixels that each block's score of the true class depends on, L × (N, H, W).

    ``|gradient · input|`` of the block's own score with respect to the sample, summed over channels; each
    map is divided by its maximum. A block without a head has none.
    """
    seen = samples.detach().clone().requires_grad_()
    x: Any = network.prediction_input(seen, labels)
    maps: list[Tensor | None] = []
    for k in range(len(network.blocks)):
        features, x = network.pass_block(k, x)
        if k not in network.scored_blocks:
            maps.append(None)
            continue
        scores = network.head(k).scores(features)
        own = scores if scores.ndim == 1 else scores.gather(1, labels.unsqueeze(1))
        (gradient,) = torch.autograd.grad(own.sum(), seen, retain_graph=True)
        shown = (gradient * seen).abs().sum(1).detach()
        maps.append(shown / shown.amax((1, 2), keepdim=True).clamp(min=1e-12))
    return maps


def compare_runs(runs: Sequence[str | Path], page: Path) -> None:
    """Write a page that shows finished runs, of folders with different names, side by side to ``page``."""
    folders = {printable(Path(run).resolve().name): RunFolder(run) for run in runs}
    if len(folders) < len(runs):
        raise ValueError("runs are told apart by their folders' names: received two of the same name")
    results = [{"run": name, **folder.read_result()} for name, folder in folders.items()]
    lines = {
        name: [(record["epoch"], record["validation_accuracy"]) for record in folder.read_history()]
        for name, folder in folders.items()
    }
    chart = figures.curves(lines, "epoch", "validation accuracy")
    settings = [[name, *values] for name, values in differing(folders).items()]
    table = (["setting", *folders], settings or [["none but those above", *"–" * len(folders)]])
    sections = [
        Section(title="Results", tables=[cells_of(results, _RESULTS)], charts=[chart]),
        Section(title="Settings that differ", tables=[table]),
    ]
    write_text(page, fill("tables.html", title=f"Runs: {', '.join(folders)}", sections=sections))


def differing(folders: Mapping[str, RunFolder]) -> dict[str, list[str]]:
    """Return the settings in which runs differ and that have no column, with a value for each run."""
    pandas = require("pandas", extra="report")
    plain = {name: read_yaml(folder.config) for name, folder in folders.items()}
    # Each run by itself: a setting that others lack keeps its type.
    settings = {name: pandas.json_normalize(one).iloc[0].astype(str) for name, one in plain.items()}
    table = pandas.DataFrame(settings).fillna("–")
    return {
        name: row.tolist()
        for name, row in table[table.nunique(axis=1) > 1].iterrows()
        if name not in _SHOWN_SETTINGS and name.split(".")[0] not in _NO_SETTINGS
    }
