"""What the package promises as a whole: a cheap import, one place that trains, a README that runs."""

import re
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

import trifecta

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src/trifecta").rglob("*.py"))
README = (ROOT / "README.md").read_text()


def test_importing_loads_nothing_optional() -> None:
    optional = ["datasets", "PIL", "sklearn", "matplotlib", "jinja2", "click", "rich", "pandas"]
    optional += ["lightning", "pytorch_lightning"]
    code = f"import sys, trifecta; print([m for m in {optional!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_only_learners_run_backward_and_step_optimizers() -> None:
    trains = re.compile(r"(?<!def )\bbackward\(|optimizers?(\[\w+\])?\.step\(")
    learns = re.compile(r"^class \w*Learner\b", flags=re.MULTILINE)
    # Benchmarks compare with how others train, written out as they do it.
    library = [file.read_text() for file in SOURCES if file.parent.name != "bench"]
    training = [text for text in library if trains.search(text)]
    assert training
    assert all(learns.search(text) for text in training)


def test_method_names_are_tested_nowhere_outside_methods() -> None:
    compares = re.compile(r"method(\.name)? *(==|!=|in) *[\"'(\[]")
    assert [file.name for file in SOURCES if compares.search(file.read_text())] == []


def test_versions_agree() -> None:
    assert metadata.version("trifecta") == trifecta.__version__
    assert f"## {trifecta.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_exist_and_say_what_they_are() -> None:
    for name in trifecta.__all__:
        value = getattr(trifecta, name)
        assert isinstance(value, dict) or value.__doc__, name


def test_importing_every_name_replaces_no_module_of_a_reader() -> None:
    names: dict[str, object] = {"nn": torch.nn, "statistics": statistics}
    exec("from trifecta import *", names)
    assert names["nn"] is torch.nn
    assert names["statistics"] is statistics
    assert names["train"] is trifecta.train


def test_the_readmes_first_commands_are_targets_of_the_makefile() -> None:
    commands = re.findall(r"^make (\w+) +#", README, flags=re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{command}: " in makefile for command in commands)
    assert "make test" in (ROOT / ".ci/run").read_text()
