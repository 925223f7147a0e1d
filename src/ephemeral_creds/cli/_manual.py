"""What a command's help says besides its options, and the parser that shows it."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ephemeral_creds.cli._messages import print_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    from ephemeral_creds.cli._statuses import ExitStatus

    Entries: TypeAlias = Mapping[str, str]

__all__ = ["CommandParser", "Manual", "did_you_mean", "paragraphs"]

_WIDTH = 79  # columns: a terminal has 80 at least
_WIDEST = 100  # columns: longer lines are hard to read
_INDENT = 24  # columns: where argparse puts the text of options


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """What help, man page and reference say of a command, besides its options.

    Attributes:
        summary: what it does, for the list of commands.
        description: what it does: a sentence, and then paragraphs.
        examples: what each is for, and the command.
        sections: further sections: a title, and a text or terms with theirs.
        environment: the variables that are read.
        statuses: exit statuses and their meaning.
    """

    summary: str
    description: str
    examples: Entries
    statuses: Mapping[ExitStatus | str, str]
    sections: Mapping[str, str | Entries] = field(default_factory=dict)
    environment: Entries = field(default_factory=dict)

    def text(self) -> str:
        """Return the description, in lines of 79 columns."""
        return _filled(self.description, _WIDTH)

    def epilog(self) -> str:
        """Return everything that help shows after the options."""
        parts = ["examples:"]
        for purpose, command in self.examples.items():
            parts[-1] += f"\n  # {purpose}\n" + textwrap.indent(command, "  ")
        for title, content in self.sections.items():
            parts.append(f"{title}:\n{_entries(content)}")
        if self.environment:
            parts.append(f"environment variables:\n{_entries(self.environment)}")
        statuses = {str(status): meaning for status, meaning in self.statuses.items()}
        parts.append(f"exit status:\n{_entries(statuses)}")
        return "\n\n".join(parts)


class CommandParser(argparse.ArgumentParser):
    """A parser that shows a `Manual`, and suggests an option for one that does not exist.

    Args:
        manual: what to show besides the options.
        **arguments: those of argparse.

    Attributes:
        manual: what is shown.
        commands: the parsers of the commands, by name.
    """

    def __init__(self, *, manual: Manual, **arguments: Any) -> None:
        super().__init__(
            description=manual.text(),
            epilog=manual.epilog(),
            formatter_class=_Formatter,
            # An option that a later version adds would make an abbreviation ambiguous.
            allow_abbrev=False,
            **arguments,
        )
        self.manual = manual
        self.commands: Mapping[str, CommandParser] = {}
        self.set_defaults(parser=self)

    def format_help(self) -> str:
        """Return the help, with the address of the documentation."""
        return super().format_help() + _documentation()

    def print_help(self, file: Any = None) -> None:
        """Print the help, on stdout by default, where argparse would ignore errors."""
        if file is None:
            print_result(self.format_help().rstrip())
        else:
            super().print_help(file)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with an error about arguments that the parser did not understand."""
        first = unknown[0].partition("=")[0]
        if not first.startswith("-"):
            self.error(f"there is an argument too many: {first}")
        near = did_you_mean(first, self._option_string_actions)
        self.error(f"there is no option {first}{near}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question about what is near to `word`; an empty text if nothing is."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size().columns - 2
        super().__init__(prog, max_help_position=_INDENT, width=min(columns, _WIDEST))


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each in one line; an empty line is between two."""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _filled(text: str, width: int) -> str:
    """Return paragraphs in lines of `width` columns."""
    return "\n\n".join(
        textwrap.fill(paragraph, width, break_on_hyphens=False) for paragraph in paragraphs(text)
    )


def _entries(content: str | Entries) -> str:
    """Return a text, or terms with theirs in a column, indented."""
    if isinstance(content, str):
        return textwrap.indent(_filled(content, _WIDTH - 2), "  ")
    indent = min(max(map(len, content)) + 4, _INDENT)
    lines = []
    for term, text in content.items():
        head = f"  {term}"
        if len(head) + 2 > indent:
            lines.append(head)
            head = ""
        lines.append(
            textwrap.fill(
                text,
                _WIDTH,
                initial_indent=head.ljust(indent),
                subsequent_indent=" " * indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
        )
    return "\n".join(lines)


def _documentation() -> str:
    """Return a line about where the documentation is, as the installed package says."""
    # Only here: it takes longer to import than all else that a command needs.
    from importlib import metadata

    try:
        urls = metadata.metadata("ephemeral-creds").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        # As in a zipapp, or in a checkout on PYTHONPATH.
        return ""
    addresses = dict(url.split(", ", 1) for url in urls)
    return f"\ndocumentation: {addresses['Documentation']}\n"
