"""The documentation site: Sphinx, with the pages of this folder and the docstrings of the package."""

import re
import sys
from pathlib import Path

import click
from docutils import nodes
from sphinx.application import Sphinx

from trifecta import __version__
from trifecta.methods import METHODS

HERE = Path(__file__).parent
project, author, release = "trifecta", "the authors of trifecta", __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
]
# An option's two dashes are not one long one.
smartquotes = False
html_theme = "furo"
html_title = "trifecta"
html_show_copyright = False
exclude_patterns = ["site"]
myst_heading_anchors = 3
# Links that point into the repository, as GitHub shows them, have no page here.
suppress_warnings = ["myst.xref_missing"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
nitpicky = False


def write_method_pages(app: Sphinx) -> None:
    """Write a page for every method: its file's docstring, and its settings."""
    folder = HERE / "reference" / "methods"
    folder.mkdir(parents=True, exist_ok=True)
    pages: dict[str, list[str]] = {}
    for name, make in METHODS.items():
        pages.setdefault(make.__module__, []).append(name)
    for stale in folder.glob("*.rst"):
        if [stale.stem] not in [names[:1] for names in pages.values()]:
            stale.unlink()
    for module, names in pages.items():
        title = ", ".join(names)
        # What is indented below a colon is a formula.
        doc = re.sub(r":\n\n(?=    )", "::\n\n", (sys.modules[module].__doc__ or "").strip())
        functions = "".join(f".. autofunction:: {module}.{METHODS[name].__name__}\n\n" for name in names)
        page = f"{title}\n{'=' * len(title)}\n\n{doc}\n\n{functions}"
        file = folder / f"{names[0]}.rst"
        if not file.is_file() or file.read_text() != page:
            file.write_text(page)


def use_dashes(app: Sphinx, page: nodes.document, name: str) -> None:
    """Write the dash between a parameter and its description, which only smart quotes would make one."""
    for text in [text for text in page.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def keep_columns(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Make aligned lines of a command's help a literal block."""
    aligned = [line for line in lines if line.startswith("| ")]
    if aligned:
        first = lines.index(aligned[0])
        block = [".. code-block:: text", "", *(f"    {line.removeprefix('| ')}" for line in aligned), ""]
        lines[:] = [*lines[:first], *block, *(line for line in lines[first:] if line not in aligned)]


def setup(app: Sphinx) -> None:
    """Generate pages before they are read, and mend details of others."""
    app.connect("builder-inited", write_method_pages)
    app.connect("doctree-resolved", use_dashes)
    app.connect("sphinx-click-process-description", keep_columns)
