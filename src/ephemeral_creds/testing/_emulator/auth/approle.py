"""Logins by role id and secret id."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import Refusal, envelope
from ephemeral_creds.testing._emulator.auth.base import AuthMount

if TYPE_CHECKING:
    from ephemeral_creds.testing._emulator._wire import Answer, Request
    from ephemeral_creds.testing._emulator.auth.base import AuthRole

__all__ = ["AppRoleMount"]


class AppRoleMount(AuthMount):
    """Logins by role id and secret id."""

    mount_type = "approle"

    def serve(self, request: Request, rest: str) -> Answer:
        """Answer a request other than a login."""
        match rest.split("/"), request.operation:
            case ["role", name, "role-id"], "read":
                return envelope({"role_id": self.role(name).role_id}, mount_type=self.mount_type)
            case ["role", name, "secret-id"], "update":
                return envelope(self.add_secret_id(name), mount_type=self.mount_type)
        return super().serve(request, rest)

    def add_secret_id(self, name: str) -> dict[str, Any]:
        """Create a secret id for a role."""
        role = self.role(name)
        uses = int(role.body.get("secret_id_num_uses", 0))
        secret_id = str(uuid.uuid4())
        role.secret_ids[secret_id] = uses
        return {
            "secret_id": secret_id,
            "secret_id_accessor": str(uuid.uuid4()),
            "secret_id_num_uses": uses,
            "secret_id_ttl": 0,
        }

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        role_id, secret_id = request.text("role_id"), request.text("secret_id")
        # A GET, as a redirect makes of a login, has no body and gets the same answer.
        if not role_id:
            raise Refusal(500, "failed to determine alias name from login request")
        with self._lock:
            for role in self._roles.values():
                if role.role_id == role_id and secret_id in role.secret_ids:
                    self._use(role, secret_id)
                    return self._grant(role, role_id, {"role_name": role.name})
        raise Refusal(400, "invalid role or secret ID")

    @staticmethod
    def _use(role: AuthRole, secret_id: str) -> None:
        uses = role.secret_ids[secret_id]
        if uses == 1:
            del role.secret_ids[secret_id]
        elif uses:
            role.secret_ids[secret_id] = uses - 1
