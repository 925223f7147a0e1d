"""The keeper of a pool: its own, or one that it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.keeper.consumer import Keeper
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.keeper.keeper_async import AsyncCredentialKeeper
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import Observer

__all__ = ["keeper_for", "validate_keeper"]


def keeper_for(
    credentials: CredentialProvider | Keeper | AsyncCredentialKeeper,
    refresh: RefreshPolicy | None,
    observers: Sequence[Observer] | None,
) -> tuple[Keeper, CredentialKeeper | None]:
    """Return the keeper to go by, and once more where the pool has to start and close it.

    Raises:
        ConfigurationError: there are no credentials in the first argument, or the others are for
            a keeper that its user has made.
    """
    if isinstance(credentials, CredentialProvider):
        own = CredentialKeeper(credentials, refresh=refresh, observers=observers)
        return own, own
    argument = "the first argument of a pool, before conninfo,"
    return validate_keeper(credentials, refresh, observers, argument), None


def validate_keeper(
    keeper: Keeper | AsyncCredentialKeeper,
    refresh: RefreshPolicy | None,
    observers: Sequence[Observer] | None,
    argument: str,
) -> Keeper:
    """Return a keeper that was given in place of a provider, as `argument`.

    Raises:
        ConfigurationError: it is something else, or `refresh` or `observers` are given with it.
    """
    given: object = keeper.keeper if isinstance(keeper, AsyncCredentialKeeper) else keeper
    # A class has all that its instances have.
    if isinstance(given, type) or not isinstance(given, Keeper):
        kind = given if isinstance(given, type) else type(given)
        raise ConfigurationError(
            f"{argument} has to be a provider or a CredentialKeeper, not {kind.__name__!r}"
        )
    if refresh is not None or observers is not None:
        raise ConfigurationError(
            "refresh= and observers= belong to the keeper: give them to CredentialKeeper()"
        )
    return given
