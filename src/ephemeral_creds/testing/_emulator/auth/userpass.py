"""Logins by user name and password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal, one_error
from ephemeral_creds.testing._emulator.auth.base import AuthMount

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._wire import Answer, Request

__all__ = ["UserpassMount"]


class UserpassMount(AuthMount):
    """Logins by user name and password; a user is a role with a password."""

    mount_type = "userpass"
    roles_path = "users"
    login_names_role = True

    def write_role(self, name: str, body: dict[str, Any]) -> None:
        """Create or change a user; Vault does not tell upper from lower case."""
        super().write_role(name.lower(), body)

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        if request.operation != "update":
            raise Refusal(405, one_error("unsupported operation"))
        if not request.text("password"):
            raise Refusal(400, "invalid credentials")
        name = request.path.rpartition("/")[2].lower()
        user = self._roles.get(name)
        if user is None or user.body.get("password") != request.text("password"):
            raise Refusal(400, "invalid username or password")
        return self._grant(user, name, {"username": name})
