"""The findings of a check, as text and as JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "CLOCK_TOLERANCE",
    "LONGER_LIFE",
    "WIDTH",
    "Finding",
    "Findings",
    "Level",
    "ahead_of",
    "in_words",
]

Level: TypeAlias = Literal["ok", "skipped", "warn", "fail"]

CLOCK_TOLERANCE = 60.0
"""Seconds that two clocks may usually differ by before tokens and certificates are refused."""

LONGER_LIFE = (
    "raise token_ttl and token_max_ttl of the auth role above default_ttl, or set its token_period"
)
"""The remedy for a lease that would outlive the token that requested it."""

WIDTH = 100
"""Columns of a text that is not for a narrower terminal."""

_VERDICTS = {"ok": "all is well", "warn": "it works, with warnings", "fail": "it does not work"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found.

    Attributes:
        step: the step's name.
        level: how bad it is.
        text: what was found, in one line.
        remedy: what to do, in several lines if need be; empty if there is nothing to do.
    """

    step: str
    level: Level
    text: str
    remedy: str = ""

    def lines(self, indent: int, width: int) -> list[str]:
        """Return it for people: step and level in columns, the rest beside them."""
        head = f"{self.level:8}{self.step:{indent - 8}}"
        wrapped = textwrap.wrap(
            self.text,
            width,
            initial_indent=head,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
        shown = wrapped or [head.rstrip()]
        first, following = " " * indent + "-> ", " " * (indent + 3)
        for paragraph in self.remedy.splitlines():
            if paragraph.startswith(" "):
                # A statement to copy: not wrapped.
                shown.append(first + paragraph)
            else:
                shown += textwrap.wrap(
                    paragraph,
                    width,
                    initial_indent=first,
                    subsequent_indent=following,
                    break_on_hyphens=False,
                    break_long_words=False,
                )
            first = following
        return shown


@dataclass(slots=True)
class Findings:
    """All that was found, in order.

    Attributes:
        target: what was checked.
        found: what was found.
        complete: whether the check got as far as PostgreSQL.
    """

    target: str
    found: list[Finding] = field(default_factory=list)
    complete: bool = True

    def add(self, step: str, level: Level, text: str, remedy: str = "") -> None:
        """Add one."""
        self.found.append(Finding(step, level, " ".join(text.split()), remedy))

    @property
    def status(self) -> Literal["ok", "warn", "fail"]:
        """The level of the worst finding: ``ok``, ``warn`` or ``fail``."""
        levels = {finding.level for finding in self.found}
        return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"

    def as_text(self, width: int = WIDTH) -> str:
        """Return the list for people, in lines of `width` columns."""
        indent = 8 + max((len(finding.step) for finding in self.found), default=0) + 2
        lines = [self.target, ""]
        for finding in self.found:
            lines += finding.lines(indent, width)
        verdict = _VERDICTS[self.status]
        if self.status == "ok" and not self.complete:
            verdict = "no problem found in the steps that ran"
        return "\n".join([*lines, "", verdict])

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(
            {
                "target": self.target,
                "status": self.status,
                "complete": self.complete,
                "findings": [asdict(finding) for finding in self.found],
            }
        )


def in_words(seconds: float) -> str:
    """Return a duration in its largest whole unit."""
    whole = round(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size and whole % size == 0:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def ahead_of(seconds: float) -> str:
    """Describe a clock that is ahead of another one by `seconds`."""
    if abs(seconds) < 1.5:  # the uncertainty of a clock with whole seconds
        return "the same as"
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
