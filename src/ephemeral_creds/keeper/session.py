"""One session of a driver or pool that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from ephemeral_creds._values import Credentials, Grant
    from ephemeral_creds.lifecycle.refusals import LoginFailure

__all__ = ["Session"]


class _Owner(Protocol):
    """What counts sessions, as each of them sees it."""

    reclaimed_through: int

    def is_stale(self, generation: int) -> bool: ...
    def needs_test(self, generation: int) -> bool: ...
    def accept(self, session: Session) -> None: ...
    def reject(self, session: Session, reason: LoginFailure, sqlstate: str | None) -> None: ...
    def note_test(self, session: Session, *, alive: bool) -> None: ...
    def learn_end(self, session: Session, remaining: float | None) -> None: ...
    def end(self, session: Session) -> None: ...


class Session:
    """One session: from before its login until it is closed. Made by `Sessions` only.

    Call `accepted` or `rejected` once, when the outcome of the login is known, and `closed` when
    an accepted session has ended, for whatever reason. Every method may be called from any thread,
    returns at once and raises nothing.

    Attributes:
        grant: what to log in with.
        wants_end: whether this login should ask PostgreSQL until when its role can log in, and
            tell `end_learned`: one login of each generation without a lease is asked to.
        state: what it is known to be; set by `Sessions` only.
    """

    __slots__ = ("_owner", "grant", "state", "wants_end")

    def __init__(self, owner: _Owner, grant: Grant, *, wants_end: bool) -> None:
        self.grant = grant
        self.wants_end = wants_end
        self._owner = owner
        self.state: Literal["new", "open", "closed"] = "new"

    def __repr__(self) -> str:
        return f"<Session of generation {self.generation}>"

    @property
    def generation(self) -> int:
        """The generation that it logs in with."""
        return self.grant.generation

    @property
    def credentials(self) -> Credentials:
        """The user name and password to log in with."""
        return self.grant.credentials

    @property
    def is_stale(self) -> bool:
        """Whether newer credentials are in use: close it instead of using it again."""
        return self._owner.is_stale(self.generation)

    @property
    def is_overdue(self) -> bool:
        """Whether it is stale, and the grace before the deadline of its credentials has begun."""
        return self.generation <= self._owner.reclaimed_through

    @property
    def needs_test(self) -> bool:
        """Whether its role may be gone: run ``SELECT current_user`` before it is used again.

        A session outlives its role (see DROP ROLE): it still answers ``SELECT 1``. Tell `tested`
        what came of it.
        """
        return self._owner.needs_test(self.generation)

    def accepted(self) -> None:
        """The login was accepted."""
        self._owner.accept(self)

    def rejected(self, reason: LoginFailure, sqlstate: str | None = None) -> None:
        """The login failed; there is no session.

        Args:
            reason: what stopped it. Only `LoginFailure.CREDENTIALS`, and `LoginFailure.PG_HBA`
                where a login was accepted before, have other credentials fetched.
            sqlstate: the server's code, if known.
        """
        self._owner.reject(self, reason, sqlstate)

    def tested(self, *, alive: bool) -> None:
        """A test has shown whether its role still exists; close it where it does not."""
        self._owner.note_test(self, alive=alive)

    def end_learned(self, remaining: float | None) -> None:
        """PostgreSQL lets its role log in for `remaining` seconds; ``None`` for no limit."""
        self._owner.learn_end(self, remaining)

    def closed(self) -> None:
        """It has ended. Does nothing for one that was not accepted, or is closed already."""
        if self.state == "open":
            self._owner.end(self)
