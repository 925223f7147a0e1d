"""How far a keeper has come, from its making to its end."""

from __future__ import annotations

from enum import Enum

__all__ = ["MOVES", "Phase"]


class Phase(Enum):
    """How far a keeper has come."""

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    """It was told to close, and its thread gives back what was granted."""
    HUNG = "hung"
    """So it was, and who closed it has stopped waiting: the provider does not answer."""
    STOPPED = "stopped"
    CRASHED = "crashed"
    """A defect has ended the thread. What is in use works until its deadline."""
    INHERITED = "inherited"
    """This is the child of a fork; thread and leases are the parent's."""


MOVES = {
    # Back again where the system allows no further thread.
    Phase.NEW: {Phase.RUNNING, Phase.STOPPED},
    Phase.RUNNING: {Phase.NEW, Phase.CLOSING, Phase.CRASHED, Phase.INHERITED},
    Phase.CLOSING: {Phase.HUNG, Phase.STOPPED, Phase.INHERITED},
    Phase.HUNG: {Phase.STOPPED, Phase.INHERITED},
    Phase.CRASHED: {Phase.STOPPED, Phase.INHERITED},
    Phase.STOPPED: set[Phase](),
    Phase.INHERITED: set[Phase](),
}
