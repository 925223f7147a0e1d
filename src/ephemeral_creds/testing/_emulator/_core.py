"""The emulator's state and what Vault does to every request before it is routed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator import _routes_data, _routes_sys
from ephemeral_creds.testing._emulator._acl import Policies
from ephemeral_creds.testing._emulator._auth import UserpassMount
from ephemeral_creds.testing._emulator._leases import LeaseStore
from ephemeral_creds.testing._emulator._static import StaticRoles
from ephemeral_creds.testing._emulator._tokens import TokenStore
from ephemeral_creds.testing._emulator._wire import Refusal, denied
from ephemeral_creds.testing._emulator._wrapping import Wrappings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._auth import AuthMount
    from ephemeral_creds.testing._emulator._database import DatabaseMount
    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Answer, Request

__all__ = ["Core"]

# Served without a token, and, but for logins, while sealed.
_OPEN_PATHS = {"sys/health", "sys/seal-status", "sys/unseal"}


class Core:
    """Everything that one run of a server knows.

    `lock` guards the stores; it is never held while PostgreSQL or a reviewer works.

    Args:
        clock: Unix time in seconds.
        root_token: the token that may do everything.
        unseal_key: what ``sys/unseal`` wants.
        version: what ``sys/health`` says.
    """

    def __init__(
        self, clock: Callable[[], float], root_token: str, unseal_key: str, version: str
    ) -> None:
        self.now = clock
        self.version = version
        self.unseal_key = unseal_key
        self.sealed = False
        self.lock = threading.RLock()
        self.policies = Policies()
        self.leases = LeaseStore(clock, self.lock)
        self.tokens = TokenStore(clock, self.leases.end_of_token)
        self.tokens.add_root(root_token)
        self.wrappings = Wrappings(clock, self.lock, self.tokens)
        self.databases: dict[str, DatabaseMount] = {}
        self._static_roles: dict[DatabaseMount, StaticRoles] = {}
        self.auths: dict[str, AuthMount] = {}
        self.minted: list[str] = []
        self._expiring = threading.Lock()

    def handle(self, request: Request) -> Answer:
        """Answer one request."""
        try:
            return self._handle(request)
        except Refusal as refusal:
            return refusal.answer

    def expire(self) -> None:
        """End the tokens and leases whose time has come; a sealed server does not."""
        if self.sealed:
            return
        # One at a time: two would drop the same role twice.
        with self._expiring:
            with self.lock:
                self.tokens.expire()
            self.leases.expire()
            for static_roles in list(self._static_roles.values()):
                static_roles.rotate_due()

    def static_roles(self, mount: DatabaseMount) -> StaticRoles:
        """Return the static roles of a database engine."""
        with self.lock:
            return self._static_roles.setdefault(mount, StaticRoles(mount, self.now))

    def _handle(self, request: Request) -> Answer:
        if request.path in _OPEN_PATHS:
            return _routes_sys.serve(self, request)
        if self.sealed:
            raise Refusal(503, "Vault is sealed")
        wrap_ttl = self.wrappings.ttl(request)
        if mount := self._login_mount(request):
            answer = mount.login(request)
        elif self.wrappings.serves(request):
            answer = self.wrappings.serve(request, self._admit)
        else:
            answer = self._route(request, self._admit(request))
        return self.wrappings.wrap(answer, request.path, wrap_ttl) if wrap_ttl else answer

    def _route(self, request: Request, token: Token) -> Answer:
        head, _, rest = request.path.partition("/")
        if head == "sys":
            return _routes_sys.serve(self, request)
        if head == "auth":
            return _routes_data.serve_auth(self, request, token)
        for name, mount_point in list(self.databases.items()):
            if request.path.startswith(f"{name}/"):
                rest = request.path.removeprefix(f"{name}/")
                return _routes_data.serve_database(self, mount_point, request, rest, token)
        raise Refusal(404, f'no handler for route "{request.path}". route entry not found.')

    def _login_mount(self, request: Request) -> AuthMount | None:
        path = request.path.removeprefix("auth/")
        if path.endswith("/login"):
            return self.auths.get(path.removesuffix("/login"))
        mount, found, _ = path.partition("/login/")
        by_user = self.auths.get(mount) if found else None
        return by_user if isinstance(by_user, UserpassMount) else None

    def _admit(self, request: Request) -> Token:
        """Return the token of a request that may go on, counting its use."""
        if not request.token:
            raise Refusal(403, "permission denied")
        with self.lock:
            token = self.tokens.find(request.token)
            if token is None:
                raise denied(bad_token=True)
            # Vault counts the use even of a request that it then refuses.
            self.tokens.use(token)
            if not self.policies.allow(token.policies, request.path, request.operation):
                raise denied()
        return token
