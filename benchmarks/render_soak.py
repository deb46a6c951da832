"""The table of `make soak`, from its latest result file."""

import json
from pathlib import Path
from typing import Any


def soak(folder: Path) -> str:
    """Each part with what was done and what failed; a plain statement where nothing was."""
    files = sorted(folder.glob("soak_*.json"), key=lambda file: file.stem.split("_")[-1])
    if not files:
        return "Not measured.\n"
    record = json.loads(files[-1].read_text())
    lines = ["| part | done | failed |", "|---|---|---|"]
    lines += [f"| {name} | {_done(part)} | {part['failed']} |" for name, part in record["parts"].items()]
    made = f"{record['hardware']}; PyTorch {record['versions']['torch']}; {record['date']}; `make soak`"
    return "\n".join(lines) + f"\n\n{made}.\n"


def _done(part: dict[str, Any]) -> str:
    if "moments" in part:
        moments = ", ".join(f"{count} {name}" for name, count in part["moments"].items())
        return f"{sum(part['moments'].values())} kills ({moments}) in {part['runs']} trainings"
    if "growth" in part:
        grown = ", ".join(
            f"{n.replace('_', ' ')} {100 * share:+.2f}%" for n, share in part["growth"].items()
        )
        return f"{part['times']:,}: {grown}"
    cases: dict[str, int] = part["cases"]
    by_status: dict[str, int] = {}
    for name, count in cases.items():
        status = name.split(": ")[1]
        by_status[status] = by_status.get(status, 0) + count
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(by_status.items()))
    return f"{sum(cases.values()):,} cases; exit statuses {statuses}"
