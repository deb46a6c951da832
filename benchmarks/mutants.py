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
from trifecta.training.run import versions

CAUGHT = ("killed", "timeout", "caught by type check", "segfault")
# A change that touches nothing but what fits one of these, and why no test tells it from the original.
REASONS = {
    r",? *device=[\w.]*": "the tests have no device but the CPU",
    r"(images|samples|self|scores)\.device|None": "the tests have no device but the CPU",
    r",? *stacklevel=\w*": "the line that a warning names",
    r"float\(\"-(inf|INF)\"\)": "float reads both",
    r"\"[^\"]*\"": "the wording of a message, or a name in it",
    r"itemsize <=? [45]": "float32 is converted to float32",
    r",? *fused=\w*": "another kernel takes the same steps",
    r"[-+] offset": "an offset is as likely as its negative",
    r"super\(\).__init__\([\w, ]*\)": "what the base class keeps, this class does not read",
    r"torch\.zeros\(\d": "any number of samples finds it",
    r"shape\[0\] <=? x\.shape\[1\]": "a square matrix may be turned or not",
    r"bits >=?": "a blurred bit hardly ever is the mean itself",
    r"else [12]\)": "windows that do not overlap are the same at every step",
    r"randint\((0, )?": "integers begin at 0 anyway",
    r",? *dim=1": "a matrix ends with its dimension 1",
    r",? *dtype=[\w.]+": "integers are int64 anyway",
    r",? *strict=\w+": "the two are as long as each other",
    r"\(?settled\)?( or True)?": "0 settles nothing",
    r"//?": "a size below a byte makes no difference",
    r"(or|else \(0,) [01]\)": "the number of epochs is raised to one above the epoch",
    r"autocast\((self\.precision|None)": "inputs are put together there, and hardly computed",
    r"LabelEmbedding\(\w+": "what the base class keeps, this class does not read",
    r"(bias|affine|persistent|keepdim|sorted)=(False|None)": "None counts as False",
    r",? *training=False": "the default",
    r"\.to\((None|[\w.]+)\)": "the two have one type already, or the sum has the wider",
    r"(kernel|None), padding": "a pool's stride is its kernel anyway",
    r"features\[[01]\]\.numel": "samples are of one size",
    r"[23] \* features": "the size of a piece changes no value",
    r",? *num_classes\)\.bool|\)\.bool": "the last class has a member",
    r"self\.pool >=? 1": "the mean of one patch is that of all positions",
    r"epoch <=? self\.epochs": "the line ends where the cosine begins",
    r",? *sorted=\w+": "a mean has no order",
    r"args (and|or) isinstance\(args\[0\], Tensor\) (and|or)": "embeddings are called with tensors",
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
    before, after = ("".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    reasons = (why for part, why in REASONS.items() if _without(part, before) == _without(part, after))
    return {"mutant": mutant, "change": "\n".join(lines), "reason": next(reasons, "")}


def _without(part: str, code: str) -> str:
    return re.sub(rf"{part}|[\s,]", "", code)


def _mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
