"""Training memory on the fast trunk: backprop, and local learning by what crosses a block.

A report is appended; every figure is of processes of its own, see :mod:`trifecta.bench`. With
``--return-above BYTES`` glibc returns every freed block of that size or more to the system at once;
by default it may keep blocks of up to 32 MiB.

    python benchmarks/memory_airbench.py RESULTS.jsonl [--rounds 3] [--return-above 1048576]
"""

import os
from dataclasses import replace

from recording import append, command_line
from returned_blocks import MMAP_THRESHOLD
from trifecta.bench import Setting, bench_table, measure_memory, variant_of
from trifecta.recipes import get_recipe

ROWS = ("backprop", "superfecta", "superfecta-threes", "superfecta-modules")


def main() -> None:
    """Measure every row, append."""
    parser = command_line(__doc__, "results", rounds=3)
    parser.add_argument("--return-above", type=int, metavar="BYTES")
    options = parser.parse_args()
    command = f"python benchmarks/memory_airbench.py RESULTS.jsonl --rounds {options.rounds}"
    if options.return_above is not None:
        os.environ[MMAP_THRESHOLD] = str(options.return_above)
        command += f" --return-above {options.return_above}"
    recipes = [get_recipe(f"fast-{row}-airbench-cifar10") for row in ROWS]
    variants = [replace(variant_of(recipe("full")), title=recipe.title) for recipe in recipes]
    setting = Setting(network="airbench", batch_size=1000, precision="bf16")
    report = measure_memory(setting, variants, ["airbench"], rounds=options.rounds, say=print)
    report["command"] = command
    append(options.results, report)
    for cells in bench_table(report)[1]:
        print(" | ".join(cells))


if __name__ == "__main__":
    main()
