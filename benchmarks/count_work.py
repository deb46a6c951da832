"""Multiply-adds of an epoch on the fast trunk, by row of ``time_to_accuracy.py``.

Counted over whole steps, as PyTorch's own counter sees them: convolutions and matrix products of blocks
and classifiers, forward and backward, and of the optimizer. In fp32 the count is the same on every
machine; in bf16, AMX pads channels.

    python benchmarks/count_work.py FOLDER RESULTS.jsonl [ROW …]

FOLDER is one of cifar10, mnist and fashion_mnist, and its name says which rows there are.
"""

import fnmatch
from dataclasses import replace

from torch.utils.flop_counter import FlopCounterMode

from recording import append, command_line, conditions_of
from search_airbench import configured
from time_to_accuracy import ALL_IMAGES, ROWS, take_steps
from trifecta.data import DataConfig, load_data
from trifecta.training import Trainer


def epoch_multiply_adds(trainer: Trainer) -> float:
    """Count the multiply-adds of an epoch, from those of one cycle of the schedule."""
    steps = trainer.network.method.schedule.cycle
    with FlopCounterMode(display=False) as counter:
        take_steps(trainer, steps)
    return float(counter.get_total_flops()) / 2 / steps * trainer.batches.steps_per_epoch


def main() -> None:
    """Read the arguments, count, append."""
    parser = command_line(__doc__, "folder", "results")
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW", help="a name, or a pattern")
    options = parser.parse_args()
    data = load_data(DataConfig(source=str(options.folder)))
    for name, variant in ROWS[options.folder.name].items():
        asked = any(fnmatch.fnmatchcase(name, pattern) for pattern in options.rows)
        if not asked or name.endswith(ALL_IMAGES):
            continue
        config = replace(configured(options.folder, variant), precision="fp32")
        trainer = Trainer(config, data=data)
        row = {
            "command": f"python benchmarks/count_work.py FOLDER RESULTS.jsonl '{name}'",
            "row": name,
            "multiply_adds_per_epoch": epoch_multiply_adds(trainer),
            **conditions_of(trainer),
        }
        append(options.results, row)
        print(f"{name}: {row['multiply_adds_per_epoch'] / 1e12:.2f}e12", flush=True)


if __name__ == "__main__":
    main()
