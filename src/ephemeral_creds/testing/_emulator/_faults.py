"""Faults by script: which request goes wrong, how, and how often. Nothing is left to chance."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Fault", "Faults"]


class _Kind(Enum):
    ANSWER = auto()
    HANG = auto()
    RESET = auto()
    DELAY = auto()
    RETYPE = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a request to go wrong; make one with a class method.

    Attributes:
        kind: which way.
        handled: whether the request takes effect before it goes wrong, as when a role was
            created and the answer never arrived.
        status: HTTP status of a false answer.
        body: its body.
        headers: its headers.
        delay: seconds to wait.
    """

    kind: _Kind
    handled: bool = False
    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    @classmethod
    def error(
        cls,
        status: int,
        *errors: str,
        headers: Mapping[str, str] | None = None,
        handled: bool = False,
    ) -> Fault:
        """Answer with an error status in Vault's form, ``Retry-After`` or so among `headers`."""
        body = json.dumps({"errors": list(errors)}).encode()
        return cls.answer(status, body, headers=headers, handled=handled)

    @classmethod
    def answer(
        cls,
        status: int,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        handled: bool = False,
    ) -> Fault:
        """Answer with anything at all: ``b""``, ``b"[]"``, half a document."""
        given = {"Content-Type": content_type} | dict(headers or {})
        return cls(_Kind.ANSWER, handled, status, body, given)

    @classmethod
    def html(cls, status: int = 200) -> Fault:
        """Answer with a page, as a captive portal or a proxy does."""
        page = b"<html><body><h1>Please sign in</h1></body></html>"
        return cls.answer(status, page, content_type="text/html; charset=utf-8")

    @classmethod
    def redirect(cls, base: str, status: int = 307) -> Fault:
        """Send the client to the same path at another base URL."""
        return cls(_Kind.ANSWER, False, status, b"", {"Location": base})

    @classmethod
    def retype(cls, content_type: str = "application/json; charset=utf-8") -> Fault:
        """Give the true answer, labelled with another content type."""
        return cls(_Kind.RETYPE, True, headers={"Content-Type": content_type})

    @classmethod
    def hang(cls, *, handled: bool = False) -> Fault:
        """Never answer, until the faults are cleared or the server stops."""
        return cls(_Kind.HANG, handled)

    @classmethod
    def late(cls, delay: float, *, handled: bool = False) -> Fault:
        """Give the true answer after `delay` seconds, spent before or after handling it."""
        return cls(_Kind.DELAY, handled, delay=delay)

    @classmethod
    def reset(cls, *, handled: bool = True) -> Fault:
        """Break the connection instead of answering."""
        return cls(_Kind.RESET, handled)


@dataclass(slots=True)
class _Rule:
    method: str
    path: str
    fault: Fault
    skip: int
    times: int | None

    def matches(self, method: str, path: str) -> bool:
        """Say whether the rule is about this request, used up or not."""
        return fnmatchcase(method, self.method) and fnmatchcase(path, self.path)


class Faults:
    """The script of one emulator: rules in the order in which they were added."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rules: list[_Rule] = []
        self._epoch = 0
        self._hanging = 0
        self._shut = False

    def add(
        self, method: str, path: str, fault: Fault, *, times: int | None = 1, skip: int = 0
    ) -> None:
        """Let requests go wrong.

        The first rule that matches and is not used up decides.

        Args:
            method: ``GET``, ``PUT``, … or a pattern such as ``*``.
            path: what follows ``/v1/``, or a pattern as for `fnmatch`: ``database/creds/*``.
            fault: what happens.
            times: how often; ``None`` until `clear`.
            skip: how many matching requests to let through first.
        """
        with self._changed:
            self._rules.append(_Rule(method, path, fault, skip, times))

    def clear(self) -> None:
        """Forget all rules, and break the connection of every request that hangs."""
        with self._changed:
            self._rules.clear()
            self._epoch += 1
            self._changed.notify_all()

    def open(self) -> None:
        """Let requests hang; called when the server starts."""
        with self._changed:
            self._shut = False

    def shut(self) -> None:
        """Do as `clear`, and let no request hang any more; called when the server stops."""
        with self._changed:
            self._shut = True
        self.clear()

    @property
    def hanging(self) -> int:
        """How many requests hang right now."""
        with self._changed:
            return self._hanging

    def wait_until_hanging(self, count: int = 1, *, timeout: float = 10.0) -> bool:
        """Wait until at least `count` requests hang; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._hanging >= count, timeout)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that is due for a request, and count it."""
        with self._changed:
            for rule in self._rules:
                if rule.times == 0 or not rule.matches(method, path):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                fault = rule.fault
                if location := fault.headers.get("Location"):
                    target = f"{location.rstrip('/')}/v1/{path}"
                    return replace(fault, headers={"Location": target})
                return fault
        return None

    def hold(self, seconds: float | None = None) -> None:
        """Block the calling thread until `clear`, or for `seconds`."""
        with self._changed:
            epoch = self._epoch
            self._hanging += seconds is None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._shut or self._epoch != epoch, seconds)
            self._hanging -= seconds is None


KIND = _Kind
