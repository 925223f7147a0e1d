"""What settings cannot be right, as Django's system checks report it."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.db.backends.base.validation import BaseDatabaseValidation

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.providers.url import provider_from_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["OURS", "DatabaseValidation", "errors"]

OURS = ("credentials", "rotating_pool")
"""The keys of ``OPTIONS`` that are not for psycopg."""

_SECRETS = ("user", "password", "passfile")
# What the backend itself gives to the pool.
_GIVEN = {
    *("self", "credentials", "conninfo", "kwargs", "open", "configure"),
    *("session_role", "refresh", "observers", "close_returns"),
}


class DatabaseValidation(BaseDatabaseValidation):  # type: ignore[misc]
    """Checks of the tag ``database``: ``manage.py check --database default``, and ``migrate``."""

    connection: Any

    def check(self, **kwargs: Any) -> list[Any]:
        """Return what is wrong with the settings of the alias. It makes no request."""
        settings, alias = self.connection.settings_dict, self.connection.alias
        return [
            *super().check(**kwargs),
            *errors(settings, alias),
            *_of_provider(settings["OPTIONS"], alias),
        ]


def errors(settings: Mapping[str, Any], alias: str) -> Iterator[Any]:
    """Find what keeps the backend from working, by a look at the settings only."""
    options: Mapping[str, Any] = settings["OPTIONS"]
    named = [name for name in ("USER", "PASSWORD") if settings.get(name)]
    named += [f"OPTIONS[{name!r}]" for name in _SECRETS if options.get(name)]
    if named:
        yield _error(
            *(1, alias, f"{', '.join(named)} would be ignored, or be used in place of OPTIONS"),
            "Remove it: user and password come from OPTIONS['credentials'].",
        )
    source = options.get("credentials")
    if not source or not (isinstance(source, str | CredentialProvider) or callable(source)):
        yield _error(
            *(2, alias, "OPTIONS['credentials'] does not say where credentials come from"),
            "Set it to a provider's URL such as 'vault://my-app-role?auth=kubernetes', to a "
            "provider, or to a callable that returns one.",
        )
    if options.get("pool"):
        yield _error(
            *(3, alias, "OPTIONS['pool'] is Django's own pool, whose credentials do not rotate"),
            "Rename it to 'rotating_pool'.",
        )
    pool = options.get("rotating_pool")
    if pool:
        yield from _of_pool(pool, settings, alias)


def _of_pool(pool: object, settings: Mapping[str, Any], alias: str) -> Iterator[Any]:
    if settings.get("CONN_MAX_AGE", 0) != 0:
        yield _error(
            *(4, alias, "CONN_MAX_AGE keeps connections from returning to the pool"),
            "Set CONN_MAX_AGE to 0, or remove OPTIONS['rotating_pool'].",
        )
    if pool is True:
        return
    if not isinstance(pool, dict):
        yield _error(
            *(5, alias, "OPTIONS['rotating_pool'] is neither True nor a dictionary"),
            "Write True, or the pool's arguments such as {'max_size': 10}.",
        )
        return
    known = _pool_arguments()
    if unknown := sorted({*map(str, pool)} - known):
        yield _error(
            *(6, alias, f"OPTIONS['rotating_pool'] has {', '.join(unknown)}"),
            f"It may have: {', '.join(sorted(known))}. What is for connections belongs into "
            "OPTIONS itself, and a refresh policy or observers to a CredentialKeeper that "
            "OPTIONS['credentials'] makes.",
        )


@cache
def _pool_arguments() -> frozenset[str]:
    from ephemeral_creds.pool._sync.pool import RotatingConnectionPool

    return frozenset(inspect.signature(RotatingConnectionPool.__init__).parameters) - _GIVEN


def _of_provider(options: Mapping[str, Any], alias: str) -> Iterator[Any]:
    source = options.get("credentials")
    if isinstance(source, str) and source:
        try:
            source = provider_from_url(source)
        except ConfigurationError as error:
            yield _error(7, alias, "OPTIONS['credentials'] cannot be right", str(error))
            return
        source.close()
    if isinstance(source, CredentialProvider) and source.mints and not options.get("assume_role"):
        yield checks.Warning(
            f"{_place(alias)}: what migrate creates belongs to a role that is dropped within hours",
            hint="Set OPTIONS['assume_role'] to a role that stays and that the minted ones are "
            "members of. If they already act as one (ALTER ROLE … SET role in the "
            "creation_statements), silence this with SILENCED_SYSTEM_CHECKS.",
            id="ephemeral_creds.W001",
        )


def _error(number: int, alias: str, message: str, hint: str) -> Any:
    return checks.Error(
        f"{_place(alias)}: {message}.", hint=hint, id=f"ephemeral_creds.E{number:03}"
    )


def _place(alias: str) -> str:
    return f"settings.DATABASES[{alias!r}]"
