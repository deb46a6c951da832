"""The long faults: kills, steps, trainings and wrong input, far more of each than the tests run.

    PYTHONPATH=tests python benchmarks/soak.py FILE.json [--kills 50] [--steps 20000] [--cases 10000] …

Takes long, most of it for the wrong input. The exit status is 1 where anything failed.
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fuzz import Fuzzer
from kills import MOMENTS, kill_loop
from longevity import growth, many_steps, many_trainings
from trifecta import DataConfig, ImageData, RunConfig, get_method, load_data
from trifecta._utils.devices import describe_device
from trifecta.training.versions import versions

KILLED = (
    ("trifecta", 1),
    ("trifecta", 2),
    ("superfecta", 1),
    ("superfecta", 2),
    ("backprop", 1),
    ("rec-lra", 1),
)
MOST_GROWTH = 0.01


def main() -> int:
    """Run what is asked for, write the file; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    for name, count in (
        ("kills", 50),
        ("steps", 20_000),
        ("trainings", 200),
        ("cases", 10_000),
        ("seed", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=count)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ |= {"TRIFECTA_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        data = load_data(DataConfig(source="digits"))
        parts = {f"kills, {m}, pipeline {p}": _kills(m, p, data, work, given) for m, p in KILLED}
        parts["steps"] = _longevity(given.steps, *many_steps(given.steps))
        parts["trainings"] = _longevity(given.trainings, *many_trainings(data, given.trainings))
        parts["wrong input"] = _wrong_input(data, work, given)
    record = {
        "command": "python benchmarks/soak.py FILE.json",
        "seed": given.seed,
        "parts": parts,
        "seconds": round(time.perf_counter() - began),
        "hardware": describe_device(torch.device("cpu")),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    given.file.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(part["failed"] for part in parts.values()))


def _kills(method: str, pipeline: int, data: ImageData, work: Path, given: Any) -> dict[str, Any]:
    config = RunConfig(
        method=get_method(method), width=0.05, epochs=4, batch_size=100, precision="fp32", pipeline=pipeline
    )
    folder = work / f"{method}-{pipeline}"
    killed = kill_loop(config, data, folder, kills=given.kills, seed=given.seed)
    print(method, pipeline, dict(killed.moments), killed.runs, killed.differences, flush=True)
    return {
        "moments": dict(sorted(killed.moments.items())),
        "runs": killed.runs,
        "failed": len(killed.differences) + len(set(MOMENTS.values()) - set(killed.moments)),
    }


def _longevity(times: int, before: dict[str, int], after: dict[str, int]) -> dict[str, Any]:
    grown = growth(before, after)
    print(times, grown, flush=True)
    return {"times": times, "growth": grown, "failed": int(max(grown.values()) >= MOST_GROWTH)}


def _wrong_input(data: ImageData, work: Path, given: Any) -> dict[str, Any]:
    folder = work / "fuzz"
    folder.mkdir()
    found = Fuzzer(folder, data, given.seed).go(given.cases)
    for failure in found.failures:
        print(failure, flush=True)
    return {"cases": dict(sorted(found.cases.items())), "failed": len(found.failures)}


if __name__ == "__main__":
    sys.exit(main())
