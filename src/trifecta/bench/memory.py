"""Training memory above the model, and the bytes that graphs hold.

Every figure is of a process that does nothing else: :func:`answer` reads its order and prints its answer.
"""

import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from trifecta._utils.devices import peak_memory_bytes
from trifecta.bench.setting import Setting
from trifecta.bench.variants import BACKPROP, VARIANTS, Trains, Variant, variant_of
from trifecta.learner import Learner, LocalStep
from trifecta.training import RunConfig, from_plain, to_plain

DEPTHS = (6, 12, 24, 48)
# Both parities of an overlapping schedule, and the first again with warm buffers.
STEPS = 3
Report = dict[str, Any]


def measure_memory(
    setting: Setting,
    variants: Sequence[Variant],
    networks: Sequence[str],
    *,
    rounds: int,
    say: Callable[[str], None],
) -> Report:
    """Report every variant on every network: medians over ``rounds`` pairs of processes.

    On CPU the peak resident set of a process that takes a few steps, less that of one that has only built
    model, optimizer and data; on CUDA the allocator's peak, likewise. Also the most bytes that graphs held
    at one time.

    Raises:
        ValueError: there is no such network.
        RuntimeError: a process failed; the message has the last line that it wrote.
    """
    # Resolved here, once for all processes.
    setting = replace(setting, precision=setting.resolved_precision)
    places = [replace(setting, network=network) for network in networks]
    for placed in places:
        _ = placed.builder  # refuses an unknown network before anything is measured
    rows = []
    for placed in places:
        for variant in variants:
            say(f"{placed.network}, {variant.title}")
            rows.append(_row(placed, variant, rounds))
    references = {row["network"]: row for row in rows if row["name"] == BACKPROP}
    for row in rows:
        if row["network"] in references:
            reference = references[row["network"]]
            row["over_backprop"] = row["training_bytes"] / reference["training_bytes"]
            row["saved_over_backprop"] = row["saved_bytes"] / reference["saved_bytes"]
    return {"benchmark": "memory", **setting.facts(), "rounds": rounds, "rows": rows}


def training_memory(setting: Setting, variant: str | RunConfig) -> dict[str, int]:
    """Measure ``training_bytes``, above the model, and ``saved_bytes``, the most that graphs held.

    Args:
        setting: network, width, images, batch, device and precision.
        variant: its name; or a run, whose method trains as that run says, with its pipeline.

    Raises:
        RuntimeError: a process failed; the message has the last line that it wrote.
    """
    built, trained = (_in_own_process(setting, variant, steps) for steps in (0, STEPS))
    return {
        "training_bytes": trained["peak_bytes"] - built["peak_bytes"],
        "saved_bytes": trained["saved_bytes"],
    }


def _row(setting: Setting, variant: Variant, rounds: int) -> Report:
    measured = [training_memory(setting, variant.run or variant.name) for _ in range(rounds)]
    training = [m["training_bytes"] for m in measured]
    return {
        "name": variant.name,
        "title": variant.title,
        "network": setting.network,
        "locality": variant.method.locality,
        "training_bytes": statistics.median(training),
        "training_bytes_low": min(training),
        "training_bytes_high": max(training),
        "saved_bytes": measured[0]["saved_bytes"],
    }


def _in_own_process(setting: Setting, variant: str | RunConfig, steps: int) -> dict[str, int]:
    name = variant if isinstance(variant, str) else variant.method.name
    wanted = variant if isinstance(variant, str) else to_plain(variant)
    order = json.dumps({"setting": asdict(setting), "variant": wanted, "steps": steps})
    program = f"import sys; from {__name__} import answer; answer(sys.argv[1])"
    command = [sys.executable, "-c", program, order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it was killed, perhaps for its memory"]
        raise RuntimeError(f"{name} on {setting.network} failed: {last[0]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def answer(order: str) -> None:
    """Take the steps of an order (JSON: setting, variant, number of steps), and print what that took."""
    read = json.loads(order)
    setting = Setting(**read["setting"] | {"image_shape": tuple(read["setting"]["image_shape"])})
    wanted = read["variant"]
    variant = VARIANTS[wanted] if isinstance(wanted, str) else variant_of(from_plain(wanted))
    trainer = variant.build(setting)
    images, labels = setting.batch()
    _fill_optimizers(trainer)
    if setting.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with SavedBytes() as saved:
        if variant.pipeline > 1 and isinstance(trainer, Learner):
            saved.follow(trainer)
        variant.train(trainer, [(images, labels)] * read["steps"])
    print(json.dumps({"peak_bytes": peak_memory_bytes(images.device), "saved_bytes": saved.most}))


def _fill_optimizers(trainer: Trains) -> None:
    """Give optimizers their moments now, so that they count as part of the model and not of training."""
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            muon = group.get("orthogonalized", False)
            for parameter in group["params"]:
                names = ("momentum",) if muon else ("exp_avg", "exp_avg_sq")
                moments = {name: torch.empty_like(parameter).zero_() for name in names}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


class SavedBytes(AbstractContextManager["SavedBytes"]):
    """Counts what graphs hold for their gradients, without parameters, each piece of memory once.

    Attributes:
        most: largest number of bytes held at one time.
    """

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._holders: Counter[int] = Counter()
        self._hooks = self._new_hooks()
        # Reentrant, as collecting garbage may free a graph anywhere.
        self._lock = RLock()

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def follow(self, learner: Learner) -> None:
        """Count in every thread in which ``learner`` learns: hooks belong to one thread."""
        learn = learner.learn

        def counted(step: LocalStep) -> None:
            with self._new_hooks():
                learn(step)

        learner.learn = counted  # type: ignore[method-assign]

    def _new_hooks(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(lambda tensor: _Holder(tensor, self), lambda holder: holder.tensor)

    def hold(self, tensor: Tensor, change: int) -> None:
        """Note that one more graph (+1) or one less (−1) holds ``tensor``."""
        storage = tensor.untyped_storage()
        with self._lock:
            before = self._holders[storage.data_ptr()]
            self._holders[storage.data_ptr()] += change
            if before == 0 or before + change == 0:
                self._now += change * storage.nbytes()
                self.most = max(self.most, self._now)


class _Holder:
    """Stands in a graph for a saved tensor; freed with the graph."""

    def __init__(self, tensor: Tensor, count: SavedBytes) -> None:
        # Detached: otherwise the graph would keep itself alive.
        self.tensor = tensor.detach()
        self._count = None if isinstance(tensor, nn.Parameter) else count
        if self._count is not None:
            self._count.hold(self.tensor, +1)

    def __del__(self) -> None:
        if self._count is not None:
            self._count.hold(self.tensor, -1)
