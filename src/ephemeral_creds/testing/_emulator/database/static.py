"""Static roles of the database engine: roles that stay, and whose password changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal, iso_time, one_error, seconds
from ephemeral_creds.testing._emulator.database.cron import Schedule
from ephemeral_creds.testing._emulator.database.postgres import DatabaseTrouble

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StaticRoles"]

_SHORTEST_PERIOD = 5.0
_SHORTEST_WINDOW = 3600.0


@dataclass(slots=True)
class _StaticRole:
    connection: str
    username: str
    rotation: _ByPeriod | _BySchedule
    rotated_at: float = 0.0
    password: str = field(default="", repr=False)
    due_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _ByPeriod:
    period: float

    def after(self, instant: float) -> float:
        return instant + self.period

    def describe(self) -> dict[str, object]:
        return {"rotation_period": round(self.period)}


@dataclass(frozen=True, slots=True)
class _BySchedule:
    text: str
    schedule: Schedule
    window: float

    def after(self, instant: float) -> float:
        return self.schedule.after(instant)

    def describe(self) -> dict[str, object]:
        window = {"rotation_window": round(self.window)} if self.window else {}
        return {"rotation_schedule": self.text, **window}


class StaticRoles:
    """The static roles of one mounted database engine.

    Args:
        change_password: gives the role of that name, on the connection before it, another password.
        now: Unix time in seconds.
    """

    def __init__(
        self, change_password: Callable[[str, str], str], now: Callable[[], float]
    ) -> None:
        self._change_password = change_password
        self._now = now
        self._roles: dict[str, _StaticRole] = {}
        # Held while PostgreSQL works: a password and what is remembered of it belong together.
        self._lock = threading.Lock()

    def write(self, name: str, body: dict[str, Any]) -> None:
        """Create or replace a static role, and change its password at once."""
        rotation = _rotation(body, self._now())
        role = _StaticRole(str(body.get("db_name")), str(body.get("username")), rotation)
        with self._lock:
            self._rotate(role)
            self._roles[name] = role

    def delete(self, name: str) -> None:
        """Forget a static role; PostgreSQL keeps it."""
        self._roles.pop(name, None)

    def rotate(self, name: str) -> None:
        """Change a password now."""
        with self._lock:
            self._rotate(self._of(name, "no static role found for role name"))

    def read(self, name: str) -> dict[str, object]:
        """Return a password and what is known about its next change."""
        with self._lock:
            role = self._of(name, "unknown role: " + name)
            return {
                "last_vault_rotation": iso_time(role.rotated_at),
                "password": role.password,
                **role.rotation.describe(),
                "ttl": max(0, int(role.due_at - self._now())),
                "username": role.username,
            }

    def rotate_due(self) -> None:
        """Change the passwords whose time has come; what fails is tried again."""
        with self._lock:
            for role in list(self._roles.values()):
                if self._now() >= role.due_at:
                    try:
                        self._rotate(role)
                    except Refusal:
                        continue

    def _of(self, name: str, missing: str) -> _StaticRole:
        role = self._roles.get(name)
        if role is None:
            raise Refusal(400, missing)
        return role

    def _rotate(self, role: _StaticRole) -> None:
        try:
            role.password = self._change_password(role.connection, role.username)
        except DatabaseTrouble as error:
            raise Refusal(500, one_error(f"failed to update user: {error}")) from None
        role.rotated_at = self._now()
        role.due_at = role.rotation.after(role.rotated_at)


def _rotation(body: dict[str, Any], now: float) -> _ByPeriod | _BySchedule:
    period, schedule = body.get("rotation_period"), body.get("rotation_schedule")
    if period and schedule:
        raise Refusal(
            400,
            "mutually exclusive fields rotation_period and rotation_schedule were both specified; "
            "only one of them can be provided",
        )
    if not (period or schedule):
        raise Refusal(
            400,
            "one of rotation_schedule or rotation_period must be provided to create a static "
            "account",
        )
    window = seconds(body.get("rotation_window"))
    if not schedule:
        if seconds(period) < _SHORTEST_PERIOD:
            raise Refusal(400, "rotation_period must be 5 seconds or more")
        if window:
            raise Refusal(400, "rotation_window is invalid with use of rotation_period")
        return _ByPeriod(seconds(period))
    # The noise in these texts is Vault's own.
    noise = "%!(EXTRA string=error, *errors.errorString="
    try:
        parsed = Schedule(schedule)
        parsed.after(now)
    except ValueError as error:
        raise Refusal(400, f"could not parse rotation_schedule{noise}{error})") from None
    if window and window < _SHORTEST_WINDOW:
        raise Refusal(
            400,
            f"rotation_window is invalid{noise}rotation_window must be 3600 seconds or more)",
        )
    return _BySchedule(schedule, parsed, window)
