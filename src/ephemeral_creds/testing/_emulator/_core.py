"""The emulator's state and what Vault does to every request before it is routed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator import _sys
from ephemeral_creds.testing._emulator._acl import Policies
from ephemeral_creds.testing._emulator._leases import LeaseStore
from ephemeral_creds.testing._emulator._tokens import TokenStore
from ephemeral_creds.testing._emulator._wire import Refusal, denied
from ephemeral_creds.testing._emulator._wrapping import Wrappings
from ephemeral_creds.testing._emulator.auth.token import serve_token
from ephemeral_creds.testing._emulator.database.paths import serve_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._tokens import Token
    from ephemeral_creds.testing._emulator._wire import Answer, Request
    from ephemeral_creds.testing._emulator.auth.base import AuthMount
    from ephemeral_creds.testing._emulator.database.engine import DatabaseMount

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
            for database in list(self.databases.values()):
                database.static.rotate_due()

    def login_mount(self, path: str) -> AuthMount | None:
        """Return the auth method that logs in at `path`; ``None`` if it is no such path."""
        path = path.removeprefix("auth/")
        if path.endswith("/login"):
            return self.auths.get(path.removesuffix("/login"))
        mount, found, _ = path.partition("/login/")
        by_user = self.auths.get(mount) if found else None
        return by_user if by_user and by_user.login_names_role else None

    def _handle(self, request: Request) -> Answer:
        if request.path in _OPEN_PATHS:
            return _sys.serve(self, request)
        if self.sealed:
            raise Refusal(503, "Vault is sealed")
        wrap_ttl = self.wrappings.ttl(request)
        if mount := self.login_mount(request.path):
            answer = mount.login(request)
        elif self.wrappings.serves(request):
            answer = self.wrappings.serve(request, self._admit)
        else:
            answer = self._route(request, self._admit(request))
        return self.wrappings.wrap(answer, request.path, wrap_ttl) if wrap_ttl else answer

    def _route(self, request: Request, token: Token) -> Answer:
        head, _, rest = request.path.partition("/")
        if head == "sys":
            return _sys.serve(self, request)
        if head == "auth":
            return self._serve_auth(request, rest, token)
        for name, database in list(self.databases.items()):
            if request.path.startswith(f"{name}/"):
                rest = request.path.removeprefix(f"{name}/")
                return serve_database(self, database, request, rest, token)
        raise _no_route(request)

    def _serve_auth(self, request: Request, rest: str, token: Token) -> Answer:
        with self.lock:
            if rest.startswith("token/"):
                return serve_token(self, request, rest.removeprefix("token/"), token)
            for name, auth in self.auths.items():
                if rest.startswith(f"{name}/"):
                    return auth.serve(request, rest.removeprefix(f"{name}/"))
        raise _no_route(request)

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


def _no_route(request: Request) -> Refusal:
    return Refusal(404, f'no handler for route "{request.path}". route entry not found.')
