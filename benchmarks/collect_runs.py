"""Append the accuracies of finished run folders to a result file, one line each.

    python benchmarks/collect_runs.py RESULTS.jsonl RUN...

A line holds the run's settings, its result and the validation accuracy of each epoch. Times and memory are
left out: several runs may have shared the machine. Folders of data are named, not located.
"""

import argparse
import json
from pathlib import Path

from trifecta.training import RunFolder
from trifecta.training.config import to_plain

SHARED = ("seconds", "images_per_second", "evaluation_seconds", "total_seconds", "peak_memory_bytes")


def main() -> None:
    """Read the arguments, collect, append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    with given.results.open("a") as results:
        for path in given.runs:
            folder = RunFolder(path)
            config = to_plain(folder.read_config()[0])
            result = json.loads((path / "result.json").read_text())
            result = {name: value for name, value in result.items() if name not in SHARED}
            config["data"]["source"] = result["data"] = Path(result["data"]).name
            validation = [record["validation_accuracy"] for record in folder.read_history()]
            row = {
                "command": "python benchmarks/collect_runs.py RESULTS.jsonl RUN",
                "config": config,
                "result": result,
                "validation_accuracy": validation,
            }
            results.write(f"{json.dumps(row)}\n")


if __name__ == "__main__":
    main()
