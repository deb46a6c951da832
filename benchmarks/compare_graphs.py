"""Whether steps that a GPU replays are those that Python launches: the losses of every method, both ways.

One line a method is written: the largest difference of a loss, as a share of it, over 24 steps of network
*small* at an eighth of its width, and the same between two launched runs, which is not 0 where a GPU adds
up in any order. On a CPU nothing is recorded.

    python benchmarks/compare_graphs.py RESULTS.jsonl [METHOD …]
"""

import json

import torch

from recording import append, command_line
from trifecta import METHODS, Learner, build_network, get_method
from trifecta._utils.devices import in_memory_format, resolve_device
from trifecta.bench import conditions
from trifecta.cuda_graphs import CudaGraphLearner, fastest_learner

STEPS, BATCH, SHAPE, CLASSES = 24, 64, (3, 32, 32), 10


def losses_of(name: str, device: torch.device, *, launched: bool) -> tuple[Learner, list[list[float]]]:
    """The losses of every step of a method."""
    torch.manual_seed(0)
    network = build_network(
        get_method(name), "small", sample_shape=SHAPE, num_classes=CLASSES, width=0.125
    ).to(device)
    learner = fastest_learner(
        network, generator=torch.Generator(device).manual_seed(0), total_steps=STEPS, steps_per_epoch=8
    )
    if isinstance(learner, CudaGraphLearner):
        learner.records = not launched
    draw = torch.Generator(device).manual_seed(5)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, *SHAPE, device=device, generator=draw)
        labels = torch.randint(0, CLASSES, (BATCH,), device=device, generator=draw)
        found = learner.step(in_memory_format(images), labels)
        losses.append([loss.item() for loss in found if loss is not None])
    return learner, losses


def difference(losses: list[list[float]], others: list[list[float]]) -> float:
    """The largest difference of two runs' losses, as a share of the loss."""
    pairs = [
        pair for row, other in zip(losses, others, strict=True) for pair in zip(row, other, strict=True)
    ]
    return max(abs(loss - other) / max(abs(other), 1e-6) for loss, other in pairs)


def main() -> None:
    """Compare, and write."""
    parser = command_line(__doc__, "results")
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    device = resolve_device("auto")
    for name in options.methods:
        learner, replayed = losses_of(name, device, launched=False)
        (_, launched), (_, again) = (losses_of(name, device, launched=True) for _ in range(2))
        row = {
            "command": f"python benchmarks/compare_graphs.py RESULTS.jsonl {name}",
            "method": name,
            "recordings": learner.recordings if isinstance(learner, CudaGraphLearner) else 0,
            "replayed": difference(replayed, launched),
            "launched_again": difference(again, launched),
            **conditions(device),
        }
        append(options.results, row)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
