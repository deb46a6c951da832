"""Tables for a terminal; plain text where the output is not one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trifecta._utils.references import printable
from trifecta.training.run import Run

MOST_CLASSES_SHOWN = 10


def percent(share: float | None) -> str:
    """``0.9612`` → ``96.12%``; an absent one is a dash."""
    return "–" if share is None else f"{100 * share:.2f}%"


def print_run(run: Run, folder: Path) -> None:
    """The blocks' losses and accuracies, the result, and last the run folder's path."""
    last = run.trainer.history[-1]
    print_blocks(run.test.block_accuracy, last["loss"])
    result = run.result
    epochs = "1 epoch" if result["epochs"] == 1 else f"{result['epochs']} epochs"
    console = plain_console()
    validation = result["validation_accuracy"]
    if validation is not None:
        kept = result["kept_epoch"]
        which = "" if kept == result["epochs"] else f", of epoch {kept}, whose weights are kept"
        console.print(f"validation accuracy {percent(validation)}{which}")
    console.print(
        f"test accuracy {percent(result['test_accuracy'])}  ({result['method']}, "
        f"{result['network']}, {result['locality']}; {epochs} in "
        f"{result['seconds']:.1f} s, {result['images_per_second']:,.0f} images/s, "
        f"{result['precision']} on {result['hardware']})"
    )
    console.print(f"run folder {folder}", soft_wrap=True)


def print_blocks(accuracy: Sequence[float | None], loss: Sequence[float | None] | None = None) -> None:
    """One row a block: its loss in the last epoch, and its accuracy if it alone decided."""
    body = []
    for k, share in enumerate(accuracy):
        cells = [] if loss is None else [f"{loss[k]:.4f}" if loss[k] is not None else "–"]
        body.append([str(k), *cells, percent(share)])
    head = ["block", *(["loss"] if loss else []), "test accuracy of this block alone"]
    plain_console().print(simple_table(head, body))


def print_predictions(files: Sequence[Path], shares: Tensor, classes: Sequence[str]) -> None:
    """One row an image: its label, then the probability of every class, or of the likeliest few."""
    classes = [printable(name) for name in classes]
    few = len(classes) <= MOST_CLASSES_SHOWN
    body = []
    for file, row in zip(files, shares, strict=True):
        label = classes[int(row.argmax())]
        if few:
            cells = [percent(value) for value in row.tolist()]
        else:
            best = row.topk(5)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            cells = [", ".join(f"{classes[k]} {percent(value)}" for k, value in pairs)]
        body.append([printable(str(file)), label, *cells])
    head = ["image", "label", *(classes if few else ["the likeliest classes"])]
    plain_console().print(simple_table(head, body))
    plain_console().print("numbers are probabilities by class; the highest predicts")


def print_listing(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Names with their descriptions, one table each."""
    for title, rows in tables.items():
        plain_console().print(simple_table([title, ""], rows.items()))


def simple_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Table:
    """A table without walls."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(head):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for cells in body:
        table.add_row(*cells)
    return table


def plain_console() -> Console:
    """Full width where nobody looks, so that a pipe gets whole lines."""
    console = Console(highlight=False, markup=False, emoji=False)
    return (
        console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=200)
    )
