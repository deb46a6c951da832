"""The precision of a run: timed where there is a choice, then kept by the run and known to the next one.

What was timed lies in the folder of the decoded images (:mod:`trifecta.data.cache`), one small JSON file
for a machine, versions and workload. Any of them may be removed.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch

from trifecta._utils.checksums import checked_record, record_text
from trifecta._utils.devices import describe_device
from trifecta._utils.files import write_atomically
from trifecta._utils.precision import kept_precision, narrow_precision
from trifecta._utils.yaml_files import read_yaml
from trifecta.data.cache import cache_folder
from trifecta.learning import Learner
from trifecta.learning.precision_timing import PrecisionTimes, time_precisions
from trifecta.training.config import RunConfig, to_plain
from trifecta.training.run_folder import RunFolder
from trifecta.training.versions import versions

FORMAT_VERSION = 1
"""Raise it when the same key would be timed in another way."""
PrecisionChoice = dict[str, float | bool | None]


def choose_precision(learner: Learner, config: RunConfig) -> PrecisionChoice | None:
    """Let ``learner`` take the faster precision, where it may still choose.

    Returns:
        ``fp32_ms`` and ``bf16_ms``, milliseconds of a pass, and whether they were ``cached``; None where
        there was no choice: one precision was asked for, or the device has no other.
    """
    if learner.precision != "auto":
        return None
    identity = _identity(learner, config)
    text = json.dumps([FORMAT_VERSION, identity], sort_keys=True)
    file = cache_folder() / f"precision-{hashlib.sha256(text.encode()).hexdigest()}.json"
    known = None if identity is None else _read(file)
    times = time_precisions(learner, config.batch_size) if known is None else known
    learner.precision = times.faster
    choice: PrecisionChoice = {"fp32_ms": times.fp32_ms, "bf16_ms": times.bf16_ms}
    # Where the rounds disagree the machine was busy: the next run times again.
    if identity is not None and known is None and times.is_clear:
        _write(file, choice | {"precision": times.faster} | identity)
    return choice | {"cached": known is not None}


def run_precision(folder: RunFolder, device: torch.device, asked: str | None = None) -> str:
    """Return the precision in which to use the run in ``folder``, ``fp32`` or ``bf16``.

    It is the one that was ``asked`` for, or for None and ``auto`` the one that the run was trained in.
    Where the run chose bf16 and ``device`` has none in hardware, it is fp32, with a warning.

    Raises:
        ValueError: not a run folder, or not a precision.
    """
    if asked is not None and asked != "auto":
        return narrow_precision(asked, device)
    if not folder.config.is_file():
        raise ValueError(f"{folder.path} is not a run folder: it has no config.yaml")
    plain, _ = read_yaml(folder.config)
    recorded = plain.get("resolved")
    chosen = recorded.get("precision", "auto") if isinstance(recorded, dict) else "auto"
    precision = kept_precision(str(plain.get("precision")), str(chosen), device)
    # A run that has not begun recorded none.
    return "fp32" if precision == "auto" else precision


def _identity(learner: Learner, config: RunConfig) -> dict[str, Any] | None:
    """Everything that the times depend on, as plain values; None where a part has no name."""
    network, installed = learner.network, versions()
    try:
        plain = to_plain(config)
    except ValueError:
        return None
    return {
        "hardware": describe_device(learner.device),
        "threads": torch.get_num_threads(),
        "versions": {name: installed.get(name) for name in ("torch", "trifecta")},
        "network": plain["network"],
        "width": config.width,
        "parameters": sum(p.numel() for p in network.parameters()),
        "method": plain["method"],
        "batch_size": config.batch_size,
        "sample_shape": list(network.sample_shape),
        "num_classes": network.num_classes,
    }


def _read(file: Path) -> PrecisionTimes | None:
    """Read the times of an earlier run; None where there are none that can be read."""
    try:
        stored = checked_record(file.read_text(), str(file))
        fp32, bf16 = (float(stored[name]) for name in ("fp32_ms", "bf16_ms"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (0 < fp32 < math.inf and 0 < bf16 < math.inf):
        return None
    return PrecisionTimes(fp32_ms=fp32, bf16_ms=bf16)


def _write(file: Path, content: dict[str, Any]) -> None:
    """Leave ``content`` for the next run, where the folder allows it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: path.write_text(record_text(content, indent=1) + "\n"))
    except OSError:
        return  # The next run takes half a second to find out again.
