"""Why a login failed, and when other credentials are fetched for it."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds.lifecycle.policy import RefreshPolicy

__all__ = ["Doubt", "LoginFailure", "Refusals"]


# The first looks the role up, after pg_hba.conf has let it in. The second says that the method that
# pg_hba.conf names has refused what the client sent: PAM, as on Amazon RDS, has the code 28000 too.
_AFTER_PG_HBA = frozenset({"InitializeSessionUserId", "auth_failed"})
# PgBouncer has one code for everything that it says itself, in English only, and that it passes on.
_POOLER_REFUSED = re.compile(
    r"authentication failed|auth failed|no such user|is not permitted to log in"
)


class LoginFailure(Enum):
    """What stopped a login; the value is what events and errors call it."""

    CREDENTIALS = "credentials"
    """The server refuses this user or this password: other credentials may help."""
    PG_HBA = "pg_hba"
    """The server turned the login away before it asked for a password."""
    SERVER = "server"
    """The server said no for a reason that no other credentials change: no free slot, say."""
    CLIENT = "client"
    """The client turned the server away, which lacks what ``sslmode`` or ``require_auth`` asks."""
    UNREACHABLE = "unreachable"
    """The server did not answer, or not in time."""

    @classmethod
    def from_sqlstate(
        cls, sqlstate: str | None, routine: str | None = None, message: str = ""
    ) -> LoginFailure:
        """Return what a server's error of a failed login says.

        Args:
            sqlstate: its code; ``None`` if there was no answer.
            routine: the name of PostgreSQL's function that raised it, if known: both
                ``pg_hba.conf`` and a role that does not exist have the code 28000
                (https://www.postgresql.org/docs/current/protocol-error-fields.html).
            message: its text, if known: PgBouncer has the code 08P01 for every reason of its own.
        """
        if sqlstate is None:
            return cls.UNREACHABLE
        if sqlstate == "28000" and routine is not None and routine not in _AFTER_PG_HBA:
            return cls.PG_HBA
        by_pooler = sqlstate == "08P01" and _POOLER_REFUSED.search(message)
        return cls.CREDENTIALS if sqlstate.startswith("28") or by_pooler else cls.SERVER


class Doubt:
    """Whether PostgreSQL refuses what the source has, or only what it had.

    A login that is refused may have begun with an earlier password. One that is refused after a
    fetch for that reason has brought the same was not, unless it took long.

    Attributes:
        is_certain: whether the credentials in use are those of the source, and are refused.
    """

    def __init__(self) -> None:
        self.is_certain = False
        self._is_confirmed = False

    def refuse(self) -> None:
        """Note a refused login."""
        self.is_certain = self.is_certain or self._is_confirmed

    def confirm(self) -> None:
        """Note that a fetch for a refused login has brought the same credentials."""
        self._is_confirmed = True

    def clear(self) -> None:
        """Note an accepted login, or other credentials."""
        self.is_certain = self._is_confirmed = False


class Refusals:
    """Refused logins with the credentials in use.

    The first one is answered at once if the consumer had been accepted with them, and ever more
    slowly if it never was. For a consumer that is accepted nowhere, as with the address of some
    other server, one role is minted, not one after the other.
    """

    def __init__(self, policy: RefreshPolicy) -> None:
        self._policy = policy
        self._in_row = 0
        self._last_at = -math.inf
        self._accepted: set[int] = set()
        self._minted_for: set[int] = set()

    def accept(self, consumer: int) -> None:
        """Note that a login of `consumer` was accepted, whatever the credentials."""
        self._accepted.add(consumer)
        self._minted_for.discard(consumer)

    def leave(self, consumer: int) -> None:
        """Note that there is no such consumer any more."""
        self._accepted.discard(consumer)
        self._minted_for.discard(consumer)

    def forget(self) -> None:
        """Take the next one for the first: other credentials are in use."""
        self._in_row = 0

    def blames_credentials(self, consumer: int, reason: LoginFailure) -> bool:
        """Tell whether other credentials may be accepted.

        pg_hba.conf turns away who it does not list, and a consumer whose database or address it
        does not list: the latter has never been accepted.
        """
        by_hba = reason is LoginFailure.PG_HBA and consumer in self._accepted
        return by_hba or reason is LoginFailure.CREDENTIALS

    def refuse(self, now: float, *, worked: bool) -> None:
        """Note one; `worked` says that they had been accepted from the same consumer before."""
        # Soon after the last one it is the same trouble.
        if worked or now - self._last_at >= self._policy.retry_max:
            self._in_row = 0
        self._last_at = now

    def delay(self, draw: float) -> float:
        """Return how long to wait: a server that refuses them all is not hammered."""
        if not self._in_row:
            return 0.0
        return max(self._policy.tuning.config_retry, self._policy.retry_after(self._in_row, draw))

    def may_help(self, consumer: int, age: float, *, others_work: bool) -> bool:
        """Tell whether another role may be accepted from `consumer` if this one never was.

        Args:
            consumer: who is refused.
            age: how long ago the one in use was minted, in seconds.
            others_work: whether it is accepted from others.
        """
        # A replica may not know of it yet, and would know of another one no sooner.
        may_lag = age < self._policy.proof_timeout
        # One was minted for this consumer already, and did not help.
        return not may_lag and not (others_work and consumer in self._minted_for)

    def answer(self, consumer: int, *, others_work: bool) -> None:
        """Note that others are fetched for `consumer`."""
        self._in_row += 1
        if others_work:
            self._minted_for.add(consumer)
