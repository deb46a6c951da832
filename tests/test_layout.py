"""Imports go down the floors of the house, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "trifecta"
# Lowest first. What shares a floor does not know each other.
FLOORS = [
    {"_utils"},
    {"nn", "schedules"},
    {"losses", "inputs", "optim", "readout", "calibration"},
    {"method", "kernels"},
    {"network"},
    {"window"},
    {"learner"},
    {"counts", "cuda_graphs", "pipeline", "statistics"},
    {"methods", "parallel"},
    {"data"},
    {"training"},
    {"report", "shrinking"},
    {"recipes"},
    {"bench", "experiments"},
    {"comparison"},
    {"__init__"},
    {"integrations"},
    {"options"},
    {"launch"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def module_of(file: Path) -> str:
    """The dotted name below the package, such as ``nn.blocks``."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports(file: Path) -> Iterator[str]:
    """Modules of the package that a file imports, while it runs or for its types."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom | ast.Import):
            continue
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        for name in names:
            package, _, inner = name.partition(".")
            if package == "trifecta":
                # ``from trifecta.report import figures`` imports a module.
                members = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
                found = [f"{inner}.{member}" for member in members if f"{inner}.{member}" in MODULES]
                yield from found or [inner or "__init__"]


def part_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {part_of(module) for module in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = part_of(module)
    for imported in imports(MODULES[module]):
        assert part_of(imported) == own or FLOOR_OF[part_of(imported)] < FLOOR_OF[own], imported


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(imports(file)) for module, file in MODULES.items()}
    # A package's own file only collects names; its modules may not go through it.
    assert list(TopologicalSorter(graph).static_order())
