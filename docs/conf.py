"""The documentation site: `python -m sphinx -W -b html docs build/docs`, no network needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from phdlspec import __version__  # noqa: E402 (the package beside it, installed or not)

project, author, copyright = "phdlspec", "the phdlspec authors", "the phdlspec authors"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "declared"]
exclude_patterns = ["_ext", "**/*.py", "figures"]
html_theme = "pydata_sphinx_theme"
html_title = f"phdlspec {version}"
html_theme_options = {"show_prev_next": True, "navigation_depth": 2, "header_links_before_dropdown": 6}
html_sidebars = {"index": []}
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing", "ref.python", "myst-nb.lexer"]
# Notes link to files of the repository; words of docstrings that are also names are no references; pages that are not
# run have no kernel to ask for its language.

# The tutorials are run in an empty folder each; what they raise fails the build.
nb_execution_mode = os.environ.get("PHDLSPEC_DOCS_RUN", "force")  # "off" draws the pages without running them
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True

# Docstrings are plain text with shapes, equations and unbalanced quotes; one quote means code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "float,int", "undoc-members": False}
napoleon_use_ivar = True
napoleon_use_rtype = False
