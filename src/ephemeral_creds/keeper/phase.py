"""How far a keeper has come, from its making to its end."""

from __future__ import annotations

from enum import Enum

__all__ = ["MOVES", "Phase"]


class Phase(Enum):
    """How far a keeper has come."""

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    """Its thread revokes what was granted."""
    HUNG = "hung"
    """The same, but `close` no longer waits for it: the provider does not answer."""
    STOPPED = "stopped"
    CRASHED = "crashed"
    """A defect has ended its thread. The current credentials work until their deadline."""
    INHERITED = "inherited"
    """This is the child of a fork; thread and leases are the parent's."""


MOVES = {
    Phase.NEW: {Phase.RUNNING, Phase.STOPPED},
    # Back to NEW if the system allows no further thread.
    Phase.RUNNING: {Phase.NEW, Phase.CLOSING, Phase.CRASHED, Phase.INHERITED},
    Phase.CLOSING: {Phase.HUNG, Phase.STOPPED, Phase.INHERITED},
    Phase.HUNG: {Phase.STOPPED, Phase.INHERITED},
    Phase.CRASHED: {Phase.STOPPED, Phase.INHERITED},
    Phase.STOPPED: set[Phase](),
    Phase.INHERITED: set[Phase](),
}
