"""The options of a command, from its parser: they cannot differ from what the command takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from ephemeral_creds.cli._arguments import build_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from docutils.nodes import Node
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

# What is code in a text of `--help`.
_CODE = re.compile(r"(?<![\w`])(--[a-z][\w-]+|\{\w+\}|[A-Z]+(?:_[A-Z]+)+|PG[A-Z]+)(?![\w`])")


class CommandOptions(SphinxDirective):
    """All arguments of a command, in the groups that its help has.

    The content is for those who read the source: it is left out.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[Node]:
        """Parse what a page would have to say."""
        parser = build_parser()
        command = parser.commands[self.arguments[0]]
        self.env.note_dependency(build_parser.__code__.co_filename)
        lines = [f"```{{program}} {command.prog}", "```", ""]
        for group in command._action_groups:  # noqa: SLF001  argparse shows them to formatters only
            lines += described(group, command)
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, self.arguments[0]), 0, container)
        return container.children


def described(group: argparse._ArgumentGroup, command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines about a group of arguments; none if it only has --help."""
    actions = [action for action in group._group_actions if action.dest != "help"]  # noqa: SLF001
    if actions:
        title = (group.title or "").removeprefix("positional ")
        yield from (f"```{{rubric}} {title[:1].upper()}{title[1:]}", "```", "")
    for action in actions:
        choices = "{" + ",".join(map(str, action.choices or ())) + "}"
        value = action.metavar or choices if action.nargs != 0 else ""
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        text = (action.help or "") % {**vars(action), "prog": command.prog}
        yield from (f"````{{option}} {', '.join(map(str, names))}", _CODE.sub(r"`\1`", text))
        yield from ("````", "")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
