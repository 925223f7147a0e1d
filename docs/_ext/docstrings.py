"""Names in backticks as links, in docstrings and pages; and what autodoc does not know of ours."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxRole

import ephemeral_creds
from ephemeral_creds import contrib, testing

if TYPE_CHECKING:
    from docutils.nodes import Element, Node, TextElement, system_message
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

_ATTRIBUTES = {"attribute", "data", "property"}


def reference(env: BuildEnvironment, target: str, code: nodes.literal) -> addnodes.pending_xref:
    """Return a link to what has that name, which stays code if there is nothing."""
    code["classes"] += ["xref", "py"]
    attributes = {"refdoc": env.docname, "refdomain": "py", "reftype": "obj", "reftarget": target}
    return addnodes.pending_xref(code.rawsource, code, in_backticks=True, **attributes)


class NameRole(SphinxRole):
    """A word in single backticks of a docstring: most are parameters, some name something.

    That each public name is described has a guard of its own.
    """

    def run(self) -> tuple[list[Node], list[system_message]]:
        """Return a link that may stay code."""
        link = reference(self.env, self.text, nodes.literal(self.rawtext, self.text))
        for key in ("py:module", "py:class"):
            link[key] = self.env.ref_context.get(key)
        return [link], []


class PublicNames(SphinxTransform):
    """Public names in the code of pages: ``Lease``, ``Lease.duration``, ``retry_on_rotation()``."""

    default_priority = 400  # before links are resolved

    def apply(self, **_: Any) -> None:
        """Make them links."""
        for code in list(self.document.findall(nodes.literal)):
            name = code.astext().removesuffix("()")
            if isinstance(code.parent, nodes.reference | nodes.title | addnodes.pending_xref):
                continue
            if name.partition(".")[0] in ephemeral_creds.__all__:
                name = f"ephemeral_creds.{name}"
            if name.startswith("ephemeral_creds."):
                code.replace_self(reference(self.env, name, code.deepcopy()))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: Element, content: TextElement
) -> Element | None:
    """Look a short name up among those of the package; a word in backticks may name nothing."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    name = node["reftarget"]
    for target in (f"ephemeral_creds.{name}", f"ephemeral_creds.events.{name}"):
        if target in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", target, node, content
            )
    return content if node.get("in_backticks") else None


class Attributes:
    """The docstrings of attributes: napoleon would read "What: why" as a type and a description."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def hide(
        self, app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
    ) -> None:
        """Parse one as that of a method, and keep it from napoleon."""
        if what in _ATTRIBUTES:
            parsed = GoogleDocstring(list(lines), app.config, app, "method", name, thing, options)
            self._lines = parsed.lines()
            lines[:] = [""]

    def show(self, _app: Sphinx, what: str, *arguments: Any) -> None:
        """Put it back."""
        if what in _ATTRIBUTES:
            *_, lines = arguments
            lines[:] = self._lines


def shorten_signature(
    _app: Sphinx, _what: str, _name: str, thing: object, *arguments: Any
) -> tuple[str | None, str | None]:
    """Leave out what is no Python or not public, and all of a protocol's."""
    _, signature, returns = arguments
    if getattr(thing, "_is_protocol", False):
        return "", None
    if signature:
        signature = re.sub(r"=\s*<[^>]*>", "=...", signature)  # a dataclass's <factory>
        signature = re.sub(r", _\w+: [^,()]+(\([^()]*\))?(?=[,)])", "", signature)
    return signature, returns


def import_types(_app: Sphinx) -> None:
    """Import what is described, and then what its modules import for type checkers only."""
    for package in (ephemeral_creds, testing):
        for name in package.__all__:
            getattr(package, name)  # imports its module
    for found in pkgutil.iter_modules(contrib.__path__, f"{contrib.__name__}."):
        importlib.import_module(found.name)
    for name in sorted(name for name in sys.modules if name.startswith("ephemeral_creds.")):
        module = sys.modules[name]
        text = Path(module.__file__ or "").read_text(encoding="utf-8")
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                code = compile(ast.Module(statement.body, []), name, "exec")
                exec(code, vars(module))  # noqa: S102  lines of our own modules


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register what is above."""
    app.setup_extension("sphinx.ext.napoleon")
    app.setup_extension("sphinx.ext.autodoc")
    app.add_role("name", NameRole())
    app.add_transform(PublicNames)
    app.connect("builder-inited", import_types)
    attributes = Attributes()
    # Napoleon and intersphinx have the usual priority, 500.
    app.connect("autodoc-process-docstring", attributes.hide, priority=400)
    app.connect("autodoc-process-docstring", attributes.show, priority=600)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", resolve, priority=900)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # the section's name in the docstring
    return {"parallel_read_safe": True, "parallel_write_safe": True}
