"""Self-contained pages of one run, or of several runs side by side.

jinja2, matplotlib and pandas are imported where they are used.
"""

import base64
import io
import re
import warnings
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trifecta._utils.extras import require
from trifecta._utils.files import write_atomically
from trifecta._utils.references import printable
from trifecta.data import normalize
from trifecta.network import LocalNetwork
from trifecta.nn.cutting import map_tensors
from trifecta.report import figures
from trifecta.report.figures import Chart
from trifecta.report.terminal import percent
from trifecta.training import RunFolder
from trifecta.training.config import read_yaml, to_plain, yaml_text
from trifecta.training.run import Run

MOST_MISTAKES, MOST_PAIRS, MOST_MAPPED = 12, 10, 4
# Samples for counting memory: enough for a batch norm, few enough for any machine.
COUNTED_SAMPLES = 4
# Characters that no page may hold: controls except white space, and halves of surrogate pairs.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_CALIBRATED_ON = {
    "validation": "fitted on validation images",
    "fold": "fitted on a fifth of the training images, scored by a network trained on the rest",
    "training": "fitted on the training images themselves, which are known too well",
    None: "not fitted",
}


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
        warnings.warn(
            f"no page without {' and '.join(missing)}: pip install 'trifecta[report]'", stacklevel=3
        )
    return missing


def write_report(run: Run, page: Path | None = None) -> None:
    """Write ``page``, by default ``report.html`` in the run's folder; only warn if the extra is missing."""
    folder = run.trainer.folder
    if folder is None:
        raise ValueError("a report needs a run folder: train with out=…")
    if missing_libraries():
        return
    text = render(run)
    write_atomically(page or folder.report, lambda path: path.write_text(text, encoding="utf-8"))


def render(run: Run) -> str:
    """Return the page of a finished run."""
    trainer, test, confusion = run.trainer, run.test, run.test.confusion
    # Non-printing characters act on nothing here.
    classes = [printable(name) for name in trainer.data.classes]
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    shape = trainer.data.sample_shape
    # What each block adds, if several have scores.
    reached = [(f"0–{k}", v) for k, v in enumerate(test.cumulative_accuracy) if v is not None]
    whole = {"this run's read-out": test.accuracy}
    has_pictures = len(shape) == 3 and shape[0] in (1, 3) and trainer.data.test.labels.ndim == 1
    return fill(
        "page.html",
        result=run.result,
        losses=trainer.history[-1]["loss"],
        curves=_curves(run),
        histograms=[
            figures.score_histogram(block, positive, negative)
            for block, (positive, negative) in enumerate(zip(test.positive, test.negative, strict=True))
            if positive is not None and negative is not None and bool(positive.isfinite().any())
        ],
        added=None if len(reached) < 2 else figures.bars(reached, "test accuracy", lines=whole),
        memory=_memory(run),
        confusion=figures.confusion_matrix(confusion, classes),
        by_class=[
            (name, own / count if count else None, int(count))
            for name, own, count in zip(classes, right, counts, strict=True)
        ],
        pairs=_confused_pairs(confusion, classes),
        mistakes=_mistakes(run, classes) if has_pictures else [],
        maps=_maps(run, classes) if has_pictures else [],
        tries_labels=trainer.config.method.tries_labels,
        test=test,
        temperature=float(run.network.temperature),
        calibrated_on=_CALIBRATED_ON[run.result.get("calibrated_on")],
        test_images=f"{len(trainer.data.test):,}",
        chance=1 / len(classes),
        settings=yaml_text(to_plain(trainer.config)),
    )


def _curves(run: Run) -> list[tuple[Chart, str]]:
    """Return charts over the epochs with their captions."""
    history = run.trainer.history
    losses = figures.block_curves(history, "loss", "loss")
    curves = [(losses, "Each block's local loss, mean over the epoch")]
    if history[-1]["validation_accuracy"] is not None:
        chance = {"chance": 1 / len(run.trainer.data.classes)}
        own = figures.block_curves(history, "block_accuracy", "validation accuracy", lines=chance)
        scores = "Mean score of true and of wrong labels on validation images"
        curves.append((own, "Each block's own accuracy on validation images"))
        curves.append((figures.score_curves(history), scores))
    return curves


def _memory(run: Run) -> Chart:
    """Return a chart of what each block's graph holds, with the sums that train at once."""
    network, data, schedule = (
        run.trainer.network.eval(),
        run.trainer.data,
        run.trainer.config.method.schedule,
    )
    first = torch.arange(min(COUNTED_SAMPLES, len(data.test)), device=data.test.labels.device)
    samples = normalize(data.test.select(first).images.to(run.trainer.device), data.mean, data.std)
    held = [size / len(samples) / 2**10 for size in held_bytes(network, samples)]
    windows = [w for step in range(schedule.cycle) for w in schedule.windows(step, len(held))]
    largest = max(sum(held[k] for k in window.blocks) for window in windows)
    lines = {"end to end: all at once": sum(held), "this run: its largest window": largest}
    return figures.bars([(str(k), size) for k, size in enumerate(held)], "KiB an image", lines=lines)


def _confused_pairs(confusion: Tensor, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return true class, predicted class and number of images of the most frequent mistakes."""
    wrong = confusion.clone().fill_diagonal_(0)
    counts, places = wrong.flatten().topk(min(MOST_PAIRS, wrong.numel()))
    pairs = [
        (*divmod(place, len(classes)), int(n)) for n, place in zip(counts, places.tolist(), strict=True)
    ]
    return [(classes[true], classes[predicted], count) for true, predicted, count in pairs if count]


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


COLUMNS = (
    *("method", "network", "data", "test_accuracy", "parameters", "epochs", "seconds", "locality", "seed"),
)
# What a run adds to its settings, and notes.
NO_SETTINGS = ("dataset", "resolved", "recipe", "budget", "checksum")


def compare_runs(runs: Sequence[str | Path], page: Path) -> None:
    """Write a page that shows finished runs, of folders with different names, side by side to ``page``."""
    folders = {printable(Path(run).resolve().name): RunFolder(run) for run in runs}
    if len(folders) < len(runs):
        raise ValueError("runs are told apart by their folders' names: received two of the same name")
    text = fill(
        "compared.html",
        results={name: folder.read_result() for name, folder in folders.items()},
        columns=COLUMNS,
        settings=differing(folders),
        curves=figures.run_curves({name: folder.read_history() for name, folder in folders.items()}),
    )
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))


def differing(folders: dict[str, RunFolder]) -> dict[str, list[str]]:
    """Return the settings in which runs differ and that have no column, with a value for each run."""
    pandas = require("pandas", install="'trifecta[report]'")
    plain = {name: read_yaml(folder.config) for name, folder in folders.items()}
    # Each run by itself: a setting that others lack keeps its type.
    settings = {name: pandas.json_normalize(one).iloc[0].astype(str) for name, one in plain.items()}
    table = pandas.DataFrame(settings).fillna("–")
    hidden = {*COLUMNS, "data.source", "method.name"}
    return {
        name: row.tolist()
        for name, row in table[table.nunique(axis=1) > 1].iterrows()
        if name not in hidden and name.split(".")[0] not in NO_SETTINGS
    }
