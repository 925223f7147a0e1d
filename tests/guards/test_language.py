"""Plain technical English: idioms that are translated, and second words for one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
}
# In code, where a subject is always known; documents may need them.
IN_CODE = {
    r"(?:no|some|any|every)body": "name who or what: the template, Vault, another process",
    r"whoever": "name who",
    r"goes by": "depends on; uses",
    r"all the same": "anyway",
    r"is over": "has expired; has ended",
}

# What is clean, and stays so. Add to it what has been made so.
CODE = ("src/ephemeral_creds/providers",)
DOCUMENTS = ("README.md", "docs")
# Still to be written anew.
EXCEPT = {
    "docs/explanation/life-of-a-credential.md", "docs/explanation/broken-samples.md",
}  # fmt: skip


def texts(roots: tuple[str, ...], suffix: str) -> list[Path]:
    paths = [ROOT / root for root in roots]
    return [
        path
        for root in paths
        for path in sorted(root.rglob(f"*{suffix}") if root.is_dir() else [root])
        if path.relative_to(ROOT).as_posix() not in EXCEPT
    ]


def found(path: Path, phrases: dict[str, str]) -> list[str]:
    """Return each place where a phrase is, across line breaks, with what to write instead."""
    text = path.read_text(encoding="utf-8")
    # A comment or a string goes on in the next line.
    flat = re.sub(r"\s*\n[ \t]*(?:# )?", lambda match: " " * len(match[0]), text)
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: "
        f"{' '.join(match[0].split())!r}: {better}"
        for phrase, better in phrases.items()
        for match in re.finditer(rf"\b(?:{phrase.replace(' ', '[ ]+')})\b", flat, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", texts(CODE, ".py"), ids=lambda path: path.name)
def test_code_is_in_plain_english(path: Path) -> None:
    assert found(path, IDIOMS | IN_CODE) == []


@pytest.mark.parametrize("path", texts(DOCUMENTS, ".md"), ids=lambda path: path.name)
def test_documents_are_in_plain_english(path: Path) -> None:
    assert found(path, IDIOMS) == []


@pytest.mark.parametrize("path", sorted(EXCEPT))
def test_no_exception_is_left_that_is_clean(path: str) -> None:
    assert found(ROOT / path, IDIOMS), f"{path} is clean: take it from EXCEPT"


def test_a_phrase_is_found_across_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "x.py"
    path.write_text('# A lease that is\n# given\n#   back; and "nobody\n', encoding="utf-8")
    assert len(found(path, IDIOMS | IN_CODE)) == 2
