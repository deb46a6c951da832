"""Append the accuracies of finished run folders to a result file, one line each.

    python benchmarks/collect_runs.py RESULTS.jsonl RUN...

A line holds the run's settings, its result and the validation accuracy of each epoch. Times and memory are
left out: several runs may have shared the machine. Folders of data are named, not located.
"""

from pathlib import Path

from recording import append, command_line
from trifecta.training import RunFolder
from trifecta.training.config import to_plain

SHARED = ("seconds", "images_per_second", "evaluation_seconds", "total_seconds", "peak_memory_bytes")


def main() -> None:
    """Read the arguments, collect, append."""
    parser = command_line(__doc__, "results")
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    for path in given.runs:
        folder = RunFolder(path)
        config = to_plain(folder.read_config()[0])
        result = {name: value for name, value in folder.read_result().items() if name not in SHARED}
        config["data"]["source"] = result["data"] = Path(result["data"]).name
        row = {
            "command": "python benchmarks/collect_runs.py RESULTS.jsonl RUN",
            "config": config,
            "result": result,
            "validation_accuracy": [record["validation_accuracy"] for record in folder.read_history()],
        }
        append(given.results, row)


if __name__ == "__main__":
    main()
