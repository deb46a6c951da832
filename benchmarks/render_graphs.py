"""Table of what CUDA graphs gain: steps launched kernel by kernel beside the same steps replayed."""

from collections.abc import Sequence
from typing import Any

Report = dict[str, Any]
# Its steps are never recorded.
PUBLISHED = "published"


def replayed(launched: Sequence[Report], recorded: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Images a second of every row, launched and ``recorded``, network by network."""
    before = {
        (report["network"], row["name"]): row["images_per_second"]["median"]
        for report in launched
        for row in report["rows"]
    }
    body = []
    for report in recorded:
        for row in report["rows"]:
            if row["name"] == PUBLISHED:
                continue
            then, now = before[report["network"], row["name"]], row["images_per_second"]["median"]
            body.append(
                [report["network"], row["title"], f"{then:,.0f}", f"{now:,.0f}", f"{now / then:.1f}×"]
            )
    return ["network", "", "launched one by one", "replayed", "ratio"], body
