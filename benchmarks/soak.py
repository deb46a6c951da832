"""The long faults: kills, steps, trainings and wrong input, far more of each than the tests run.

    PYTHONPATH=tests python benchmarks/soak.py FILE.json [--kills 50] [--steps 20000] [--cases 10000] …

Takes long, most of it for the wrong input. The exit status is 1 where anything failed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fuzz import Fuzzer
from kills import MOMENTS, kill_loop
from longevity import growth, many_steps, many_trainings
from recording import HERE, command_line
from trifecta import DataConfig, RunConfig, get_method, load_data
from trifecta.data import ImageData

KILLED = (
    ("trifecta", 1),
    ("trifecta", 2),
    ("superfecta", 1),
    ("superfecta", 2),
    ("backprop", 1),
    ("rec-lra", 1),
)
MOST_GROWTH = 0.01
CASES_A_PIECE = 500

Part = dict[str, Any]


def main() -> int:
    """Run what is asked for, write the file; the exit status."""
    parser = command_line(__doc__, "file")
    for name, count in (
        ("kills", 50),
        ("steps", 20_000),
        ("trainings", 200),
        ("cases", 10_000),
        ("seed", 1),
        ("processes", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    given = parser.parse_args()
    began = time.perf_counter()
    found: dict[str, list[Part]] = {}
    # A process for every part: what one leaves behind is not another's.
    with ProcessPoolExecutor(given.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, part in pool.map(_part, *zip(*_tasks(given), strict=True)):
            print(name, json.dumps(part), flush=True)
            found.setdefault(name, []).append(part)
    record = {
        "command": "python benchmarks/soak.py FILE.json",
        "seed": given.seed,
        "parts": {name: _together(parts) for name, parts in found.items()},
        "seconds": round(time.perf_counter() - began),
        "processes": given.processes,
        **HERE,
    }
    given.file.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(part["failed"] for part in record["parts"].values()))


def _tasks(given: argparse.Namespace) -> list[tuple[str, Callable[..., Part], tuple[Any, ...]]]:
    """Name, function and arguments of every part, those that take longest first."""
    pieces = -(-given.cases // CASES_A_PIECE)
    sizes = [given.cases // pieces + (k < given.cases % pieces) for k in range(pieces)]
    return [
        *(("wrong input", _wrong_input, (size, given.seed + k)) for k, size in enumerate(sizes)),
        *(
            (f"kills, {method}, pipeline {threads}", _kills, (method, threads, given.kills, given.seed))
            for method, threads in KILLED
        ),
        ("steps", _steps, (given.steps,)),
        ("trainings", _trainings, (given.trainings,)),
    ]


def _part(name: str, run: Callable[..., Part], arguments: tuple[Any, ...]) -> tuple[str, Part]:
    """Run a part on one thread, in a folder of its own."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        os.environ |= {"TRIFECTA_CACHE": str(Path(folder) / "cache"), "HF_HUB_OFFLINE": "1"}
        return name, run(load_data(DataConfig(source="digits")), Path(folder), *arguments)


def _together(parts: list[Part]) -> Part:
    """Return the pieces of a part as one: only wrong input has several."""
    if len(parts) == 1:
        return parts[0]
    cases: Counter[str] = Counter()
    for part in parts:
        cases.update(part["cases"])
    return {"cases": dict(sorted(cases.items())), "failed": sum(part["failed"] for part in parts)}


def _kills(data: ImageData, work: Path, method: str, threads: int, kills: int, seed: int) -> Part:
    config = RunConfig(
        method=get_method(method), width=0.05, epochs=4, batch_size=100, precision="fp32", pipeline=threads
    )
    killed = kill_loop(config, data, work / "run", kills=kills, seed=seed)
    for difference in killed.differences:
        print(method, difference, flush=True)
    return {
        "moments": dict(sorted(killed.moments.items())),
        "runs": killed.runs,
        "failed": len(killed.differences) + len(set(MOMENTS.values()) - set(killed.moments)),
    }


def _steps(data: ImageData, work: Path, times: int) -> Part:
    return _longevity(times, *many_steps(times))


def _trainings(data: ImageData, work: Path, times: int) -> Part:
    return _longevity(times, *many_trainings(data, times))


def _longevity(times: int, before: dict[str, int], after: dict[str, int]) -> Part:
    grown = growth(before, after)
    return {"times": times, "growth": grown, "failed": int(max(grown.values()) >= MOST_GROWTH)}


def _wrong_input(data: ImageData, work: Path, cases: int, seed: int) -> Part:
    folder = work / "fuzz"
    folder.mkdir()
    found = Fuzzer(folder, data, seed).go(cases)
    for failure in found.failures:
        print(failure, flush=True)
    return {"cases": dict(sorted(found.cases.items())), "failed": len(found.failures)}


if __name__ == "__main__":
    sys.exit(main())
