"""Run examples/first-steps.ipynb and store what its cells print, so that it reads as a page."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first-steps.ipynb"


def main() -> int:
    """Run every code cell in order; the exit status."""
    notebook = json.loads(NOTEBOOK.read_text())
    names: dict[str, object] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        lines = printed.getvalue().splitlines(keepends=True)
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    NOTEBOOK.write_text(f"{json.dumps(notebook, indent=1, ensure_ascii=False)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
