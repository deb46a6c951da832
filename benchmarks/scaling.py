"""Training in one process and in several: images a second of layers, replicas and backprop's pipelines.

Every process has one thread. Rows take turns, each in processes of its own; the report is appended.

    python benchmarks/scaling.py RESULTS.jsonl [--rows one,layers,1f1b] [--processes 2] …
"""

import logging
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from end_to_end_ranks import INTERLEAVED, SINGLE
from recording import append, command_line
from scaling_rank import Order, measure
from trifecta._utils.references import lookup
from trifecta.bench import Say, Setting, interval, measured_on, ratio, spread
from trifecta.method import Method
from trifecta.methods import get_method
from trifecta.report.terminal import Columns, cells_of, field, print_table

Report = dict[str, Any]
BEST_PIPELINE = "1f1b"
PIPELINES = {*SINGLE, INTERLEAVED}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to share the work.

    Attributes:
        name: on the command line.
        title: in tables; the method's name stands in for ``{}``.
        how: see :class:`scaling_rank.Order`.
        end_to_end: for backprop, with the method's own optimizer.
    """

    name: str
    title: str
    how: str
    end_to_end: bool = False

    @property
    def alone(self) -> bool:
        """Whether it is the row of one process, to which the others of its kind are compared."""
        return self.how == "one"


ROWS = {
    row.name: row
    for row in (
        Row(name="one", title="{}, one process", how="one"),
        Row(name="layers", title="{}, layers", how="layers"),
        Row(name="data", title="{}, data", how="data"),
        Row(name="backprop", title="backprop, one process", how="one", end_to_end=True),
        Row(name="ddp", title="backprop, DDP", how="ddp", end_to_end=True),
        Row(name="gpipe", title="backprop, GPipe", how="gpipe", end_to_end=True),
        Row(name=BEST_PIPELINE, title="backprop, 1F1B", how=BEST_PIPELINE, end_to_end=True),
        Row(
            name="interleaved", title="backprop, interleaved 1F1B, 2 stages a process",
            how="interleaved", end_to_end=True,
        ),
    )
}  # fmt: skip


def select_rows(names: str | None) -> list[Row]:
    """The rows of a comma-separated list; all where None.

    Raises:
        ValueError: one of them does not exist; names the nearest.
    """
    if names is None:
        return list(ROWS.values())
    return [lookup(ROWS, name.strip(), "row") for name in names.split(",")]


def measure_scaling(
    setting: Setting,
    method: str,
    rows: Sequence[Row],
    *,
    processes: int,
    micro_batches: int,
    steps: int,
    rounds: int,
    say: Say,
) -> Report:
    """Measure every row in turn, ``rounds`` times.

    Args:
        setting: network, batch, precision; the whole batch, of which replicas see a share.
        method: whose blocks learn, in the rows that are not backprop.
        rows: which.
        processes: of the rows that have several.
        micro_batches: into which pipelines of backprop cut a batch.
        steps: of a turn, after a warm-up.
        rounds: turns of each row.
        say: told what goes on.

    Raises:
        ValueError: a batch that cannot be shared out.
        ProcessError: a process of a row failed.
    """
    _check_shares(setting.batch_size, rows, processes=processes, micro_batches=micro_batches)
    # Choose the precision here, once for all.
    setting = replace(setting, precision=setting.resolved_precision)
    local = get_method(method)
    measured: dict[str, list[list[dict[str, float]]]] = {row.name: [] for row in rows}
    for number in range(rounds):
        for row in rows:
            say(f"round {number + 1} of {rounds}: {row.title.format(local.name)}")
            order = Order(
                setting=setting,
                method=_end_to_end(local) if row.end_to_end else local,
                how=row.how,
                ranks=1 if row.alone else processes,
                micro_batches=micro_batches,
                steps=steps,
            )
            measured[row.name].append(launch(measure, order.ranks, order))
    seconds = {
        name: [max(r["seconds"] for r in ranks) for ranks in turns] for name, turns in measured.items()
    }
    images = steps * setting.batch_size
    return {
        "benchmark": "scaling",
        **setting.facts(),
        "threads": 1,
        "method": local.name,
        "processes": processes,
        "micro_batches": micro_batches,
        "rounds": rounds,
        "steps_a_turn": steps,
        "rows": [_reported(row, local, rows, seconds, measured[row.name], images) for row in rows],
    }


def _check_shares(images: int, rows: Sequence[Row], *, processes: int, micro_batches: int) -> None:
    hows = {row.how for row in rows}
    shares = {"processes": (processes, {"data", "ddp"}), "micro-batches": (micro_batches, PIPELINES)}
    for what, (count, sharing) in shares.items():
        if hows & sharing and images % count:
            raise ValueError(
                f"a batch is shared equally: received {images} images for {count} {what}; use "
                f"batch_size={max(1, images // count) * count}"
            )


def launch(run: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """Call ``run`` in so many processes of their own; return what each returned, by rank.

    Raises:
        ValueError: one of them raised it.
        ProcessError: one of them failed in another way.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from trifecta.parallel.links import ProcessError

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="trifecta-scaling",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
    )
    # Imported once, and not again by every process.
    get_context("forkserver").set_forkserver_preload(["trifecta.bench", "torch.distributed.pipelining"])
    # What it has to say stands in its error, too.
    for name in ("torch.distributed", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        found = elastic_launch(config, run)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message
        kind, _, rule = str(said["message"] if isinstance(said, dict) else said).partition(": ")
        if kind == "ValueError":
            raise ValueError(rule) from None
        raise ProcessError(f"process {rank} failed: {kind}: {rule}") from None
    return [found[rank] for rank in range(ranks)]


def _end_to_end(local: Method) -> Method:
    return replace(get_method("backprop"), optimizer=local.optimizer)


def _reported(
    row: Row,
    local: Method,
    rows: Sequence[Row],
    seconds: dict[str, list[float]],
    turns: list[list[dict[str, float]]],
    images: int,
) -> Report:
    own = seconds[row.name]
    report: Report = {
        **asdict(row),
        "title": row.title.format(local.name),
        "locality": "end-to-end" if row.end_to_end else local.locality,
        "images_per_second": spread([images / s for s in own]),
        "seconds": own,
    }
    alone = next((r.name for r in rows if r.alone and r.end_to_end == row.end_to_end), None)
    for name, other in (("one_process", alone), ("1f1b", BEST_PIPELINE)):
        if other in seconds:
            report[f"over_{name}"] = ratio(seconds[other], own)
    for kind in ("resident_bytes", "model_bytes", "saved_bytes"):
        # By rank, over the rounds.
        report[kind] = [
            statistics.median(turn[rank][kind] for turn in turns) for rank in range(len(turns[0]))
        ]
    return report


def scaling_columns() -> Columns[Report]:
    """Columns of the table of a report."""
    return [
        ("", field("title")),
        ("processes", lambda row: str(len(row["resident_bytes"]))),
        ("images/s", field("images_per_second", interval(".0f"))),
        ("over one process", field("over_one_process", interval(".2f", "×"))),
        ("over 1F1B", field("over_1f1b", interval(".2f", "×"))),
        ("resident MiB", lambda row: _mebibytes(row["resident_bytes"])),
        (
            "counted MiB",
            lambda row: _mebibytes(map(sum, zip(row["model_bytes"], row["saved_bytes"], strict=True))),
        ),
        ("crosses a block", field("locality")),
    ]


def _mebibytes(values: Iterable[float]) -> str:
    return ", ".join(f"{value / 2**20:.0f}" for value in values)


def main() -> None:
    """Read the arguments, measure, append."""
    parser = command_line(__doc__, "results")
    parser.add_argument("--rows", help="comma-separated; all by default")
    parser.add_argument("--method", default="superfecta")
    numbers = {"processes": 2, "micro_batches": 4, "steps": 16, "rounds": 5, "batch_size": 128}
    for name, number in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number)
    parser.add_argument("--network", default="small")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="auto")
    options = vars(parser.parse_args())
    results, rows = options.pop("results"), options.pop("rows")
    setting = Setting(
        **{name: options.pop(name) for name in ("network", "width", "batch_size", "precision")}
    )
    report = measure_scaling(setting, rows=select_rows(rows), say=print, **options)
    report["command"] = f"python benchmarks/scaling.py RESULTS.jsonl {shlex.join(sys.argv[2:])}".strip()
    append(results, report)
    print_table(*cells_of(report["rows"], scaling_columns()), note=measured_on(report))


if __name__ == "__main__":
    main()
