"""Builds the documentation: `sphinx-build -W docs build/docs`."""

import re
import shutil
from pathlib import Path

import hyperface

project = "hyperface"
author = "The hyperface authors"
copyright = author
version = release = hyperface.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "hyperface"
html_theme_options = {"show_toc_level": 2}

# A name in backticks is a link where it is one of ours, and code elsewhere.
default_role = "py:obj"
# Docstrings state shapes and types; in signatures jaxtyping's full names would hide the arguments.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_rtype = False
myst_heading_anchors = 3
# The notebooks are stored with their outputs; tests/test_notebooks.py runs them.
nb_execution_mode = "off"


def _copy_notebooks() -> None:
    """Copies the notebooks beside the pages: Sphinx reads no file outside its folder."""
    here = Path(__file__).parent
    target = here / "notebooks"
    target.mkdir(exist_ok=True)
    for notebook in (here.parent / "notebooks").glob("*.ipynb"):
        shutil.copyfile(notebook, target / notebook.name)


_copy_notebooks()


def _escape_bars(app, what, name, obj, options, lines) -> None:
    """Escapes the bars of norms, such as ||f||, which reStructuredText takes for substitutions."""
    lines[:] = [re.sub(r"(?<!`)\|", r"\|", line) for line in lines]


COLON = "\ue000"
"""Stands for a colon where napoleon must not see it; a character that no text has."""


def _hide_colon(app, what, name, obj, options, lines) -> None:
    """Hides the colon in a field's first line: napoleon takes what is before it for the type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def _show_colon(app, what, name, obj, options, lines) -> None:
    """Shows the colons that `_hide_colon` has hidden."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app) -> None:
    # Napoleon itself is called at priority 500.
    app.connect("autodoc-process-docstring", _hide_colon, priority=400)
    app.connect("autodoc-process-docstring", _show_colon, priority=600)
    app.connect("autodoc-process-docstring", _escape_bars)
