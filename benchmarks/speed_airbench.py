"""Images a second on the fast trunk: superfecta and backprop, with one optimizer, at three widths.

Rows take turns on a machine that does nothing else; a report for each width is appended.

    python benchmarks/speed_airbench.py RESULTS.jsonl [--rounds 7]
"""

from dataclasses import replace

from recording import append, command_line
from trifecta.bench import Setting, bench_table, measure_speed, variant_of
from trifecta.recipes import get_recipe

WIDTHS = (1.0, 0.5, 0.25)
RECIPES = ("fast-superfecta", "fast-backprop")


def main() -> None:
    """Measure every width, append."""
    options = command_line(__doc__, "results", rounds=7).parse_args()
    variants = [variant_of(get_recipe(f"{recipe}-airbench-cifar10")("full")) for recipe in RECIPES]
    variants = [replace(variant, title=variant.name) for variant in variants]
    for width in WIDTHS:
        setting = Setting(network="airbench", width=width, batch_size=1000, precision="bf16")
        report = measure_speed(setting, variants, rounds=options.rounds, say=lambda _: None)
        report["command"] = f"python benchmarks/speed_airbench.py RESULTS.jsonl --rounds {options.rounds}"
        append(options.results, report)
        for cells in bench_table(report)[1]:
            print(f"width {width:g}: {' | '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
