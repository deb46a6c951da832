"""Run a `trifecta` command and append what it printed and measured to a result file.

    python benchmarks/record_run.py RESULTS.jsonl [--data-root FOLDER] -- train --recipe demo

Paths below FOLDER are recorded as `data/…`. The result is that of the run folder the command names last.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def record(arguments: list[str], root: Path | None) -> dict[str, Any]:
    """Run the command in an empty folder of its own; its row of the result file."""
    where = "" if root is None else f"{root.resolve()}/"
    words = [word.replace("data/", where) if where else word for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "trifecta", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        run = Path(folder, done.stdout.splitlines()[-1].removeprefix("run folder "))
        result = json.loads((run / "result.json").read_text())
    result["data"] = Path(result["data"]).name
    printed = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return {"command": " ".join(["trifecta", *arguments]), "printed": printed, "result": result}


def main() -> None:
    """Read the arguments, run, append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("arguments", nargs="+")
    options = parser.parse_args()
    row = record(options.arguments, options.data_root)
    with options.results.open("a") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
