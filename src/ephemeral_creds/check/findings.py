"""What a check found, and how it is shown."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Finding", "Findings", "Level"]

Level: TypeAlias = Literal["ok", "skipped", "warn", "fail"]

_WIDTH = 100  # columns
_SEVERITY = {"ok": 0, "skipped": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found.

    Attributes:
        step: the step's name.
        level: how bad it is.
        text: what was found, in one line.
        remedy: what to do; may have several lines. Empty where there is nothing to do.
    """

    step: str
    level: Level
    text: str
    remedy: str = ""

    def lines(self, indent: int) -> list[str]:
        """Return it for people: step and level in columns, the rest beside them."""
        head = f"{self.level:8}{self.step:{indent - 8}}"
        wrapped = textwrap.wrap(
            self.text, _WIDTH, initial_indent=head, subsequent_indent=" " * indent
        )
        shown = wrapped or [head.rstrip()]
        for paragraph in self.remedy.splitlines():
            # Statements are to be copied: they stay as they are.
            first = " " * indent + ("-> " if paragraph == self.remedy.splitlines()[0] else "   ")
            if paragraph.startswith(" "):
                shown.append(first + paragraph)
            else:
                shown += textwrap.wrap(
                    paragraph,
                    _WIDTH,
                    initial_indent=first,
                    subsequent_indent=" " * (indent + 3),
                    break_on_hyphens=False,
                    break_long_words=False,
                )
        return shown


@dataclass(slots=True)
class Findings:
    """All that was found, in order.

    Attributes:
        target: what was checked.
        found: what was found.
        complete: whether it was tried up to PostgreSQL.
    """

    target: str
    found: list[Finding] = field(default_factory=list)
    complete: bool = True

    def add(self, step: str, level: Level, text: str, remedy: str = "") -> None:
        """Add one."""
        self.found.append(Finding(step, level, " ".join(text.split()), remedy))

    @property
    def severity(self) -> int:
        """The exit status: 0 where all is well, 1 with warnings only, 2 where something fails."""
        return max((_SEVERITY[finding.level] for finding in self.found), default=0)

    def as_text(self) -> str:
        """Return the list for people."""
        indent = 8 + max((len(finding.step) for finding in self.found), default=0) + 2
        lines = [self.target, ""]
        for finding in self.found:
            lines += finding.lines(indent)
        well = "all is well" if self.complete else "all is well as far as it was tried"
        verdict = (well, "it works, with warnings", "it does not work")[self.severity]
        return "\n".join([*lines, "", verdict])

    def as_json(self) -> str:
        """Return one line of JSON."""
        findings = [
            {"step": f.step, "level": f.level, "text": f.text, "remedy": f.remedy}
            for f in self.found
        ]
        status = ("ok", "warn", "fail")[self.severity]
        return json.dumps(
            {
                "target": self.target,
                "status": status,
                "complete": self.complete,
                "findings": findings,
            }
        )
