"""What auth methods share; and AppRole and userpass, which need nobody else."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Refusal,
    envelope,
    one_error,
    seconds,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._tokens import TokenStore
    from ephemeral_creds.testing._emulator._wire import Answer, Request

__all__ = ["AppRoleMount", "AuthMount", "AuthRole", "UserpassMount"]


@dataclass(slots=True)
class AuthRole:
    """What a login gives; for AppRole also who may log in."""

    name: str
    policies: list[str] = field(default_factory=list)
    token_ttl: float = 0.0
    token_max_ttl: float = 0.0
    token_period: float = 0.0
    token_num_uses: int = 0
    token_type: str = "default"  # noqa: S105  # a kind, not a token
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    role_id: str = field(default_factory=lambda: str(uuid.uuid4()), repr=False)
    secret_ids: dict[str, int] = field(default_factory=dict, repr=False)


class AuthMount:
    """What the auth methods share.

    Args:
        mount: the path below ``auth/``.
        tokens: where logins put their tokens.
        now: Unix time in seconds.
        lock: the emulator's; not held while a reviewer is asked.
    """

    mount_type = ""
    config_path = ""  # below the mount; empty where there is nothing to configure

    def __init__(
        self, mount: str, tokens: TokenStore, now: Callable[[], float], lock: threading.RLock
    ) -> None:
        self.mount = mount
        self._lock = lock
        self._tokens = tokens
        self._now = now
        self._roles: dict[str, AuthRole] = {}
        self._entities: dict[str, str] = {}
        self.config: dict[str, Any] = {}

    def configure(self, body: dict[str, Any]) -> None:
        """Take the settings of the method, instead of those before."""
        self.config = dict(body)

    def write_role(self, name: str, body: dict[str, Any]) -> None:
        """Create or change a role."""
        role = self._roles.setdefault(name, AuthRole(name))
        role.policies = list(body.get("token_policies", role.policies))
        role.token_ttl = seconds(body.get("token_ttl", role.token_ttl))
        role.token_max_ttl = seconds(body.get("token_max_ttl", role.token_max_ttl))
        role.token_period = seconds(body.get("token_period", role.token_period))
        role.token_num_uses = int(body.get("token_num_uses", role.token_num_uses))
        role.token_type = str(body.get("token_type", role.token_type))
        role.body |= body

    def delete_role(self, name: str) -> None:
        """Remove a role; nobody can log in by it any more."""
        self._roles.pop(name, None)

    def role(self, name: str) -> AuthRole:
        """Return a role.

        Raises:
            Refusal: there is none of that name; 404 without a text.
        """
        role = self._roles.get(name)
        if role is None:
            raise Refusal(404)
        return role

    def login(self, request: Request) -> Answer:
        """Answer a login."""
        raise NotImplementedError

    def _grant(self, role: AuthRole, alias: str, metadata: dict[str, str]) -> Answer:
        warnings: list[str] = []
        with self._lock:
            token = self._tokens.create(
                ttl=role.token_ttl,
                limit_warnings=warnings,
                policies=sorted({"default", *role.policies}),
                path=f"auth/{self.mount}/login",
                display_name=f"{self.mount}-{alias}" if self.mount != "approle" else self.mount,
                max_ttl=role.token_max_ttl or SYSTEM_MAX_TTL,
                period=role.token_period,
                num_uses=role.token_num_uses,
                batch=role.token_type == "batch",  # noqa: S105  # a kind, not a token
                metadata=metadata,
                entity_id=self._entities.setdefault(alias, str(uuid.uuid4())),
            )
        return envelope(mount_type="", auth=token.auth(self._now()), warnings=warnings or None)


class AppRoleMount(AuthMount):
    """Logins by role id and secret id."""

    mount_type = "approle"

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


class UserpassMount(AuthMount):
    """Logins by user name and password; a user is a role with a password."""

    mount_type = "userpass"

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
