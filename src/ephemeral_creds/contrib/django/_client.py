"""``manage.py dbshell`` with the credentials in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.postgresql import client

from ephemeral_creds.pool.login import acting_as
from ephemeral_creds.pool.target import credentials_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ephemeral_creds._values import Credentials

__all__ = ["DatabaseClient"]


class DatabaseClient(client.DatabaseClient):  # type: ignore[misc]
    """Runs psql while a connection with the same credentials is open: they live as long as that."""

    connection: Any

    def runshell(self, parameters: Iterable[str]) -> None:
        """Run psql."""
        with self.connection.hold_credentials() as credentials:
            _Shell(self.connection, credentials).runshell(parameters)


class _Shell(client.DatabaseClient):  # type: ignore[misc]
    def __init__(self, connection: Any, credentials: Credentials) -> None:
        super().__init__(connection)
        self._credentials = credentials

    def settings_to_cmd_args_env(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, settings_dict: Mapping[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str]]:
        args, env = super().settings_to_cmd_args_env(settings_dict, parameters)
        server = {
            "host": settings_dict.get("HOST"),
            "port": settings_dict.get("PORT"),
            "sslmode": settings_dict["OPTIONS"].get("sslmode"),
            "service": settings_dict["OPTIONS"].get("service"),
        }
        credentials = credentials_for("", {k: v for k, v in server.items() if v}, self._credentials)
        # Not in the arguments, which every user of the machine may read.
        env = {
            **(env or {}),
            "PGUSER": credentials.username,
            "PGPASSWORD": credentials.password.reveal(),
        }
        options = settings_dict["OPTIONS"]
        if role := options.get("assume_role"):
            given = {"options": options.get("options")}
            env["PGOPTIONS"] = acting_as(role, "", given)["options"]
        return args, env
