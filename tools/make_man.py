"""Write the man page from the parsers of the command line: for `nox -s twins`.

    python tools/make_man.py            # write it
    python tools/make_man.py --check    # exit status 1 if it is out of date

Its date is that of its last change.
"""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
# Not installed where it is only linted: the parsers need the standard library alone.
sys.path.insert(0, str(ROOT / "src"))

from ephemeral_creds.cli._arguments import build_parser  # noqa: E402
from ephemeral_creds.cli._manual import Manual, paragraphs  # noqa: E402
from ephemeral_creds.providers.url import url_schemes  # noqa: E402

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from ephemeral_creds.cli._manual import CommandParser

TARGET = ROOT / "man" / "ephemeral-creds.1"
HEADER = '.\\" Made by tools/make_man.py from the parsers: do not edit.\n'
# Left out: a page that each new provider changes would be out of date all the time.
SCHEMES = ", ".join(f"{scheme}://" for scheme in url_schemes())
# What is typed as it is: options, variables, and numbers of exit statuses.
LITERAL = re.compile(r"(?<![\w-])(--[a-z][\w-]*|[A-Z]+_[A-Z_]+|PG[A-Z]{2,})")


def escape(text: str) -> str:
    """Return `text` for roff: a hyphen as it is typed, and nothing that begins a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def prose(text: str) -> str:
    """Return `text` for roff, one sentence a line, with bold options and variables."""
    marked = escape(LITERAL.sub(r"{B}\1{R}", text)).replace("{B}", "\\fB").replace("{R}", "\\fR")
    return re.sub(r"(?<=[.:;]) (?=[A-Z\\])", "\n", marked)


def entry(term: str, text: str) -> str:
    """Return a term and, indented below it, its text."""
    return f".TP\n{term}\n{prose(text)}\n"


def block(content: str | Mapping[str, str]) -> str:
    """Return paragraphs, or terms and their texts."""
    if isinstance(content, str):
        content = content.replace(SCHEMES, "ephemeral-creds --help lists those of this version")
        return "".join(f".PP\n{prose(text)}\n" for text in paragraphs(content))
    return "".join(entry(f"\\fB{escape(str(term))}\\fR", text) for term, text in content.items())


def examples(manual: Manual) -> str:
    """Return the examples, each with its purpose."""
    return "".join(
        f".PP\n{prose(purpose[:1].upper() + purpose[1:])}:\n"
        f".PP\n.in +4n\n.EX\n{escape(command)}\n.EE\n.in\n"
        for purpose, command in manual.examples.items()
    )


def signature(action: argparse.Action) -> str:
    """Return an argument and its value."""
    if not action.option_strings:
        return f"\\fI{action.metavar or '{' + ','.join(action.choices or ()) + '}'}\\fR"
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    value = action.metavar or "{" + ",".join(map(str, action.choices or ())) + "}"
    return f"{names} \\fI{escape(str(value))}\\fR"


def arguments(parser: CommandParser) -> Iterator[str]:
    """Yield the arguments of a command, in the order of its help."""
    for group in parser._action_groups:  # noqa: SLF001 - no other way
        for action in group._group_actions:  # noqa: SLF001
            if action.dest not in ("help", "command"):
                yield entry(signature(action), (action.help or "") % vars(action))


def synopsis(parser: CommandParser) -> str:
    """Return how a command is called."""
    words = (parser.usage or "").removeprefix(parser.prog).split()
    if not parser.usage:
        everything = parser._actions  # noqa: SLF001
        positional = [action for action in everything if not action.option_strings]
        names = [signature(action) for action in positional]
        words = ["[options]"] + [
            f"[{name}]" if action.nargs == "?" else name
            for action, name in zip(positional, names, strict=True)
        ]
        return f"\\fB{escape(parser.prog)}\\fR {' '.join(words)}"
    return f"\\fB{escape(parser.prog)}\\fR {escape(' '.join(words))}"


def page(date: str) -> str:
    """Return the whole page."""
    parser = build_parser()
    manual = parser.manual
    text = HEADER + f'.TH EPHEMERAL\\-CREDS 1 "{date}" "ephemeral\\-creds" "User Commands"\n'
    text += f".SH NAME\nephemeral\\-creds \\- {escape(manual.summary)}\n.SH SYNOPSIS\n"
    parsers = [*parser.commands.values(), parser]
    text += "\n.br\n".join(map(synopsis, parsers)) + "\n"
    text += f".SH DESCRIPTION\n{block(manual.description)}"
    text += "".join(arguments(parser))
    for name, command in parser.commands.items():
        text += (
            f".SH COMMAND {name.upper()}\n{synopsis(command)}\n{block(command.manual.description)}"
        )
        text += "".join(arguments(command))
        for title, content in command.manual.sections.items():
            if title not in manual.sections:
                text += f".SS {escape(title[:1].upper() + title[1:])}\n{block(content)}"
        text += f".SS Exit status\n{block({str(k): v for k, v in command.manual.statuses.items()})}"
        text += f".SS Examples\n{examples(command.manual)}"
    for title, content in manual.sections.items():
        text += f".SH {escape(title.upper())}\n{block(content)}"
    environment = dict(manual.environment)
    for command in parser.commands.values():
        environment = dict(command.manual.environment) | environment
    text += f".SH ENVIRONMENT\n{block(environment)}"
    text += f".SH EXIT STATUS\n{block({str(k): v for k, v in manual.statuses.items()})}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["Documentation"]
    text += f".SH SEE ALSO\n.BR psql (1)\n.PP\n.UR {address}\nDocumentation\n.UE\n"
    # A section begins a paragraph of its own.
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def main(options: list[str]) -> int:
    """Write it, or with ``--check`` say whether it is out of date; return the exit status."""
    found = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    date = re.search(r'^\.TH .*"(\d+-\d+-\d+)"', found, re.MULTILINE)
    if date is not None and page(date[1]) == found:
        return 0
    if options:
        print(f'{TARGET} is out of date: run "nox -s twins"', file=sys.stderr)
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page(datetime.now(UTC).date().isoformat()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
