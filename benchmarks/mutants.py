"""Count the changes of the core that a test notices, and list those that none does.

    OMP_NUM_THREADS=1 python benchmarks/mutants.py MUTANTS.json 'src/trifecta/losses/*' -- tests/losses

mutmut writes the changes of the given files into ``mutants/``; files and tests are those of mutmut's
settings where none are given. Each change is tried in a fork of this process by the tests that call the
changed function: first the one that noticed the function's last change, then the fastest, for twenty
seconds at most. A change that hangs is noticed. One that no test notices is listed with why none does,
where one of ``REASONS`` fits. What runs only while a module is imported counts as ``no tests``.
"""

import gc
import json
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from mutmut.__main__ import create_mutants, store_lines_covered_by_tests
from mutmut.configuration import config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths

# Seconds of the CPU that a test may take to be used; seconds that all tests of one mutant may take, and
# after which one of them hangs.
LONGEST, BUDGET, HANGS = 1.0, 20.0, 30
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
    r"shape\[0\] [<>]=? x\.shape\[1\]": "a square matrix may be turned or not",
    r"number <=? rounds [-+] 1": "the Gram matrix is not read after the last round",
    r"\(?product is None\)?( and False)?": "there is at least one round",
    r"(num_classes|None)\)\[0\]": "the number of channels does not depend on the classes",
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
    r"(bias|affine|persistent|keepdim|sorted)=(False|None)": "None counts as False",
    r",? *training=False": "the default",
    r"\.to\((None|[\w.]+)\)": "the two have one type already, or the sum has the wider",
    r"(kernel|None), padding": "a pool's stride is its kernel anyway",
    r"features\[[01]\]\.numel": "samples are of one size",
    r"[23] [*/] features|[*/] features\.itemsize": "the size of a piece changes no value",
    r",? *out=\w*|torch\.empty_like\(piece\)|None": "a buffer spares an allocation, and changes no value",
    r",? *num_classes\)\.bool|\)\.bool": "the last class has a member",
    r"self\.pool >=? 1": "the mean of one patch is that of all positions",
    r"epoch <=? self\.epochs": "the line ends where the cosine begins",
    r",? *sorted=\w+": "a mean has no order",
}


class Mutants:
    """A pytest plugin that runs the collected tests once for each mutant that they can notice.

    Args:
        names: of the mutants.
    """

    def __init__(self, names: list[str]) -> None:
        self.names, self.states = names, dict[str, str]()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try every mutant."""
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"block \d+ has learnt nothing")
        callers = _callers(session.items)
        os.environ["MUTANT_UNDER_TEST"] = ""
        # Forks need not copy what they would look through for garbage.
        gc.freeze()
        for name in self.names:
            tests = callers.get(name.rpartition("__mutmut_")[0], [])
            self.states[name] = "no tests"
            if tests:
                place = _noticed_by(name, tests)
                self.states[name] = "survived" if place is None else "killed"
                tests.insert(0, tests.pop(place or 0))
            print(self.states[name], name, flush=True)
        used = {item.nodeid: item for tests in callers.values() for item in tests}
        broken = [name for name, item in used.items() if not _passes(item)]
        print(f"{len(broken)} of {len(used)} tests fail without a change at the end: {broken}", flush=True)
        return True


def _callers(items: list[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Return the tests that call each function, fastest first."""
    os.environ["MUTANT_UNDER_TEST"] = "stats"
    timed: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for number, item in enumerate(items):
        state()._stats.clear()
        start = time.process_time()
        if not _passes(item):
            print(f"left out, as it fails without a change: {item.nodeid}")
        elif (seconds := time.process_time() - start) < LONGEST:
            for function in state()._stats:
                timed[function].append((seconds, number))
    return {name: [items[number] for _, number in sorted(tests)] for name, tests in timed.items()}


def _noticed_by(mutant: str, tests: list[pytest.Item]) -> int | None:
    """Return the place of the test that notices a mutant; None if none does."""
    place = multiprocessing.Value("i", 0, lock=False)
    child = os.fork()
    if child:
        return None if os.waitpid(child, 0)[1] == 0 else place.value
    try:
        os.environ["MUTANT_UNDER_TEST"] = mutant
        deadline = time.monotonic() + BUDGET
        for place.value, test in enumerate(tests):
            # Ends this process, whatever its threads wait for.
            signal.alarm(HANGS)
            if not _passes(test):
                break
            if time.monotonic() > deadline or place.value == len(tests) - 1:
                os._exit(0)
    finally:
        os._exit(1)


def _passes(item: Any) -> bool:
    item._initrequest()
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def main() -> int:
    """Generate and try mutants, write the summary; the exit status."""
    out, files, tests = Path(sys.argv[1]).resolve(), sys.argv[2:], list[str]()
    if "--" in files:
        files, tests = files[: files.index("--")], files[files.index("--") + 1 :]
    config().only_mutate = files or config().only_mutate
    set_mutant_under_test("mutant_generation")
    shutil.rmtree("mutants", ignore_errors=True)
    Path("mutants").mkdir()
    with redirect_stdout(StringIO()):
        copy_src_dir()
        copy_also_copy_files()
        setup_source_paths()
        store_lines_covered_by_tests()
        create_mutants(1)
    metas = [json.loads(file.read_text()) for file in sorted(Path("mutants").rglob("*.meta"))]
    plugin = Mutants([name for meta in metas for name in meta["exit_code_by_key"]])
    os.chdir("mutants")
    selected = [*config().pytest_add_cli_args, *(tests or config().pytest_add_cli_args_test_selection)]
    pytest.main(["-q", "-n0", "--rootdir=.", "--tb=native", *selected], plugins=[plugin])
    os.chdir("..")
    os.environ["MUTANT_UNDER_TEST"] = ""
    # From the changed copy, as anything of the package that is imported earlier would be tested.
    from recording import HERE

    modules: dict[str, Counter[str]] = {}
    for name, found in plugin.states.items():
        modules.setdefault(_module(name), Counter())[found] += 1
    caught = sum(counts["killed"] for counts in modules.values())
    survivors = [_survivor(name) for name, found in plugin.states.items() if found != "killed"]
    whole = {
        "command": f"python benchmarks/mutants.py {shlex.join([out.name, *sys.argv[2:]])}",
        **HERE,
        "system": platform.system(),
        "mutants": len(plugin.states),
        "caught": caught,
        "modules": {name: dict(counts) for name, counts in sorted(modules.items())},
        "survivors": survivors,
    }
    out.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    print(f"{caught} of {len(plugin.states)} mutants caught ({100 * caught / len(plugin.states):.1f}%)")
    return 0


def _module(mutant: str) -> str:
    """``trifecta.optim`` of ``trifecta.optim.x_orthogonalised__mutmut_3``."""
    return re.split(r"\.x[_ǁ]", mutant)[0]


def _survivor(mutant: str) -> dict[str, str]:
    shown = get_diff_for_mutant(mutant)
    lines = [line for line in shown.splitlines() if re.match(r"[-+](?![-+])", line)]
    before, after = ("".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    reasons = (why for part, why in REASONS.items() if _without(part, before) == _without(part, after))
    return {"mutant": mutant, "change": "\n".join(lines), "reason": next(reasons, "")}


def _without(part: str, code: str) -> str:
    return re.sub(rf"{part}|[\s,]", "", code)


if __name__ == "__main__":
    sys.exit(main())
