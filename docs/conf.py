"""Configuration of the documentation; build it with ``make docs``."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import NumpyDocstring

import scfoundry

if TYPE_CHECKING:
    from docutils.nodes import Element, TextElement, reference
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "scfoundry"
author = "The scfoundry developers"
copyright = f"2026, {author}"
version = release = scfoundry.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "jupyter_execute", "models/generated", "**.ipynb_checkpoints"]
default_role = "py:obj"

# Notebooks are shown as committed. Sphinx reads pages below docs/ only, so they are copied there, their links adapted.
HERE = Path(__file__).parent
(HERE / "tutorials").mkdir(exist_ok=True)
for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
    (HERE / "tutorials" / notebook.name).write_text(notebook.read_text("utf-8").replace("../docs/", "../"), "utf-8")
sys.path.insert(0, str(HERE))
write_tables = importlib.import_module("model_tables").write_tables
write_tables(HERE / "models" / "generated")
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
typehints_document_rtype_none = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Inventories are fetched on Read the Docs only, so that a build needs no network.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/en/latest/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if "READTHEDOCS" in os.environ
    else {}
)

html_theme = "sphinx_book_theme"
html_title = "scfoundry"
html_theme_options = {
    "repository_url": "https://github.com/scfoundry/scfoundry",
    "use_repository_button": True,
    "path_to_docs": "docs",
    "show_navbar_depth": 2,
    "navbar_persistent": [],
}
html_static_path = ["_static"]
html_css_files = ["notebooks.css"]
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The type hints extension for Python 3.11 uses what Sphinx 10 will drop; no one but its authors can act on it.
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints")


def returns_as_written(docstring: NumpyDocstring, section: str) -> list[str]:
    """Render *Returns* as it stands: prose and a list of the slots that were written, not pairs of name and type."""
    lines = docstring._dedent(docstring._consume_to_next_section())
    # The type hints extension puts a colon first, to keep napoleon from looking for a type there.
    return docstring._format_block(":returns: ", lines[1:] if lines[0] == ":" else lines)


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: TextElement
) -> reference | Element | None:
    """Link ``sf.tl.embed`` to ``scfoundry.tl.embed``: docstrings use the name that users type."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("sf."):
        return None
    target = f"scfoundry.{target.removeprefix('sf.')}"
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def setup(app: Sphinx) -> None:
    """Connect the hooks of this file."""
    NumpyDocstring._parse_returns_section = returns_as_written
    app.connect("missing-reference", resolve_short_name)
