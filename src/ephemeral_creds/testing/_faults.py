"""Faults by script: which request fails, how, and how often; deterministic."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

__all__ = ["Fault", "Faults", "Rule"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a request to go wrong; make one with a class method.

    Attributes:
        handled: whether the request takes effect before it goes wrong, as when a role was
            created and the answer never arrived.
        delay: seconds to wait; infinite for a request that hangs.
        breaks: where the connection breaks, seen from the answer's body; ``None`` if nowhere.
        status: HTTP status of a false answer; 0 for the true answer.
        body: the false answer's body.
        headers: its headers, or those that the true answer gets; ``{path}`` is the request's.
    """

    handled: bool = False
    delay: float = 0.0
    breaks: Literal["before", "within"] | None = None
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(
        cls, status: int, *errors: str, headers: dict[str, str] | None = None, handled: bool = False
    ) -> Fault:
        """Answer with an error status in Vault's form, ``Retry-After`` or so among `headers`."""
        body = json.dumps({"errors": list(errors)}).encode()
        return cls.answer(status, body, headers, handled)

    @classmethod
    def answer(
        cls, status: int, body: bytes, headers: dict[str, str] | None = None, handled: bool = False
    ) -> Fault:
        """Answer with anything at all: ``b""``, ``b"[]"``, half a document."""
        headers = {"Content-Type": "application/json"} | (headers or {})
        return cls(handled, status=status, body=body, headers=headers)

    @classmethod
    def html(cls, status: int = 200) -> Fault:
        """Answer with a page, as a captive portal or a proxy does."""
        page = b"<html><body><h1>Please sign in</h1></body></html>"
        return cls.answer(status, page, {"Content-Type": "text/html; charset=utf-8"})

    @classmethod
    def redirect(cls, base: str, status: int = 307) -> Fault:
        """Send the client to the same path at another base URL."""
        return cls(status=status, headers={"Location": f"{base.rstrip('/')}/v1/{{path}}"})

    @classmethod
    def hang(cls, *, handled: bool = False) -> Fault:
        """Never answer, until the faults are cleared or the server stops."""
        return cls(handled, delay=math.inf, breaks="before")

    @classmethod
    def late(cls, delay: float, *, handled: bool = False) -> Fault:
        """Give the true answer after `delay` seconds, spent before or after handling it."""
        return cls(handled, delay)

    @classmethod
    def reset(cls, *, handled: bool = True) -> Fault:
        """Break the connection instead of answering."""
        return cls(handled, breaks="before")

    @classmethod
    def cut(cls) -> Fault:
        """Give half of the true answer's body, then break the connection."""
        return cls(handled=True, breaks="within")


@dataclass(eq=False, slots=True)
class Rule:
    """A fault, and how many of which requests it is for."""

    method: str
    path: str
    fault: Fault
    skip: int
    times: float
    cleared: bool = False

    def takes(self, method: str, path: str) -> bool:
        """Say whether the fault is due for a request, and count it."""
        if not (fnmatchcase(method, self.method) and fnmatchcase(path, self.path) and self.times):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Faults:
    """The script of one server: rules in the order in which they were added.

    Attributes:
        hanging: how many requests hang right now.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rules: list[Rule] = []
        self.hanging = 0

    def add(
        self, method: str, path: str, fault: Fault, *, times: int | None = 1, skip: int = 0
    ) -> Rule:
        """Let requests go wrong by a rule, which `remove` takes; the first that matches decides.

        Args:
            method: ``GET``, ``PUT``, … or a pattern such as ``*``.
            path: what follows ``/v1/``, or a pattern as for `fnmatch`: ``database/creds/*``.
            fault: what happens.
            times: how often; ``None`` until `remove` or `clear`.
            skip: how many matching requests to let through first.
        """
        with self._changed:
            rule = Rule(method, path, fault, skip, math.inf if times is None else times)
            self._rules.append(rule)
            return rule

    def clear(self) -> None:
        """Forget all rules, and break the connection of every request that hangs."""
        self.remove(*self._rules)

    def remove(self, *rules: Rule) -> None:
        """Forget some rules, and break the connection of every request that they let hang."""
        with self._changed:
            for rule in rules:
                rule.cleared = True
            self._rules = [rule for rule in self._rules if not rule.cleared]
            self._changed.notify_all()

    def wait_until_hanging(self, count: int = 1, *, timeout: float = 10.0) -> bool:
        """Wait until at least `count` requests hang; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.hanging >= count, timeout)

    def take(self, method: str, path: str) -> Rule | None:
        """Return the rule that decides about a request, and count it."""
        with self._changed:
            return next((rule for rule in self._rules if rule.takes(method, path)), None)

    def hold(self, rule: Rule) -> None:
        """Block the calling thread for the delay of `rule`, or until it is cleared."""
        hangs = rule.fault.delay == math.inf
        with self._changed:
            self.hanging += hangs
            self._changed.notify_all()
            self._changed.wait_for(lambda: rule.cleared, None if hangs else rule.fault.delay)
            self.hanging -= hangs
