"""The pages are complete: each public name has its entry, and each page its link."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ephemeral_creds import contrib
from ephemeral_creds.cli._arguments import build_parser

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = re.compile(
    r"^\.\. auto(?:class|function|exception|data):: (ephemeral_creds\.[\w.]+)$", re.MULTILINE
)
TOCTREE = re.compile(r"^```\{toctree\}\n(?::.*\n)*\n([^`]*)^```$", re.MULTILINE)
INTEGRATIONS = [
    found.name
    for found in pkgutil.iter_modules(contrib.__path__, f"{contrib.__name__}.")
    if not found.name.rpartition(".")[2].startswith("_")
]


def entries() -> Counter[str]:
    pages = [page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("reference/*.md"))]
    return Counter(name for text in pages for name in ENTRY.findall(text))


def check(module: str, without: tuple[str, ...] = ()) -> None:
    found = entries()
    names = {*vars(importlib.import_module(module))["__all__"]}.difference(without)
    wrong = {name: count for name in names if (count := found[f"{module}.{name}"]) != 1}
    assert not wrong, f"in docs/reference each needs one `.. auto…:: {module}.NAME`: {wrong}"


def test_every_public_name_has_one_entry() -> None:
    check("ephemeral_creds")
    check("ephemeral_creds.testing")
    check("ephemeral_creds.events", without=("Event", "Problem"))  # they are in the package itself


@pytest.mark.parametrize("module", INTEGRATIONS)
def test_every_name_of_an_integration_has_one_entry(module: str) -> None:
    try:
        check(module)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))  # a library that not every session installs


def test_the_start_page_links_to_every_page_in_the_order_of_the_contents() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    contents = [page for tree in TOCTREE.findall(text) for page in tree.split()]
    assert re.findall(r"\]\(([\w/-]+)\.md\)", text) == contents
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("*/*.md")}
    assert set(contents) | {"inventories/README"} == pages | {"tutorial"}


def test_the_page_for_an_unknown_address_links_to_pages() -> None:
    text = (DOCS / "_templates" / "404.html").read_text(encoding="utf-8")
    links = re.findall(r"pathto\('([^']+)'\) \}\}(?:#([\w-]+))?\"", text)
    assert len(links) == text.count("pathto('")
    for page, anchor in links:
        headings = re.findall(
            "^#+ (.+)$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in headings]


def test_every_command_has_its_options_in_the_reference() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{command-options\} (\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(build_parser().commands)


def test_read_the_docs_installs_what_the_session_does() -> None:
    root = DOCS.parent
    config = yaml.safe_load((root / ".readthedocs.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (install,) = config["python"]["install"]
    assert set(install["extra_requirements"]) <= set(project["optional-dependencies"])
    python = f"Programming Language :: Python :: {config['build']['tools']['python']}"
    assert python in project["classifiers"]
    assert (root / config["sphinx"]["configuration"]).exists()
