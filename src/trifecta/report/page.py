"""Pages from this package's templates. jinja2 is imported where it is used."""

import base64
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from trifecta._utils.extras import pillow
from trifecta._utils.files import write_atomically
from trifecta._utils.references import printable
from trifecta.data import ImageData, normalize
from trifecta.network import LocalNetwork
from trifecta.nn.cutting import map_tensors
from trifecta.report import figures
from trifecta.report.terminal import percent
from trifecta.training import Evaluation, RunFolder, Trainer
from trifecta.training.config import read_yaml, to_plain
from trifecta.training.run import Run

# Characters that no page may hold: controls but white space, and halves of pairs.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def fill(template: str, **values: object) -> str:
    """Render the template at a path below this package, such as ``report/page.html``, with ``values``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trifecta", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    return _UNREADABLE.sub("\ufffd", environment.get_template(template).render(values))


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """Replace control characters, which no page and no figure may hold."""
    return tuple(printable(name) for name in names)


def missing_libraries() -> list[str]:
    """Return the libraries that pages need and are not installed; warn of them."""
    missing = [name for name in ("matplotlib", "jinja2") if util.find_spec(name) is None]
    if missing:
        warnings.warn(
            f"no page without {' and '.join(missing)}: pip install 'trifecta[report]'", stacklevel=3
        )
    return missing


def picture_png(image: Tensor) -> str:
    """An image (C, H, W) of 1 or 3 channels, bytes or floats of any range, as a data URI."""
    if image.is_floating_point():
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8)
    pixels = image.movedim(0, -1).numpy()
    return _encoded(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def map_png(shares: Tensor) -> str:
    """A map (H, W) of shares 0 … 1, dark to bright, as a data URI."""
    from matplotlib import colormaps

    return _encoded((colormaps["magma"](shares.numpy())[:, :, :3] * 255).astype("uint8"))


def _encoded(pixels: object) -> str:
    text = io.BytesIO()
    pillow().fromarray(pixels).save(text, format="png")
    return "data:image/png;base64," + base64.b64encode(text.getvalue()).decode()


_MAPPED = 4


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A confident mistake.

    Attributes:
        index: of the image, in the test split.
        true: its class.
        predicted: the class that the network takes it for.
        confidence: probability of that class.
    """

    index: int
    true: int
    predicted: int
    confidence: float


def confident_mistakes(test: Evaluation, labels: Tensor, *, count: int) -> list[Mistake]:
    """Return the wrong predictions that the network is surest of."""
    wrong = (test.predicted != labels).nonzero().flatten()
    order = wrong[test.confidence[wrong].argsort(descending=True)][:count]
    return [
        Mistake(
            index=int(i),
            true=int(labels[i]),
            predicted=int(test.predicted[i]),
            confidence=float(test.confidence[i]),
        )
        for i in order
    ]


def class_accuracy(confusion: Tensor) -> list[float | None]:
    """Accuracy of every class from counts (K, K); None for a class without images."""
    totals = confusion.sum(1)
    return [(confusion[k, k] / total).item() if total else None for k, total in enumerate(totals.tolist())]


def confused_pairs(confusion: Tensor, *, count: int) -> list[tuple[int, int, int]]:
    """Return (true, predicted, images) of the most frequent mistakes."""
    wrong = confusion.clone().fill_diagonal_(0)
    values, places = wrong.flatten().topk(min(count, wrong.numel()))
    size = len(confusion)
    return [(p // size, p % size, v) for v, p in zip(values.tolist(), places.tolist(), strict=True) if v]


@torch.no_grad()
def held_bytes(network: LocalNetwork, samples: Tensor) -> list[int]:
    """Count the bytes that each block's graph holds for a backward pass over ``samples``, by storage.

    Plain graphs of the blocks alone, without heads, which all schedules have in common; no weights.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    x: Any = network.prediction_input(samples, samples.new_zeros(len(samples), dtype=torch.int64))
    each = []
    for k in range(len(network.blocks)):
        held: dict[int, int] = {}
        with torch.enable_grad(), _noting(held, weights):
            _, output = network.pass_block(k, x)
        each.append(sum(held.values()))
        x = map_tensors(Tensor.detach, output)
    return each


@contextmanager
def _noting(held: dict[int, int], weights: set[int]) -> Iterator[None]:
    """Take note of the storages that a graph keeps."""

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def input_maps(network: LocalNetwork, samples: Tensor, labels: Tensor) -> list[Tensor | None]:
    """Say which pixels each block's score of the true class depends on, L × (N, H, W); None without a head.

    ``|gradient · input|`` of the block's own score with respect to the sample, summed over channels; each
    map is divided by its maximum.
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


def shown_images(trainer: Trainer) -> tuple[Tensor, Tensor, Tensor]:
    """Return a few test images of different classes as the network receives them, labels, and pictures."""
    test = trainer.data.test
    classes = sorted(set(test.labels.tolist()))[:_MAPPED]
    first = [int((test.labels == k).nonzero()[0]) for k in classes]
    chosen = test.select(torch.tensor(first, device=test.labels.device)).to(trainer.device)
    return normalize(chosen.images, trainer.data.mean, trainer.data.std), chosen.labels, chosen.images


def first_samples(data: ImageData, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first test samples as the network receives them, and their labels."""
    first = data.test.select(torch.arange(min(count, len(data.test)), device=data.test.labels.device))
    return normalize(first.images.to(device), data.mean, data.std), first.labels.to(device)


MOST_MISTAKES, MOST_PAIRS = 12, 10
# Enough for a batch norm, few enough for any memory; bytes are per sample.
_COUNTED_SAMPLES = 4

_CALIBRATED_ON = {
    "validation": "fitted on validation images",
    "fold": "fitted on a fifth of the training images, scored by a network trained on the rest",
    "training": "fitted on the training images themselves, which are known too well",
    None: "not fitted",
}


def write_report(run: Run) -> None:
    """Write ``report.html`` into the run's folder; only a warning where the extra is missing."""
    folder = run.trainer.folder
    if folder is None:
        raise ValueError("a report needs a run folder: train with out=…")
    if missing_libraries():
        return
    page = render(run)
    write_atomically(folder.report, lambda path: path.write_text(page, encoding="utf-8"))


def render(run: Run) -> str:
    """The page as text."""
    trainer, classes = run.trainer, plain_names(run.trainer.data.classes)
    confusion = run.test.confusion
    return fill(
        "report/page.html",
        result=run.result,
        losses=trainer.history[-1]["loss"],
        curves=_curves(run),
        histograms=[
            figures.score_histogram(block, positive, negative)
            for block, (positive, negative) in enumerate(
                zip(run.test.positive, run.test.negative, strict=True)
            )
            if positive is not None and negative is not None and bool(positive.isfinite().any())
        ],
        added=_added(run),
        memory=_memory(run),
        confusion=figures.confusion_matrix(confusion, classes),
        by_class=[
            (name, accuracy, int(count))
            for name, accuracy, count in zip(
                classes, class_accuracy(confusion), confusion.sum(1), strict=True
            )
        ],
        pairs=[
            (classes[true], classes[predicted], count)
            for true, predicted, count in confused_pairs(confusion, count=MOST_PAIRS)
        ],
        mistakes=_mistakes(run, classes),
        maps=_maps(run, classes),
        tries_labels=trainer.config.method.tries_labels,
        test=run.test,
        temperature=float(run.network.temperature),
        calibrated_on=_CALIBRATED_ON[run.result.get("calibrated_on")],
        test_images=f"{len(trainer.data.test):,}",
        chance=1 / len(classes),
        settings=yaml.safe_dump(to_plain(trainer.config), sort_keys=False, allow_unicode=True),
    )


def _curves(run: Run) -> list[dict[str, str]]:
    history = run.trainer.history
    curves = [
        {
            "svg": figures.block_curves(history, "loss", "loss"),
            "caption": "Each block's local loss, mean over the epoch",
        }
    ]
    if history[-1]["validation_accuracy"] is not None:
        chance = 1 / len(run.trainer.data.classes)
        curves += [
            {
                "svg": figures.block_curves(
                    history, "block_accuracy", "validation accuracy", lines={"chance": chance}
                ),
                "caption": "Each block's own accuracy on validation images",
            },
            {
                "svg": figures.score_curves(history),
                "caption": "Mean score of true and of wrong labels on validation images",
            },
        ]
    return curves


def _added(run: Run) -> str | None:
    """Draw what each block adds; None where one block alone has scores."""
    reached = [(f"0–{k}", v) for k, v in enumerate(run.test.cumulative_accuracy) if v is not None]
    if len(reached) < 2:
        return None
    return figures.bars(reached, "test accuracy", lines={"this run's read-out": run.test_accuracy})


def _memory(run: Run) -> str:
    """Draw what each block's graph holds beside what the whole network's would."""
    network, data = run.trainer.network.eval(), run.trainer.data
    samples, _ = first_samples(data, _COUNTED_SAMPLES, run.trainer.device)
    held = [size / len(samples) / 2**10 for size in held_bytes(network, samples)]
    schedule, count = run.trainer.config.method.schedule, len(held)
    cycle = range(schedule.cycle)
    most = max(sum(held[w.first : w.last + 1]) for step in cycle for w in schedule.windows(step, count))
    return figures.bars(
        [(str(block), size) for block, size in enumerate(held)],
        "KiB an image",
        lines={"end to end: all at once": sum(held), "this run: its largest window": most},
    )


def _mistakes(run: Run, classes: tuple[str, ...]) -> list[dict[str, object]]:
    test = run.trainer.data.test
    if not _has_pictures(run):
        return []
    found = confident_mistakes(run.test, test.labels.cpu(), count=MOST_MISTAKES)
    return [
        {
            "png": picture_png(test.select(torch.tensor([m.index])).images[0].cpu()),
            "true": classes[m.true],
            "predicted": classes[m.predicted],
            "confidence": m.confidence,
        }
        for m in found
    ]


def _maps(run: Run, classes: tuple[str, ...]) -> list[dict[str, object]]:
    if not _has_pictures(run):
        return []
    network = run.trainer.network.eval()
    samples, labels, pictures = shown_images(run.trainer)
    maps = input_maps(network, samples, labels)
    return [
        {
            "name": classes[int(labels[k])],
            "png": picture_png(pictures[k].cpu()),
            "maps": [(block, map_png(m[k].cpu())) for block, m in enumerate(maps) if m is not None],
        }
        for k in range(len(samples))
    ]


def _has_pictures(run: Run) -> bool:
    """Whether samples are images of one or three channels, with a label each."""
    data = run.trainer.data
    shape = data.sample_shape
    return len(shape) == 3 and shape[0] in (1, 3) and data.test.labels.ndim == 1


COLUMNS = (
    "method",
    "network",
    "data",
    "test_accuracy",
    "parameters",
    "epochs",
    "seconds",
    "locality",
    "seed",
)
# What a run adds to its settings, and notes.
NO_SETTINGS = ("dataset", "resolved", "recipe", "budget", "checksum")


def compare_runs(runs: Sequence[str | Path], page: Path) -> None:
    """Write a page of finished runs to ``page``.

    Raises:
        ValueError: a run has no result yet, or is none.
    """
    folders = [RunFolder(run) for run in runs]
    names = plain_names(folder.path.name for folder in folders)
    results = {name: folder.read_result() for name, folder in zip(names, folders, strict=True)}
    if len(results) < len(folders):
        raise ValueError("runs are told apart by their folders' names: received two of the same name")
    settings = differing(folders)
    text = fill(
        "report/compared.html",
        results=results,
        columns=COLUMNS,
        settings=settings,
        curves=figures.run_curves(
            {name: folder.read_history() for name, folder in zip(names, folders, strict=True)}
        ),
    )
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))


def differing(folders: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Return the settings in which runs differ and that have no column, with a value for each run."""
    plain = [dict(_leaves(read_yaml(folder.config))) for folder in folders]
    names = dict.fromkeys(name for settings in plain for name in settings)
    values = {name: [str(settings.get(name, "\N{EN DASH}")) for settings in plain] for name in names}
    return {name: told for name, told in values.items() if len(set(told)) > 1 and not _has_column(name)}


def _has_column(name: str) -> bool:
    """Whether a column says it already: the data's name, or all that follows from the method's."""
    return name in (*COLUMNS, "data.source", "method.name") or name.split(".")[0] in NO_SETTINGS


def _leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
