"""The run's page: one HTML file that needs nothing else."""

import torch
import yaml

from trifecta._utils.files import write_atomically
from trifecta.report import figures, insight
from trifecta.report.pictures import map_png, picture_png
from trifecta.report.templates import fill, missing_libraries, plain_names
from trifecta.training.config import to_plain
from trifecta.training.run import Run

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
                classes, insight.class_accuracy(confusion), confusion.sum(1), strict=True
            )
        ],
        pairs=[
            (classes[true], classes[predicted], count)
            for true, predicted, count in insight.confused_pairs(confusion, count=MOST_PAIRS)
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
    samples, _ = insight.first_samples(data, _COUNTED_SAMPLES, run.trainer.device)
    held = [size / len(samples) / 2**10 for size in insight.held_bytes(network, samples)]
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
    found = insight.confident_mistakes(run.test, test.labels.cpu(), count=MOST_MISTAKES)
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
    samples, labels, pictures = insight.shown_images(run.trainer)
    maps = insight.input_maps(network, samples, labels)
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
