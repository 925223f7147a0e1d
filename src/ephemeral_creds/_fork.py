"""The one registry of what a fork invalidates.

A child of a fork has the objects of its parent and none of its threads. A lock that another thread
held is never released there; sockets, watches and leases remain the parent's.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol, TypeVar

__all__ = ["Inheritable", "register", "registered"]

T = TypeVar("T")


class Inheritable(Protocol):
    """What a child of a fork cannot use as it is."""

    def _after_fork(self) -> None:
        """Give up what is the parent's. Runs in the child before all else; must not raise."""


_references: set[weakref.ref[Inheritable]] = set()


def register(thing: Inheritable) -> None:
    """Have `thing` told in each child of a fork, for as long as it lives."""
    _references.add(weakref.ref(thing, _references.discard))


def registered(kind: type[T]) -> list[T]:
    """Return the registered objects of `kind`, in no particular order."""
    things = [reference() for reference in list(_references)]
    return [thing for thing in things if isinstance(thing, kind)]


def _tell_all() -> None:
    for reference in list(_references):
        thing = reference()
        if thing is not None:
            thing._after_fork()  # noqa: SLF001 - called only here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_all)
