"""Append the results of finished run folders to a result file, one line each.

    python benchmarks/collect_runs.py RESULTS.jsonl RUN...

A line holds the run's settings, result and history; folders of data are named, not located.
"""

import argparse
import json
from pathlib import Path

from trifecta.training import RunFolder
from trifecta.training.config import to_plain


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
            config["data"]["source"] = result["data"] = Path(result["data"]).name
            row = {"config": config, "result": result, "history": folder.read_history()}
            results.write(f"{json.dumps(row)}\n")


if __name__ == "__main__":
    main()
