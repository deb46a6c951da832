"""Training memory above the model, over depth, every figure from processes of its own."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from trifecta.bench.probe import STEPS
from trifecta.bench.setting import Setting
from trifecta.bench.variants import BACKPROP, Variant
from trifecta.training import RunConfig, to_plain

DEPTHS = (6, 12, 24, 48)
Report = dict[str, Any]


def measure_memory(
    setting: Setting,
    variants: Sequence[Variant],
    networks: Sequence[str],
    *,
    rounds: int,
    say: Callable[[str], None],
) -> Report:
    """Measure every variant on every network: medians over ``rounds`` pairs of processes.

    On CPU the peak resident set of a process that takes a few steps, less that of one that has only built
    model, optimizer and data; on CUDA the allocator's peak, likewise. Also the bytes that the graph holds
    at most at one time.

    Raises:
        ValueError: no such network.
        RuntimeError: a process failed; says what it said last.
    """
    # Choose the precision here: timing it in a probe would count as the probe's memory.
    setting = replace(setting, precision=setting.resolved_precision)
    places = [replace(setting, network=network) for network in networks]
    for placed in places:
        placed.check_network()
    rows = []
    for placed in places:
        for variant in variants:
            say(f"{placed.network}, {variant.title}")
            rows.append(_row(placed, variant, rounds))
    for row in rows:
        reference = _find(rows, row["network"], BACKPROP)
        if reference is not None:
            row["over_backprop"] = row["training_bytes"] / reference["training_bytes"]
            row["saved_over_backprop"] = row["saved_bytes"] / reference["saved_bytes"]
    return {"benchmark": "memory", **setting.facts(), "rounds": rounds, "rows": rows}


def training_memory(setting: Setting, variant: str | RunConfig) -> dict[str, int]:
    """Above the model, and held by graphs at most, from two processes of its own.

    Args:
        setting: network, width, images, batch, device and precision.
        variant: by its name; or a run, whose method trains as that run says, with its pipeline.

    Raises:
        RuntimeError: a process failed; says what it said last.
    """
    built, trained = (_probe(setting, variant, steps) for steps in (0, STEPS))
    return {
        "training_bytes": trained["peak_bytes"] - built["peak_bytes"],
        "saved_bytes": trained["saved_bytes"],
    }


def _row(setting: Setting, variant: Variant, rounds: int) -> Report:
    who = variant.name if variant.run is None else variant.run
    measured = [training_memory(setting, who) for _ in range(rounds)]
    extra = [m["training_bytes"] for m in measured]
    return {
        "name": variant.name,
        "title": variant.title,
        "network": setting.network,
        "locality": variant.method.locality,
        "training_bytes": statistics.median(extra),
        "training_bytes_low": min(extra),
        "training_bytes_high": max(extra),
        "saved_bytes": measured[0]["saved_bytes"],
    }


def _probe(setting: Setting, variant: str | RunConfig, steps: int) -> dict[str, int]:
    name = variant.method.name if isinstance(variant, RunConfig) else variant
    who = to_plain(variant) if isinstance(variant, RunConfig) else variant
    order = json.dumps({"setting": asdict(setting), "variant": who, "steps": steps})
    done = subprocess.run(
        [sys.executable, "-m", "trifecta.bench.probe", order], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it was killed, perhaps for its memory"]
        raise RuntimeError(f"{name} on {setting.network} failed: {last[0]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _find(rows: Sequence[Report], network: str, name: str) -> Report | None:
    return next((row for row in rows if (row["network"], row["name"]) == (network, name)), None)
