"""Sum up `mutmut run`: how many changes of the core a test notices, and which it does not.

    python benchmarks/mutants.py MUTANTS.json        # after `mutmut run`, in the same folder

A mutant that no test notices is listed with its change and, where one of ``REASONS`` fits, why none
does.
"""

import json
import platform
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch

from trifecta._utils.devices import describe_device
from trifecta.training.versions import versions

CAUGHT = ("killed", "timeout", "caught by type check", "segfault")
# Patterns of a removed or added line, and why no test can or should tell it from the original.
REASONS = {
    r"device=(None|\)|,|$)|device=\w+(\.\w+)*,? *\)": "the tests have no device but the CPU",
    r"stacklevel": "the line that a warning names",
    r"XX|\"[A-Z ,'·…-]+\"": "the wording of a message",
    r"fused=(None|False)|fused=True, *\)|foreach": "the same numbers by another kernel",
    r"itemsize (<=|<) [45]": "float32 is converted to float32",
    r"strict=(None|False)|strict=True, *\)": "both have the same length",
    r"cycle = range": "a schedule that does not overlap is the same at every step",
    r"memory_format": "a layout, not a value",
    r"requires_grad_": "set again by the learner",
}


def main() -> int:
    """Read mutmut's results, write the summary; the exit status."""
    results = _mutmut("results", "--all", "true")
    states = dict(line.strip().split(": ", 1) for line in results.splitlines() if ": " in line)
    modules: dict[str, Counter[str]] = {}
    for name, state in states.items():
        modules.setdefault(_module(name), Counter())[state] += 1
    survivors = [_survivor(name) for name, state in states.items() if state in ("survived", "no tests")]
    checked = sum(
        count for name in modules for state, count in modules[name].items() if state != "not checked"
    )
    caught = sum(modules[name][state] for name in modules for state in CAUGHT)
    whole = {
        "command": "make mutants",
        "hardware": f"{describe_device(torch.device('cpu'))}; {platform.system()}",
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "mutants": checked,
        "caught": caught,
        "modules": {name: dict(counts) for name, counts in sorted(modules.items())},
        "survivors": survivors,
    }
    Path(sys.argv[1]).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    print(f"{caught} of {checked} mutants caught ({100 * caught / checked:.1f}%)")
    return 0


def _module(mutant: str) -> str:
    """``trifecta.optim.muon`` of ``trifecta.optim.muon.x_orthogonalised__mutmut_3``."""
    return re.split(r"\.x[_ǁ]", mutant)[0]


def _survivor(mutant: str) -> dict[str, str]:
    shown = _mutmut("show", mutant)
    lines = [line for line in shown.splitlines() if re.match(r"[-+](?![-+])", line)]
    change = "\n".join(lines)
    added = "\n".join(line for line in lines if line.startswith("+"))
    reason = next((why for pattern, why in REASONS.items() if re.search(pattern, added)), "")
    return {"mutant": mutant, "change": change, "reason": reason}


def _mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
