"""The run's page: one HTML file that needs nothing else."""

import yaml

from trifecta._utils.files import write_atomically
from trifecta.report import figures
from trifecta.report.templates import fill, missing_libraries
from trifecta.training.config import to_plain
from trifecta.training.run import Run


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
    trainer = run.trainer
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
            if positive is not None and negative is not None
        ],
        confusion=figures.confusion_matrix(run.test.confusion, trainer.data.classes),
        tries_labels=trainer.config.method.tries_labels,
        test_images=f"{len(trainer.data.test):,}",
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
        curves += [
            {
                "svg": figures.block_curves(history, "block_accuracy", "validation accuracy"),
                "caption": "Each block's own accuracy on validation images",
            },
            {
                "svg": figures.score_curves(history),
                "caption": "Mean score of true and of wrong labels on validation images",
            },
        ]
    return curves
