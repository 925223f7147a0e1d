"""Locks in a child of a fork: it inherits those that other threads held, and nobody opens them."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["renew_lock_in_child"]

_owners: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()


def renew_lock_in_child(owner: object, attribute: str) -> None:
    """Have `owner` find a new lock in `attribute` in every child of a fork, as long as it lives."""
    _owners[owner] = attribute


def _renew_all() -> None:
    for owner, attribute in list(_owners.items()):
        setattr(owner, attribute, threading.Lock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
