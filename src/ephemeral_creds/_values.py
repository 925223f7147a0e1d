"""Immutable values that flow from a provider to a pool; secrets in them are masked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn, final

__all__ = ["Credentials", "Grant", "Lease", "Secret"]

_MASK = "**********"


@final
class Secret:
    """A string that nothing shows by accident.

    ``repr``, ``str``, ``format`` and the local variables in a traceback show a mask; pickling is
    refused. Only `reveal` returns it.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """Return the secret itself. Do not keep the result in a variable for longer than needed."""
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, format_spec: str) -> str:
        return format(_MASK, format_spec)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.__value == other.__value

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a Secret refuses to be pickled: send the provider's settings to the other process "
            "and let it fetch its own credentials"
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and its password.

    Attributes:
        username: the PostgreSQL role to log in as.
        password: that role's password; with `passwords`, that of the first server.
        requires_tls: whether a login sends the password as it is, as it does a token: it must
            never be sent over a connection that is not encrypted.
        passwords: servers, ``host:port``, and the password of each, if each takes its own.
    """

    username: str
    password: Secret
    requires_tls: bool = False
    passwords: tuple[tuple[str, Secret], ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """How long credentials work, and what the server said of it.

    Attributes:
        requested_at: the instant at which the request that led to this promise was *sent*, on the
            provider's clock. The server counts from when it handled it, which is never earlier,
            so counting from here errs on the safe side however slow the answer was.
        duration: seconds from ``requested_at`` for which the credentials work: the lesser of the
            lease's own duration and what remained of the token that it was requested with.
            ``inf`` if it is not known, as with a file.
        renewable: whether the lease can be renewed.
        lease_id: the server's id of the lease; empty without a lease.
        rotates_in: for a static role, whose password the server changes: seconds from
            ``requested_at`` until the next change, ``inf`` if the server does not say. Sessions
            outlive it. ``None`` if the role is not static, or it is not known.
        ask_again_in: seconds from ``requested_at`` after which to fetch again in any case; ``inf``
            for never.
        announced_duration: seconds from ``requested_at`` until the end that the source expects and
            cannot promise. It is reported, and PostgreSQL is asked about it, but it keeps no one
            from logging in. ``inf`` without one.
        is_token: whether the password is a token that the server checks at the login only, and that
            a fetch may bring another of: that happens before its ``announced_duration``. With
            ``rotates_in=inf``: the role stays, and sessions outlive the token.
    """

    requested_at: float
    duration: float = math.inf
    renewable: bool = False
    lease_id: str = ""
    rotates_in: float | None = None
    ask_again_in: float = math.inf
    announced_duration: float = math.inf
    is_token: bool = False

    @property
    def expires_at(self) -> float:
        """The deadline: the instant after which the credentials must not be used to log in."""
        return self.requested_at + self.duration

    @property
    def announced_end(self) -> float:
        """The instant at which the source expects the credentials to end."""
        return self.requested_at + self.announced_duration


@dataclass(frozen=True, slots=True)
class Grant:
    """One set of credentials with its lease.

    Attributes:
        credentials: what to log in with.
        lease: how long they work.
        generation: counts the grants of one keeper: 1, 2, 3 …; 0 until the keeper numbers it.
        origin: what the provider needs to renew or revoke it; for the provider alone.
    """

    credentials: Credentials
    lease: Lease
    generation: int = 0
    origin: object = field(default=None, repr=False, compare=False)
