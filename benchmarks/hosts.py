"""Two emulated hosts on links of several rates: images a second by layers and by data.

    sudo python benchmarks/hosts.py RESULTS.jsonl

Each run is `benchmarks/several_hosts.sh`, four epochs of superfecta on the digits, of which the last one is
counted; and one process on one host for comparison, on as many threads as each of the hosts has: one.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recording import append, command_line
from trifecta.training import RunFolder

RATES = ("10gbit", "1gbit", "300mbit", "100mbit")
LAYOUTS = ("layers", "data")
# Running statistics take no time beside the steps.
OPTIONS = (
    *("--data", "digits", "--epochs", "4", "--batch-size", "128", "--precision", "fp32"),
    *("--set", "statistics=running"),
)
SCRIPT = Path(__file__).with_name("several_hosts.sh")


def measure(rate: str | None, layout: str) -> dict[str, Any]:
    """A row; without a rate one process."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "trifecta", "train", *OPTIONS, "--out", str(run)]
        if rate is not None:
            command = [str(SCRIPT), rate, layout, str(run), *OPTIONS]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        read = RunFolder(run)
        result, history = read.read_result(), read.read_history()
    return {
        "rate": rate,
        "layout": layout,
        "images_per_second": history[-1]["images_per_second"],
        "options": " ".join(OPTIONS),
        "hardware": f"{result['hardware']}, one thread a host",
        "versions": result["versions"],
        "date": result["date"],
    }


def main() -> None:
    """Read the arguments, run, append."""
    options = command_line(__doc__, "results").parse_args()
    cases: list[tuple[str | None, str]] = [(None, "one process")]
    cases += [(rate, layout) for rate in RATES for layout in LAYOUTS]
    for rate, layout in cases:
        row = measure(rate, layout)
        row["command"] = "python benchmarks/hosts.py RESULTS.jsonl"
        append(options.results, row)
        print(f"{rate}, {layout}: {row['images_per_second']:.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
