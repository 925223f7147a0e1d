"""Plain technical English: idioms that are translated, and second words for one thing."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

# What CONTRIBUTING.md says under "Words", as far as a pattern can tell; with what to write instead.
IDIOMS = {
    r"(?:is|are) (?-i:none)(?! in| of| left| yet)": "is not a …, there is no …",
    r"of no use": "cannot be used",
    r"so many (?:seconds|ms|times|requests|bytes)": "a number, or 'that many'",
    r"se(?:e|es|en) to it": "ensure",
    r"puts? up with": "accept",
    r"(?:can|could|to) be had": "is available",
    r"(?:come|comes|came) about": "happen; be made",
    r"in vain": "fail",
    r"for ever": "without a limit; permanently",
    r"no whole": "half; incomplete",
    r"(?:tells?|told|telling) of": "report",
    r"(?:give|gives|given|gave|giving) (?:it |them |leases? )?back": "revoke",
    r"lapse[sd]?": "expired",
    r"(?:go|goes|going|went) on": "continue; keep trying",
    r"(?:go|goes|going|went) before": "override; take precedence",
    r"as a rule": "usually",
    r"anew": "again; at each login",
    r"mend(?:s|ed|ing)?": "fix",
    r"(?:is|are|was|were) away": "is unreachable",
    r"of one's own": "of your own; a private …",
    r"(?<!['\"`])(?:no|some|any|every)body": "name who or what: Vault, another process",
    r"whoever": "name who",
    r"where (?:there (?:is|are|was)|nothing|none|something|neither|only a)": "if",
    r"where it (?:is not known|has none|failed|succeeded)": "if",
    r"[.;]\s+what (?:is|was|were|has|may|can|cannot|only|we)": "a noun: the request that …",
}
# In code only: documents may need them.
IN_CODE = {
    r"goes by": "depends on; uses",
    r"all the same": "anyway",
    r"is over": "has expired; has ended",
}

# A test is named by a subject and an expectation; `r4` and `d4` are numbers of rules and defects.
NOT_A_SUBJECT = re.compile(
    r"def (test_(?:[rd]\d+_)*(?:what|who|whom|whoever|whatever|that|nobody|somebody)_\w*)"
)

CODE = ("src/ephemeral_creds",)
# Of these only comments and docstrings: a test may name a role "nobody".
TESTS = ("tests", "examples", "benchmarks", "tools")
DOCUMENTS = ("README.md", "docs", "examples")


def texts(roots: tuple[str, ...], suffix: str) -> Iterator[Path]:
    for root in map(ROOT.joinpath, roots):
        yield from sorted(root.rglob(f"*{suffix}")) if root.is_dir() else [root]


def found(path: Path, phrases: dict[str, str]) -> list[str]:
    """Return each place where a phrase is, across line breaks, with what to write instead."""
    return found_in(path.read_text(encoding="utf-8"), path, phrases)


def found_in(text: str, path: Path, phrases: dict[str, str]) -> list[str]:
    # A comment or a string may end in a later line.
    flat = re.sub(r'"?\n[ \t]*(?:# |f?")?', lambda match: " " * len(match[0]), text)
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: "
        f"{' '.join(match[0].split())!r}: {better}"
        for phrase, better in phrases.items()
        for match in re.finditer(rf"\b(?:{phrase.replace(' ', '[ ]+')})\b", flat, re.IGNORECASE)
    ]


def prose(text: str) -> str:
    """Return the comments and docstrings of a module, in their lines, and dashes for others."""
    lines = ["-"] * (text.count("\n") + 1)
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        begins = before in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins):
            lines[token.start[0] - 1 : token.end[0]] = token.string.splitlines()
        if token.type not in {tokenize.COMMENT, tokenize.NL}:
            before = token.type
    return "\n".join(lines)


@pytest.mark.parametrize("path", [*texts(CODE, ".py")], ids=lambda path: path.name)
def test_code_is_in_plain_english(path: Path) -> None:
    assert found(path, IDIOMS | IN_CODE) == []


@pytest.mark.parametrize("path", [*texts(TESTS, ".py")], ids=lambda path: path.name)
def test_comments_of_tests_are_in_plain_english(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert found_in(prose(text), path, IDIOMS) == []


@pytest.mark.parametrize("path", [*texts(DOCUMENTS, ".md")], ids=lambda path: path.name)
def test_documents_are_in_plain_english(path: Path) -> None:
    assert found(path, IDIOMS) == []


def test_tests_are_named_by_a_subject() -> None:
    paths = [*texts(("tests", "examples"), ".py")]
    assert [name for path in paths for name in NOT_A_SUBJECT.findall(path.read_text())] == []


def test_a_phrase_is_found_across_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "x.py"
    path.write_text('# A lease that is given\n# back.\nx = (\n    "is of "\n    f"no use"\n)\n')
    assert [place.partition(": ")[0] for place in found(path, IDIOMS)] == ["x.py:4", "x.py:1"]


def test_prose_is_comments_and_docstrings() -> None:
    text = 'def f():\n    """Given\n    back."""\n    x = "anew"  # for\n    # ever\n'
    assert prose(text) == '-\n"""Given\n    back."""\n# for\n# ever\n-'
