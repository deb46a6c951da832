"""What local learning reaches on networks of one's own beside backprop: the worked examples, measured.

    python benchmarks/own_networks.py DATA FILE.jsonl --seconds 240

``DATA`` is CIFAR-10. A transformer for images and one for text learn for as many seconds, as near as whole
epochs allow, by each method; ResNet-18 at 224×224 trains in processes that do nothing else, for its memory.
Run it on a machine that does nothing else.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import gpt  # noqa: E402
import vit  # noqa: E402
from recording import HERE  # noqa: E402
from trifecta import Run  # noqa: E402

IMAGE_METHODS = ("superfecta", "mono-forward", "trifecta", "deep-supervision", "backprop")
TEXT_METHODS = ("superfecta", "mono-forward", "deep-supervision", "backprop")
MEMORY_METHODS = ("superfecta", "pred", "trifecta", "backprop")
BATCH_SIZES = (16, 64)


def main() -> int:
    """Measure, a line each; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="CIFAR-10: a folder")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=240.0, help="of training, a method")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, methods, run in (
        ("vit", IMAGE_METHODS, partial(vit.run, data=options.data)),
        ("gpt", TEXT_METHODS, gpt.run),
    ):
        for method in methods:
            rows.append(trained(name, method, run, options.seconds))
            write(options.file, rows, options.seconds)
    for batch_size in BATCH_SIZES:
        for method in MEMORY_METHODS:
            rows.append({"example": "resnet18", "method": method} | memory(method, batch_size))
            write(options.file, rows, options.seconds)
    return 0


def trained(name: str, method: str, run: Callable[..., Run], seconds: float) -> dict[str, Any]:
    """Train for as many whole epochs as ``seconds`` allow, one at least."""
    result = run(method=method, epochs=1).result
    epochs = max(1, round(seconds / result["seconds"]))
    if epochs > 1:
        result = run(method=method, epochs=epochs).result
    kept = (
        "test_accuracy",
        "epochs",
        "seconds",
        "parameters",
        "multiply_adds_per_image",
        "locality",
        "seed",
    )
    return {"example": name, "method": method} | {key: result[key] for key in kept}


def memory(method: str, batch_size: int) -> dict[str, Any]:
    """Return what ResNet-18 takes beside its weights and images, in a process of its own."""
    command = [sys.executable, str(ROOT / "examples" / "resnet18.py"), "--json"]
    options = ["--method", method, "--batch-size", str(batch_size)]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def write(file: Path, rows: list[dict[str, Any]], seconds: float) -> None:
    """Write what is measured so far, with what it was measured on."""
    command = f"python benchmarks/own_networks.py CIFAR10 FILE.jsonl --seconds {seconds:g}"
    facts = {"command": command, **HERE}
    file.write_text("".join(json.dumps(row | facts, ensure_ascii=False) + "\n" for row in rows))
    print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
