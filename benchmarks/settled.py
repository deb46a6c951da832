"""How fast a trained run's steps are when settled pairs are skipped: exact, skipped, backprop in turn.

python benchmarks/settled.py RUN RESULTS.jsonl [--shares 0.1,0.3] [--rounds 7]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from torch import Tensor

from recording import append, command_line
from trifecta.bench import (
    STEPS_A_TURN,
    VARIANTS,
    Report,
    Say,
    Setting,
    Turn,
    Variant,
    data_name,
    report_turns,
    take_turns,
)
from trifecta.counts import step_multiply_adds
from trifecta.data import load_data
from trifecta.learner import Learner
from trifecta.losses import Symmetric, Threshold
from trifecta.methods import Method
from trifecta.training import RunFolder, load_network
from trifecta.training.trainer import training_batches

PAIRS = (Symmetric, Threshold)
# Real batches that every variant sees in turn.
BATCHES = 8


def measure_settled(folder: RunFolder, shares: Sequence[float], *, rounds: int, say: Say) -> Report:
    """Training steps from where a run ended, on its data, by the shares of ``skip_settled``.

    The learning rate is next to nothing, so that the network stays as the run left it.

    Raises:
        ValueError: not a finished run of a method that compares pairs, or a share out of range.
    """
    config, facts = folder.read_config()
    if not isinstance(config.method.objective, PAIRS):
        raise ValueError(
            f"settled pairs need a method that compares pairs: {folder.path} is a run of "
            f"{config.method.name}; train with --method trifecta"
        )
    setting = Setting.of(config, facts.image_shape, len(facts.classes))
    assert config.data is not None
    data = load_data(config.data).to(setting.torch_device)
    drawn = training_batches(config, data, setting.torch_device).epoch(
        0, generator=torch.Generator(setting.torch_device).manual_seed(config.seed)
    )
    batches = [
        (images.contiguous(memory_format=torch.channels_last), labels)
        for images, labels in islice(drawn, BATCHES)
    ]
    rows = [_row(folder, setting, config.method, share) for share in (0.0, *shares)]
    rows.append((VARIANTS["backprop"], VARIANTS["backprop"].build(setting)))
    turns: dict[str, Turn] = {row.name: _turn(trainer, batches) for row, trainer in rows}
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    # What is skipped depends on the data: only rows that skip nothing have their work counted.
    work = {
        row.name: step_multiply_adds(trainer.network, batch_size=setting.batch_size, kernels=True)
        for row, trainer in rows
        if row.name in ("settled-0", "backprop")
    }
    images = STEPS_A_TURN * setting.batch_size
    report = report_turns("settled", setting, [row for row, _ in rows], seconds, work, images)
    return report | {"data": data_name(config.data.source), "epochs": config.epochs}


def _row(folder: RunFolder, setting: Setting, method: Method, share: float) -> tuple[Variant, Learner]:
    assert isinstance(method.objective, PAIRS)
    objective = replace(method.objective, skip_settled=share)
    still = replace(method.optimizer, learning_rate=1e-9)
    method = replace(method, objective=objective, optimizer=still)
    trained, _ = load_network(folder, setting.torch_device)
    network = setting.build(method)
    network.load_state_dict(trained.state_dict())
    title = f"{method.name}, settled below {share:g} skipped" if share else f"{method.name}, exact"
    generator = torch.Generator(setting.torch_device).manual_seed(0)
    learner = Learner(network, generator=generator, precision=setting.resolved_precision)
    return Variant(name=f"settled-{share:g}", title=title, method=method), learner


def _turn(trainer: Learner, batches: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    endless = cycle(batches)

    def turn() -> None:
        for _ in range(STEPS_A_TURN):
            trainer.step(*next(endless))

    return turn


def main() -> None:
    """Measure, and append the report to the result file."""
    parser = command_line(__doc__, "run", "results")
    parser.add_argument("--shares", default="0.1,0.3")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    shares = [float(share) for share in options.shares.split(",")]
    report = measure_settled(RunFolder(options.run), shares, rounds=options.rounds, say=print)
    report["command"] = f"python benchmarks/settled.py RUN RESULTS.jsonl --shares {options.shares}"
    append(options.results, report)


if __name__ == "__main__":
    main()
