"""What a network loses when channels are taken away: accuracy, parameters, work and size of the file.

    python benchmarks/shrinking.py MNIST CIFAR10 FILE.jsonl

Superfecta on *small* at an eighth of its width, two epochs on MNIST, four on CIFAR-10; then three tenths of
the parameters, fine-tuned for three epochs.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trifecta import DataConfig, RunConfig, get_method, train
from trifecta.shrinking import shrink

KEEP, EPOCHS = 0.3, {"mnist": 2, "cifar10": 4}


def main() -> int:
    """Train, shrink, write a line for each data set; the exit status."""
    *sources, file = sys.argv[1:]
    lines = []
    for source in sources:
        name = Path(source).name
        config = RunConfig(
            data=DataConfig(source=source),
            method=get_method("superfecta"),
            width=0.125,
            epochs=EPOCHS[name],
            precision="fp32",
            keep="last",
        )
        with TemporaryDirectory() as folder:
            whole = facts(Path(folder) / "whole", train(config, out=f"{folder}/whole").result)
            smaller = shrink(f"{folder}/whole", f"{folder}/smaller", keep=KEEP)
            row = {"data": name, "whole": whole, "smaller": facts(Path(folder) / "smaller", smaller.result)}
        common = {key: smaller.result[key] for key in ("hardware", "versions", "date", "seed", "method")}
        lines.append(row | common | {"command": "python benchmarks/shrinking.py", "keep": KEEP})
        print(json.dumps(lines[-1]), flush=True)
        Path(file).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return 0


def facts(run: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return what is compared of a run."""
    kept = ("test_accuracy", "parameters", "block_parameters", "multiply_adds_per_image", "epochs")
    return {key: result[key] for key in kept} | {"bytes": (run / "model.safetensors").stat().st_size}


if __name__ == "__main__":
    sys.exit(main())
