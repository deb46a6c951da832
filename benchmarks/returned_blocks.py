"""Images a second on the fast trunk where glibc returns freed blocks to the system at once.

By default it may keep blocks of up to 32 MiB for later. Processes of either kind take turns, in pairs, on
a machine that does nothing else; a report is appended. Without RESULTS.jsonl this process alone is
measured, and the result printed.

    python benchmarks/returned_blocks.py [RESULTS.jsonl] [--pairs 6]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from recording import append
from speed_airbench import RECIPES
from trifecta.bench import Setting, measure_speed, spread, variant_of
from trifecta.recipes import get_recipe

SETTING = Setting(network="airbench", batch_size=1000, precision="bf16")
ROUNDS = 5
# Bytes; blocks of this size or more are returned.
RETURN_ABOVE = 2**20
# Read by glibc when a process starts.
MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"


def images_per_second() -> dict[str, float]:
    """Median over rounds, by method, in this process."""
    variants = [variant_of(get_recipe(f"{recipe}-airbench-cifar10")("full")) for recipe in RECIPES]
    report = measure_speed(SETTING, variants, rounds=ROUNDS, say=lambda _: None)
    return {row["name"]: row["images_per_second"]["median"] for row in report["rows"]}


def in_own_process(*, returning: bool) -> dict[str, float]:
    """Likewise in a new process, with or without blocks returned at once."""
    environment = {name: value for name, value in os.environ.items() if name != MMAP_THRESHOLD}
    if returning:
        environment[MMAP_THRESHOLD] = str(RETURN_ABOVE)
    done = subprocess.run([sys.executable, __file__], env=environment, stdout=subprocess.PIPE, check=True)
    speeds: dict[str, float] = json.loads(done.stdout)
    return speeds


def main() -> None:
    """Read the arguments, measure, append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=6)
    options = parser.parse_args()
    if options.results is None:
        print(json.dumps(images_per_second()))
        return
    pairs = []
    for number in range(options.pairs):
        first = bool(number % 2)
        of = {returning: in_own_process(returning=returning) for returning in (first, not first)}
        pairs.append((of[False], of[True]))
        print(f"pair {number + 1}: {of[False]} by default, {of[True]} returned", flush=True)
    rows = []
    for name in pairs[0][0]:
        ratios = [returned[name] / kept[name] for kept, returned in pairs]
        rows.append(
            {
                "name": name,
                "kept": statistics.median(kept[name] for kept, _ in pairs),
                "returned": statistics.median(returned[name] for _, returned in pairs),
                "returned_over_kept": spread(ratios),
            }
        )
    report = {
        "command": f"python benchmarks/returned_blocks.py RESULTS.jsonl --pairs {options.pairs}",
        "return_above_bytes": RETURN_ABOVE,
        "pairs": options.pairs,
        "rounds": ROUNDS,
        "rows": rows,
        **SETTING.facts(),
    }
    append(options.results, report)


if __name__ == "__main__":
    main()
