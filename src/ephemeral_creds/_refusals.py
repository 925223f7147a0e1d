"""Why a login failed, as the lifecycle machine needs to know it."""

from __future__ import annotations

from enum import Enum

__all__ = ["LoginFailure"]


class LoginFailure(Enum):
    """What stopped a login; the value is what events and errors call it."""

    CREDENTIALS = "credentials"
    """The server refuses this user or this password: other credentials may help."""
    PG_HBA = "pg_hba"
    """The server turned the login away before it asked for a password."""
    SERVER = "server"
    """The server said no for a reason that no other credentials change: no free slot, say."""
    UNREACHABLE = "unreachable"
    """The server did not answer, or not in time."""
