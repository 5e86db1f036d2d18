"""How Sphinx makes the site from these pages: `make docs`. Nothing is fetched, and it works from the file system."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # reference/ and docs/ are used from the checkout, not installed

project = "llama_scratch"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "docs.gallery"]
html_theme = "furo"
html_title = "A Llama from scratch"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
exclude_patterns = ["figures", "drawing"]
pygments_style, pygments_dark_style = "friendly", "github-dark"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook is shown as docs.notebook has run it
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # nn.Module's own
autodoc_class_signature = "separated"
default_role = "code"
highlight_language = "text"


COLUMNS = re.compile(r" {4}|.*\S {2,}\S")  # a formula, or a line of a table
# what would be markup: a bar, and a star that does not emphasise a word
MARKUP = re.compile(r"\||\*(?!\w+\*)(?<!\w\*)")


def as_restructured_text(_app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """Our docstrings are text with formulas and tables: literal blocks to reStructuredText where `::` stands before."""
    made: list[str] = []
    literal = False
    for line in lines:
        if literal and line and not COLUMNS.match(line):
            literal = False
            made.append("")
        elif not literal and COLUMNS.match(line):
            literal = True
            made += ["", "::", ""]
        made.append(f"    {line}" if literal else MARKUP.sub(r"\\\g<0>", line))
    lines[:] = made


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text)
