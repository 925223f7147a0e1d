"""A Django database backend whose connections log in with a keeper's credentials.

``"ENGINE": "ephemeral_creds.contrib.django"``, and ``OPTIONS["credentials"]`` says where the
credentials come from. `base` is the backend; nothing of Django is imported before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.contrib._missing import missing

if TYPE_CHECKING:
    from ephemeral_creds.keeper.keeper import CredentialKeeper

__all__ = ["keeper"]


def keeper(alias: str = "default") -> CredentialKeeper:
    """Return the keeper of a database alias, which all connections of this process share.

    It is made, and starts, with the first connection or the first call. Give it to a pool or a
    `Sessions` of your own, for ``LISTEN`` for example, or show its `status` in a health endpoint.
    Do not close it: that happens at the end of the process.

    Args:
        alias: a key of ``settings.DATABASES`` whose ``ENGINE`` is this package.

    Raises:
        django.core.exceptions.ImproperlyConfigured: the settings of the alias cannot be right.
        ModuleNotFoundError: Django is not installed.
    """
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.db import connections
    except ModuleNotFoundError as error:
        raise missing(error, "django") from None
    from ephemeral_creds.contrib.django._wrapper import RotatingWrapper

    connection: object = connections[alias]
    if not isinstance(connection, RotatingWrapper):
        raise ImproperlyConfigured(
            f"settings.DATABASES[{alias!r}]: its ENGINE has to be 'ephemeral_creds.contrib.django'"
        )
    return connection.keeper
