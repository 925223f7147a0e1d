"""Immutable values that flow from a provider to a pool; secrets in them are masked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn, final

__all__ = ["Credentials", "Grant", "Lease", "Secret"]

_MASK = "**********"


@final
class Secret:
    """A string that is only shown to who asks for it by name.

    ``repr``, ``str``, ``format`` and a traceback's local variables show a mask; pickling is
    refused. `reveal` is the only way in.
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
    """A user name with its password; the two always travel together.

    Attributes:
        username: the PostgreSQL role to log in as.
        password: that role's password.
    """

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Lease:
    """A server's promise that credentials work for a while.

    Attributes:
        requested_at: the instant at which the request that led to this promise was *sent*, on the
            provider's clock. The server counts from when it handled it, which is never earlier,
            so counting from here errs on the safe side however slow the answer was.
        duration: seconds from ``requested_at`` for which the credentials work: the least of
            the lease's own and what remains of the token it was made under. ``inf`` where
            nobody knows, as with a file.
        renewable: whether asking for more makes sense.
        lease_id: the server's name for the lease; empty where there is none.
        rotates_in: for a role that stays and whose password the server changes from time to time:
            seconds from ``requested_at`` until it does so, ``inf`` where it does not say. Sessions
            outlive that. ``None`` where each grant is a role of its own, or nobody knows.
        ask_again_in: seconds from ``requested_at`` after which to ask again in any case; ``inf``
            for never.
    """

    requested_at: float
    duration: float = math.inf
    renewable: bool = False
    lease_id: str = ""
    rotates_in: float | None = None
    ask_again_in: float = math.inf

    @property
    def expires_at(self) -> float:
        """The deadline: the instant after which the credentials must not be used to log in."""
        return self.requested_at + self.duration


@dataclass(frozen=True, slots=True)
class Grant:
    """One set of credentials with its lease.

    Attributes:
        credentials: what to log in with.
        lease: for how long.
        generation: counts the grants of one keeper: 1, 2, 3 …; 0 until the keeper numbers it.
        origin: what the provider needs to renew or revoke it; nobody else's business.
    """

    credentials: Credentials
    lease: Lease
    generation: int = 0
    origin: object = field(default=None, repr=False, compare=False)
