"""The code in README and docs does what it says."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from trifecta.cli import command as trifecta_command
from trifecta.methods import METHODS

ROOT = Path(__file__).parent.parent
QUICK = ("README.md",)
# Run elsewhere: as a module of its own, and beside libraries whose warnings are their own.
ELSEWHERE = ("write-a-method.md",)
SECTIONS_ELSEWHERE = re.compile(r"^## (Lightning|Accelerate)\n.*?(?=^## )", flags=re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PYTHON = {
    page.name: code
    for page in PAGES
    if (
        code := re.findall(
            r"```python\n(.*?)```", SECTIONS_ELSEWHERE.sub("", page.read_text()), flags=re.DOTALL
        )
    )
    and page.name not in ELSEWHERE
}
PYTHON |= {
    notebook.name: [
        "".join(cell["source"])
        for cell in json.loads(notebook.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    for notebook in sorted(ROOT.glob("examples/*.ipynb"))
}
COMMANDS = [
    (page.name, line.partition(" #")[0].strip())
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("trifecta ")
]


@pytest.mark.parametrize(
    "page",
    [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PYTHON],
)
def test_the_python_of_a_page_runs_and_learns(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for code in PYTHON[page]:
        exec(compile(code, page, "exec"), names)
        assert float(names.get("accuracy", 1.0)) > 0.8  # type: ignore[arg-type]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_a_page_has_options_that_exist(page: str, line: str) -> None:
    _, *words = shlex.split(line)
    context = click.Context(trifecta_command)
    name, command, rest = trifecta_command.resolve_command(context, words)
    assert command is not None
    # Parses and checks them, and runs nothing.
    with command.make_context(name, list(rest)):
        pass


def test_no_more_methods_are_claimed_than_there_are() -> None:
    words = {23: "twenty-three", 24: "twenty-four", 25: "twenty-five", 26: "twenty-six"}
    for name in ("README.md", "CHANGELOG.md"):
        said = [
            number
            for number, word in words.items()
            if f"{word} methods" in (ROOT / name).read_text().lower()
        ]
        assert said, name
        assert max(said) <= len(METHODS), name


def test_the_notebook_is_stored_with_what_it_prints() -> None:
    cells = json.loads((ROOT / "examples/first-steps.ipynb").read_text())["cells"]
    for cell in cells:
        if "print(" in "".join(cell["source"]):
            assert cell["outputs"], cell["source"][0]
            assert cell["outputs"][0]["output_type"] == "stream"
