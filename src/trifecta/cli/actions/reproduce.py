"""``trifecta reproduce``."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from trifecta.cli.actions.progress import TableProgress
from trifecta.experiments import Outcome, PlannedRun, Reproduction, plan, read_results, summarise
from trifecta.recipes import TABLES, ResultTable, get_table, in_folder
from trifecta.reproduction import as_plain, print_reproduction, write_pages
from trifecta.training import Interrupted


def reproduce(
    table: str | None,
    budget: str | None,
    seeds: int,
    rows: str,
    data_root: Path | None,
    device: str,
    precision: str,
    out: Path,
    work: Path,
    untimed: bool,
    show: bool,
    as_json: bool,
) -> None:
    """Run what is missing of TABLE (all where none is named), then show it beside the published figures.

    What was interrupted goes on where it stopped; what is finished is not run again. Several of these
    commands at once share the work.
    """
    tables = list(TABLES.values()) if table is None else [get_table(table)]
    plans = {
        one.name: plan(
            one.rows(rows),
            budget=budget or one.budget,
            seeds=seeds,
            locate=lambda data: in_folder(data, data_root),
            device=device,
            precision=precision,
        )
        for one in tables
    }
    failed: dict[str, str] = {}
    if not show:
        console = Console(stderr=True, quiet=as_json)
        for one in tables:
            reproduction = Reproduction(
                runs=plans[one.name],
                out=out,
                work=work,
                command=partial(_command, one.name),
                timed=not untimed,
            )
            failed |= make_missing(reproduction, console)
    _show(tables, plans, out, work, as_json=as_json)
    if failed:
        raise ValueError(failures(failed))


def make_missing(reproduction: Reproduction, console: Console) -> dict[str, str]:
    """Run what is missing; what failed, by run."""
    total = len(reproduction.runs)
    progress = TableProgress(console, total=total, done=total - len(reproduction.missing()))
    try:
        outcome: Outcome = reproduction.make(progress.watch)
    except Interrupted as interruption:
        raise Interrupted(
            f"{interruption}; the same command goes on from there"
        ) from interruption.__cause__
    if outcome.elsewhere:
        console.print(f"{len(outcome.elsewhere)} runs are in the hands of another process")
    return outcome.failed


def _show(
    tables: Sequence[ResultTable],
    plans: dict[str, list[PlannedRun]],
    out: Path,
    work: Path,
    *,
    as_json: bool,
) -> None:
    stored = read_results(out)
    rows = {one.name: summarise(plans[one.name], stored) for one in tables}
    if as_json:
        click.echo(json.dumps({name: as_plain(members) for name, members in rows.items()}, indent=2))
        return
    for one in tables:
        print_reproduction(one, rows[one.name])
    click.echo(f"page {write_pages(work, tables, rows)}")


def _command(table: str, run: PlannedRun) -> str:
    return (
        f"trifecta reproduce {table} --rows {run.recipe.name} --budget {run.config.budget} "
        f"--seeds {run.config.seed + 1}"
    )


def failures(failed: dict[str, str]) -> str:
    """One line: what could not be run, and why the first of it."""
    first, reason = next(iter(failed.items()))
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"not run: {first}{others}: {reason}"
