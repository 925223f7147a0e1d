"""The plugin of SQLAlchemy for applications that take a database URL and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import CreateEnginePlugin

from ephemeral_creds.contrib.sqlalchemy.attachment import Attachment, refuse_credentials
from ephemeral_creds.contrib.sqlalchemy.keepers import SharedKeeper
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

__all__ = ["EphemeralCredsPlugin"]

_KEYS = ("credentials", "session_role")


class EphemeralCredsPlugin(CreateEnginePlugin):
    """Has an engine log in with credentials from the provider that its URL names.

    ::

        postgresql+psycopg://db/mydb?plugin=ephemeral_creds&credentials=vault%3A%2F%2Fmy-app-role

    ``credentials`` is what `provider_from_url` takes, with each ``:``, ``/``, ``?``, ``&`` and
    ``=`` percent-encoded; without it, the environment variable ``EPHEMERAL_CREDS_URL`` has that.
    ``session_role`` is the role that each session acts as, if it is not the one that logs in.
    Neither is in the engine's own URL. Engines of one process with the same ``credentials`` share a
    keeper, which is closed when the last of them is disposed of, and when the process ends.

    Args:
        url: the engine's URL.
        kwargs: the arguments of ``create_engine``.

    Raises:
        ConfigurationError: the provider's URL cannot be right, the engine's has a user or a
            password, or there is an argument that opens connections in another way.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        given: dict[str, str | None] = {}
        for key in _KEYS:
            value = url.query.get(key)
            if isinstance(value, tuple):
                raise ConfigurationError(f"the engine's URL has {key}= more than once")
            given[key] = value
        refuse_credentials(url, kwargs.get("connect_args", {}))
        for name in ("creator", "pool"):
            if kwargs.get(name) is not None:
                raise ConfigurationError(
                    f"plugin=ephemeral_creds in the engine's URL, and {name}= among its "
                    "arguments: either opens connections"
                )
        self._source = SharedKeeper(given["credentials"])
        self._session_role = given["session_role"]

    def update_url(self, url: URL) -> URL:
        """Return the URL for the driver."""
        return url.difference_update_query(_KEYS)

    def engine_created(self, engine: Engine) -> None:
        """Have the engine log in with the keeper's credentials."""
        Attachment(engine, self._source, self._session_role)
