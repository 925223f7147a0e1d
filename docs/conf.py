"""How Sphinx builds these pages into ``site/``: `nox -s docs`. It needs no network."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pygments.lexers import PostgresLexer, TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
sys.path.insert(0, str(HERE / "_ext"))

project = PROJECT["name"]
author = "the authors of ephemeral-creds"
copyright = author  # noqa: A001  Sphinx's name
version = release = PROJECT["version"]
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "notfound.extension",
    "command_options",
    "docstrings",
    "inline_diagrams",
]
root_doc = "index"
exclude_patterns = ["_*", "inventories"]

# --- Pages: links to headings as GitHub has them ------------------------------------------------

myst_heading_anchors = 4

# --- Links into other documentation; where the inventories come from is told beside them ---------

nitpicky = True  # a name in a signature that cannot be linked is an error, but for these:
nitpick_ignore_regex = [
    # No public name: a guard requires these to be described. Their classes stay readable as text.
    ("py:class", r"ephemeral_creds\..*|Format|ParseFunction|TokenAnswer"),
    # Nothing that their documentation describes, or none with an inventory.
    ("py:class", r"psycopg(_pool|\.pq|\.rows)\..*|(PGconn|Row|RowFactory|AsyncRowFactory)"),
    ("py:class", r"(opentelemetry|pgqueuer|procrastinate|prometheus_client|structlog)\..*"),
    ("py:class", r"asyncio\.locks\.Event"),
    ("py:exc", r"django\..*"),
]
INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "psycopg": "https://www.psycopg.org/psycopg3/docs/",
    "requests": "https://requests.readthedocs.io/en/latest/",
    "sqlalchemy": "https://docs.sqlalchemy.org/en/20/",
}
intersphinx_mapping = {
    name: (address, str(HERE / "inventories" / f"{name}.inv"))
    for name, address in INVENTORIES.items()
}

# --- The reference, from docstrings -------------------------------------------------------------

default_role = "name"  # of docs/_ext/docstrings.py
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 80  # one parameter a line above it
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the types are in the signature of a dataclass
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True  # attributes are a list; those with a docstring have an entry of their own

# --- Appearance ---------------------------------------------------------------------------------

html_theme = "furo"
html_title = project
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"  # that of furo underlines modules
html_theme_options = {
    "source_repository": PROJECT["urls"]["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
}

# --- The page for an address without one --------------------------------------------------------

notfound_template = "404.html"
notfound_context = {"title": "Page not found"}
# A server shows it at every depth, so its links begin at the server's root.
notfound_urls_prefix = urlsplit(html_baseurl).path or "/"


def setup(app: Sphinx) -> None:
    """Choose lexers: policies are no Terraform, and all SQL is PostgreSQL's."""
    app.add_lexer("hcl", TextLexer)
    app.add_lexer("sql", PostgresLexer)
