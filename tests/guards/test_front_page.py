"""README is the package index's page as well: its links lead somewhere from both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOOKS = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)]+)\)")
# Where a file of a version's tag is: a page about it, and the file itself.
REPOSITORY = SETTINGS["project"]["urls"]["Source"]
PAGE = f"{REPOSITORY}/blob/v$HFPR_VERSION/"
FILE = f"{REPOSITORY.replace('github.com', 'raw.githubusercontent.com')}/v$HFPR_VERSION/"


def on_the_index() -> str:
    """Return what the build makes of README, with the version's placeholder."""
    text = README
    for rule in HOOKS["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_link_leads_to_a_file_and_a_heading() -> None:
    links = [target for _, target in LINK.findall(README) if not target.startswith("https://")]
    assert links
    for target in links:
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        assert not anchor or anchor in anchors(ROOT / path), target


def test_no_link_is_relative_on_the_index() -> None:
    before, after = LINK.findall(README), LINK.findall(on_the_index())
    assert len(before) == len(after)
    for (image, target), (_, absolute) in zip(before, after, strict=True):
        home = FILE if image else PAGE
        assert absolute == (target if target.startswith("https://") else home + target)


def test_code_is_on_the_first_screen() -> None:
    above, _, rest = README.partition("```python\n")
    code = rest.partition("```")[0]
    assert above.count("\n") < 10
    assert code.count("\n") <= 10
