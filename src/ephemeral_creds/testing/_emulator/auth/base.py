"""What the auth methods share: roles, settings, and the token that a login gives."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Answer,
    Refusal,
    envelope,
    one_error,
    seconds,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._tokens import Token, TokenStore
    from ephemeral_creds.testing._emulator._wire import Request

__all__ = ["AuthMount", "AuthRole", "no_cryptography"]


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
    roles_path = "role"  # below the mount; what Vault calls the roles of the method
    login_names_role = False  # whether the role comes after ``login/``

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

    def serve(self, request: Request, rest: str) -> Answer:
        """Answer a request other than a login.

        Args:
            request: from somebody who may make it.
            rest: the path below the mount.
        """
        match rest.split("/"), request.operation:
            case _, "update" if rest == self.config_path:
                self.configure(request.body)
                return Answer(204)
            case [self.roles_path, name], "update":
                self.write_role(name, request.body)
                return Answer(204)
            case [self.roles_path, name], "read":
                role = self.role(name)
                shown = {"token_policies": role.policies, "token_ttl": round(role.token_ttl)}
                return envelope(role.body | shown, mount_type=self.mount_type)
            case [self.roles_path, name], "delete":
                self.delete_role(name)
                return Answer(204)
            case ["login" | "config"] | [self.roles_path, *_], _:
                raise Refusal(405, one_error("unsupported operation"))
        raise Refusal(404, one_error("unsupported path"))

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

    def check_renewal(self, token: Token, request: Request) -> None:
        """See that `token`, which came from a login here, may be renewed.

        Raises:
            Refusal: it may not.
        """

    def _grant(
        self, role: AuthRole, alias: str, metadata: dict[str, str], *, display_name: str = ""
    ) -> Answer:
        warnings: list[str] = []
        with self._lock:
            token = self._tokens.create(
                ttl=role.token_ttl,
                limit_warnings=warnings,
                policies=sorted({"default", *role.policies}),
                path=f"auth/{self.mount}/login",
                display_name=self._display_name(display_name or alias),
                max_ttl=role.token_max_ttl or SYSTEM_MAX_TTL,
                period=role.token_period,
                num_uses=role.token_num_uses,
                batch=role.token_type == "batch",  # noqa: S105  # a kind, not a token
                metadata=metadata,
                entity_id=self._entities.setdefault(alias, str(uuid.uuid4())),
            )
        return envelope(mount_type="", auth=token.auth(self._now()), warnings=warnings or None)

    def _display_name(self, who: str) -> str:
        return f"{self.mount}-{who}" if self.mount != "approle" else self.mount


def no_cryptography(what: str) -> Refusal:
    """Return the answer where the package is missing with which the emulator does `what`."""
    return Refusal(
        501,
        f"the emulator {what} with the package 'cryptography', which is not installed: "
        "pip install cryptography",
    )
