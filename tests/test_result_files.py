"""Every figure in README and docs comes from a file in benchmarks/results that says what it depends on."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks" / "results").rglob("*.json*"))


def records(file: Path) -> list[dict[str, Any]]:
    """One a file, or one a line; those of a run have what they depend on in its result."""
    text = file.read_text()
    found = (
        [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [json.loads(text)]
    )
    return [record | record.get("result", {}) for record in found]


def test_a_file_says_how_where_and_when_it_was_made() -> None:
    assert len(FILES) > 100
    made = r"trifecta (train|compare|reproduce|bench) |python benchmarks/|make "
    for file in FILES:
        *_, day = file.stem.split("_")
        for record in records(file):
            assert re.match(made, record["command"]), file
            assert record["hardware"], file
            assert {"torch", "python"} <= set(record["versions"]), file
            assert date.fromisoformat(record["date"]) <= date.fromisoformat(day), file
            if "name" in record:
                assert f"_{record['budget']}_seed-{record['seed']}_" in file.name
