"""What PostgreSQL is asked about a session's role, and how it says that one is missing.

Of no driver in particular: psycopg's errors and asyncpg's both have a ``sqlstate``.
"""

from __future__ import annotations

__all__ = ["CURRENT_USER", "ROLE_MISSING", "VALID_FOR", "may_lack_its_role"]

CURRENT_USER = "SELECT current_user::text"

# By the server's clock, which is the one that it compares VALID UNTIL with. The session's user and
# not the current one, which a session role changes.
VALID_FOR = """\
SELECT CASE WHEN isfinite(rolvaliduntil)
       THEN extract(epoch FROM rolvaliduntil - clock_timestamp())::float8 END
FROM pg_catalog.pg_roles WHERE rolname = session_user"""

# insufficient_privilege and undefined_object, see
# https://www.postgresql.org/docs/current/errcodes-appendix.html: what a session gets whose role
# was dropped, and who lacks a GRANT.
ROLE_MISSING = ("42501", "42704")

# Among how many errors to look for the one that began it.
_LOOKED_AT = 32


def may_lack_its_role(error: BaseException | None) -> bool:
    """Tell whether `error`, one in it, or one that it came from, is of a session without role."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found and len(seen) < _LOOKED_AT:
        error = found.pop()
        if error is None or id(error) in seen:
            continue
        if getattr(error, "sqlstate", None) in ROLE_MISSING:
            return True
        seen.add(id(error))
        found += (error.__context__, error.__cause__)
        if isinstance(error, BaseExceptionGroup):
            found += error.exceptions[:_LOOKED_AT]
    return False
