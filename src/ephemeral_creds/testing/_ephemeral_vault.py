"""`EphemeralVault` and `CredentialsFile`: the Vault and the file of one test."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from psycopg import sql

from ephemeral_creds._fork import registered
from ephemeral_creds.exceptions import ProviderError
from ephemeral_creds.keeper.keeper import CredentialKeeper
from ephemeral_creds.pool.base import LeasedPool, has_moved
from ephemeral_creds.providers.vault import AppRoleAuth, VaultConfig, VaultDynamicProvider
from ephemeral_creds.testing._fakes import TickingClock
from ephemeral_creds.testing._faults import Fault
from ephemeral_creds.testing._process import private_file, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ephemeral_creds.testing._admin import AppRole
    from ephemeral_creds.testing._engine import DatabaseEngine
    from ephemeral_creds.testing._fault_proxy import VaultAccess
    from ephemeral_creds.testing._faults import Faults
    from ephemeral_creds.testing._postgres import PostgresAccess

__all__ = ["CredentialsFile", "EphemeralVault"]

_LEASE = 3600
_IN_USE_TIMEOUT = 30.0


class EphemeralVault:
    """A Vault as one test sees it: with a role of its own, and verbs for what can happen to it.

    The verbs concern the credentials of that role, no matter which keeper minted them. Those that
    wait for a keeper know the keepers of this process.

    Attributes:
        engine: the database engine, for all else that a test sets up.
        login: what a service logs in to Vault with.
        role: Vault's role, with the rights that `grants` gives to ``{{name}}``.
        path: where credentials are read: ``database/creds/…``.
        clock: what `expire` moves on; the fixtures' keeper reads it.
    """

    def __init__(
        self,
        engine: DatabaseEngine[VaultAccess, PostgresAccess],
        login: AppRole,
        grants: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.clock = TickingClock()
        # Vault puts the first eight characters of it into the names of what it mints.
        self.role = f"t{secrets.token_hex(4)[:7]}"
        self.login = login
        self.path = engine.create_role(self.role, default_ttl=_LEASE, grants=grants)

    def __repr__(self) -> str:
        return f"<EphemeralVault {self.address} {self.path}>"

    @property
    def address(self) -> str:
        """The base URL for a service; requests to it can go wrong."""
        return self.engine.vault.address

    @property
    def faults(self) -> Faults:
        """The script of what goes wrong, for a fault that no verb has; cleared after the test."""
        return self.engine.vault.faults

    @property
    def auth(self) -> AppRoleAuth:
        """The login, for a provider of the service's own."""
        return AppRoleAuth(self.login.role_id, self.login.secret_id, mount=self.login.mount)

    def provider(self) -> VaultDynamicProvider:
        """Return a new provider of the role's credentials."""
        return VaultDynamicProvider(
            self.role,
            auth=self.auth,
            mount=self.engine.mount,
            config=VaultConfig(self.address),
            clock=self.clock,
        )

    def rotate(self) -> None:
        """Have every keeper of the role fetch new credentials; return when they are in use.

        It waits for pools: in a coroutine, ``await asyncio.to_thread(ephemeral_vault.rotate)``.

        Raises:
            RuntimeError: no keeper of this process has the role, or this is an event loop.
            ProviderError, NotReady: there were none; see `CredentialKeeper.refresh`.
            TimeoutError: a pool does not replace its idle connections.
        """
        _refuse_loop("ephemeral_vault.rotate")
        keepers = _keepers_of(f"({self.path} at {self.address})")
        if not keepers:
            raise RuntimeError(
                f"no keeper of this process has credentials of {self.path}: ask for a pool or "
                "credential_keeper, or make yours with ephemeral_provider, and start it first"
            )
        for keeper in keepers:
            _fetch_anew(keeper)

    def revoke(self) -> None:
        """End all leases of the role, as an operator does: their PostgreSQL roles are dropped."""
        self.engine.admin.revoke_prefix(self.path)

    def expire(self) -> None:
        """Let the time of the credentials run out: Vault has ended them, and `clock` says so."""
        self.revoke()
        self.clock.advance(_LEASE)

    @contextmanager
    def outage(self, fault: Fault | None = None) -> Iterator[None]:
        """Let every request to Vault fail until the end: with `fault`, or a broken connection."""
        rule = self.faults.add("*", "*", fault or Fault.reset(handled=False), times=None)
        try:
            yield
        finally:
            self.faults.remove(rule)

    @contextmanager
    def slow(self, delay: float) -> Iterator[None]:
        """Let every answer of Vault come `delay` seconds late, until the end."""
        with self.outage(Fault.late(delay)):
            yield

    def drop_role(self) -> None:
        """Drop the role's users in PostgreSQL, behind Vault's back: no login, no rights."""
        with closing(self.engine.postgres.admin()) as conn:
            found = conn.execute(
                "SELECT rolname FROM pg_roles WHERE strpos(rolname, %s) > 0", [f"-{self.role}-"]
            )
            for name in [sql.Identifier(name) for (name,) in found]:
                conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
                conn.execute(sql.SQL("DROP ROLE {}").format(name))

    def cut_connections(self) -> int:
        """End the role's sessions in PostgreSQL, those of dropped users too; return how many."""
        with closing(self.engine.postgres.admin()) as conn:
            [ended] = conn.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "LEFT JOIN pg_roles ON pg_roles.oid = usesysid WHERE datname = current_database() "
                # Autovacuum's workers have no user either.
                "AND backend_type = 'client backend' "
                "AND (rolname IS NULL OR strpos(rolname, %s) > 0)",
                [f"-{self.role}-"],
            ).fetchone() or [0]
        return int(ended)

    def close(self) -> None:
        """Let nothing go wrong any more, end the leases and remove the role."""
        self.faults.clear()
        self.revoke()
        self.engine.delete_role(self.role)


class CredentialsFile:
    """A file as a sidecar writes it: ``DB_USERNAME`` and ``DB_PASSWORD``, replaced as a whole.

    Attributes:
        path: where it is; only its owner can read it.
    """

    def __init__(self, path: Path, vault: EphemeralVault) -> None:
        self.path = path
        self._vault = vault
        self.rewrite()

    def __fspath__(self) -> str:
        return str(self.path)

    def rewrite(self) -> str:
        """Write new credentials, and return their user name when all readers use them.

        Readers are the keepers of this process; without any, it returns at once. In a
        coroutine: ``await asyncio.to_thread(credentials_file.rewrite)``.

        Raises:
            RuntimeError: this is an event loop.
            TimeoutError: they are not in use after 30 seconds.
        """
        _refuse_loop("credentials_file.rewrite")
        minted = self._vault.engine.read(self._vault.role).data
        text = f"DB_USERNAME={minted['username']}\nDB_PASSWORD={minted['password']}"
        private_file(self.path.with_suffix(".new"), text).replace(self.path)
        for keeper in _keepers_of(f"file {self.path}"):
            _fetch_anew(keeper)
        return str(minted["username"])

    def close(self) -> None:
        """Remove the file: it holds a password."""
        self.path.unlink(missing_ok=True)


def _keepers_of(source: str) -> list[CredentialKeeper]:
    told = [(keeper, keeper.status()) for keeper in registered(CredentialKeeper)]
    running = ("acquiring", "serving")
    return [k for k, status in told if source in status.provider and status.state in running]


def _fetch_anew(keeper: CredentialKeeper) -> None:
    """Have `keeper` fetch, and wait until none of its pools has older connections idle."""
    status = keeper.status()
    if status.fetches > status.grants + status.failed_fetches:
        # A refresh joins the fetch in flight, which may fail by a fault that is gone, or have read
        # the file before it was replaced.
        with suppress(ProviderError):
            keeper.refresh(_IN_USE_TIMEOUT)
    generation = keeper.refresh(_IN_USE_TIMEOUT).generation
    for pool in registered(LeasedPool):
        if pool.status().keeper.name != keeper.name:
            continue

        def is_done(pool: LeasedPool = pool) -> bool:
            return pool.closed or has_moved(pool, generation)

        if not wait_until(is_done, _IN_USE_TIMEOUT):
            raise TimeoutError(f"{pool.name} still hands out connections with older credentials")


def _refuse_loop(verb: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    # The pools that it waits for may be this loop's.
    raise RuntimeError(f"{verb}() would block this event loop: await asyncio.to_thread({verb})")
