"""Diagrams as part of the page: in its colours, with links that work, and with their text."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

_ALONE = re.compile(r"<(title|style)>.*?</\1>\n|(?<=<svg) |xmlns=\"[^\"]+\" ")


class InlineDiagrams(SphinxPostTransform):
    """Puts what docs/make_diagrams.py has drawn into the page."""

    default_priority = 5  # before the images are collected and copied
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Replace the images."""
        for image in list(self.document.findall(nodes.image)):
            file = Path(self.env.srcdir, image["uri"])
            if file.suffix != ".svg":
                continue
            drawing = file.read_text(encoding="utf-8")
            if 'class="diagram"' in drawing:
                label = escape(image.get("alt", ""), quote=True)
                inline = _ALONE.sub("", drawing).replace("<svg", f'<svg aria-label="{label}" ', 1)
                if "<a " in inline:  # an img has no parts that a screen reader could follow
                    inline = inline.replace('role="img"', 'role="group"', 1)
                html = f'<div class="diagram-box" tabindex="0">{inline}</div>'
                image.replace_self(nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the transform."""
    app.add_post_transform(InlineDiagrams)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
