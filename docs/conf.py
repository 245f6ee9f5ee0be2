"""Sphinx's configuration: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]  # the package beside these pages, not an installed one

from wsipipe.version import VERSION  # noqa: E402

project = "wsipipe"
copyright = "The wsipipe authors; Apache-2.0"  # noqa: A001
version = release = VERSION

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "included",
    "references",
    "sections",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "py:obj"  # what docstrings name in single backticks
highlight_language = "none"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = [
    "config.cache",  # functions in myst's own configuration cannot be pickled
    "myst.header",  # a page that is included whole begins with the heading that it has
]

autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
numpydoc_show_class_members = False  # autodoc lists them, each with its own text

html_theme = "pydata_sphinx_theme"
html_title = "wsipipe"
html_theme_options = {
    "show_prev_next": False,
    "show_toc_level": 3,
    "secondary_sidebar_items": ["page-toc"],
    "footer_end": [],
}
html_show_sourcelink = False
