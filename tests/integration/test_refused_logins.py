"""What a pool makes of a login that fails: whose fault it is, what it says, what it fetches."""

from __future__ import annotations

import socket
import traceback
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from minting import BRIEF, PATIENCE, RoleProvider
from pooler import pgbouncer
from restricted_postgres import strict_postgres
from twins import EAGER, TWINS, Setup, Worker, user_of, wait_until

from ephemeral_creds import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    RotationPolicy,
    ServerRefused,
    TokenAuth,
    VaultConfig,
    VaultStaticProvider,
)
from ephemeral_creds.events import CredentialsPublished, LoginRejected, PasswordChanged
from ephemeral_creds.exceptions import ProviderUnavailable
from ephemeral_creds.pool.errors import CheckoutFailed
from ephemeral_creds.testing import DatabaseEngine, TCPProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from certificates import Authority
    from ephemeral_creds.testing import PostgresServer, VaultServer

pytestmark = pytest.mark.postgres

OFTEN = RotationPolicy(retry_initial=0.05, retry_max=0.05)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[PostgresServer]:
    with strict_postgres(authority) as running:
        yield running


@pytest.fixture(params=list(TWINS))
def strict(
    request: pytest.FixtureRequest, server: PostgresServer, unique: Callable[[str], str]
) -> Iterator[Setup]:
    """The scenario's own set-up, on the server that is particular."""
    with ExitStack() as stack:
        yield Setup(TWINS[request.param](), server, unique("strict"), stack)


def refused(pool: Any, reason: str) -> CheckoutFailed:
    """Wait until the pool knows why its logins fail, and return what it raises then."""
    wait_until(lambda: pool.status().last_error_reason == reason)
    with pytest.raises((DatabaseUnreachable, LoginRefused, ServerRefused)) as caught:
        pool.getconn(timeout=BRIEF)
    return caught.value


def told(setup: Setup) -> set[tuple[str, str | None]]:
    """Return why logins failed, as the events have it."""
    rejected = cast("list[LoginRejected]", setup.events.wait_for(LoginRejected))
    return {(event.reason, event.sqlstate) for event in rejected}


class TestCredentials:
    """They are to blame: others are fetched at once."""

    def test_a_server_that_accepts_only_tls(self, strict: Setup) -> None:
        """sslmode=prefer tries again without TLS; libpq remembers that attempt only."""
        pool = strict.pool(min_size=1, max_size=2)
        strict.provider.alter(1, "PASSWORD 'changed-out-of-turn'")
        with pool.connection(), pool.connection(PATIENCE) as connection:
            assert user_of(connection) == strict.role(2)
        assert told(strict) == {("credentials", "28P01")}

    def test_a_static_role_that_is_rotated_out_of_turn(
        self, strict: Setup, vault: VaultServer, unique: Callable[[str], str]
    ) -> None:
        """Its next rotation is a day away, and no earlier look at the password is planned."""
        engine = DatabaseEngine(vault, strict.server, connection=unique("strict"))
        with closing(strict.server.admin()) as admin:
            admin.execute(f"CREATE ROLE {(name := unique('steady'))} LOGIN".encode())
        engine.create_static_role(role := unique("static"), name)
        auth, config = TokenAuth(vault.root_token), VaultConfig(vault.address)
        provider = VaultStaticProvider(role, auth=auth, config=config)
        pool = strict.pool(provider, observers=[strict.events], min_size=1, max_size=2)
        engine.rotate_static_role(role)
        with pool.connection(), pool.connection(PATIENCE) as connection:
            assert user_of(connection) == name
        strict.events.wait_for(PasswordChanged)
        pool.close()

    @pytest.mark.parametrize("there_first", [True, False])
    def test_another_host_that_is_down(self, strict: Setup, there_first: bool) -> None:
        ports = [strict.server.port, 1] if there_first else [1, strict.server.port]
        conninfo = "host=127.0.0.1,127.0.0.1 port={},{} dbname=plain".format(*ports)
        pool = strict.pool(min_size=1, max_size=2, conninfo=conninfo)
        strict.provider.alter(1, "NOLOGIN")
        with pool.connection(), pool.connection(PATIENCE) as connection:
            assert user_of(connection) == strict.role(2)

    def test_another_address_that_does_not_answer(
        self, strict: Setup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name with an IPv6 and an IPv4 address, say."""
        real, there = socket.getaddrinfo, strict.server.host

        def both(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "db.test":
                return real(host, *args, **kwargs)
            found = real(there, *args, **kwargs)
            # Nothing listens there, but on Linux all of 127.0.0.0/8 is this machine.
            return found + real("127.0.0.77", *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", both)
        conninfo = f"host=db.test port={strict.server.port} dbname=plain"
        pool = strict.pool(min_size=1, max_size=2, conninfo=conninfo)
        strict.provider.alter(1, "NOLOGIN")
        with pool.connection(), pool.connection(PATIENCE) as connection:
            assert user_of(connection) == strict.role(2)

    def test_they_are_kept_secret_where_the_server_has_them_sent_in_the_clear(
        self, strict: Setup
    ) -> None:
        provider = RoleProvider(strict.server, strict.prefix)
        strict.stack.callback(provider.disconnect)
        provider.login = "NOLOGIN"
        pool = strict.pool(provider, conninfo=strict.server.conninfo("clear"), wait=False)
        error: BaseException | None = refused(pool, "credentials")
        assert isinstance(error, LoginRefused)
        assert pool.status().last_error_sqlstate == "28000"
        while error is not None:
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            assert "minted-password" not in "".join(shown.format())
            error = error.__cause__ or error.__context__

    @pytest.mark.parametrize("change", ["PASSWORD 'changed-out-of-turn'", "NOLOGIN", None])
    def test_a_pooler_that_refuses_the_credentials(
        self, setup: Setup, postgres: PostgresServer, change: str | None
    ) -> None:
        """PgBouncer has one code for all that it says."""
        with pgbouncer(postgres) as conninfo:
            pool = setup.pool(min_size=1, max_size=2, conninfo=conninfo)
            if change is not None:
                setup.provider.alter(1, change)
            else:
                setup.provider.alter(1, f"RENAME TO {setup.prefix}_gone")
            with pool.connection(), pool.connection(PATIENCE) as connection:
                assert user_of(connection) == setup.role(2)
            if change is None:
                with closing(postgres.admin()) as admin:
                    admin.execute(
                        f"ALTER ROLE {setup.prefix}_gone RENAME TO {setup.role(1)}".encode()
                    )
            pool.close()


class TestServer:
    """Other credentials would not help: none are fetched, and the error says what would."""

    @pytest.mark.parametrize(
        ("options", "sqlstate", "hint"),
        [
            ({"dbname": "nowhere"}, "3D000", "this database does not exist: check dbname"),
            ({"dbname": "closed"}, "55000", "ALLOW_CONNECTIONS"),
            ({"dbname": "private"}, "42501", "GRANT CONNECT ON DATABASE"),
            ({"options": "-c stament_timeout=5s"}, "42704", "check the names in 'options'"),
            (
                {"options": "-c statement_timeout=soon"},
                "22023",
                "does not accept the value",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_the_server_refuses_the_settings(
        self, strict: Setup, options: dict[str, str], sqlstate: str, hint: str
    ) -> None:
        pool = strict.pool(min_size=1, wait=False, rotation=OFTEN, kwargs=options)
        self.says(strict, pool, sqlstate, hint)

    def test_the_role_has_its_connections_already(self, strict: Setup) -> None:
        strict.provider.login = "LOGIN CONNECTION LIMIT 1"
        pool = strict.pool(min_size=1, max_size=2, rotation=OFTEN)
        with pool.connection():
            waiting = Worker(pool.getconn, PATIENCE)
            self.says(strict, pool, "53300", "CONNECTION LIMIT")
        # The one that was returned.
        pool.putconn(cast("Any", waiting.get()))

    def test_the_server_has_no_slot_left(self, strict: Setup) -> None:
        with strict.server.admin() as admin:
            admin.execute("DROP ROLE IF EXISTS hog")
            admin.execute("CREATE ROLE hog LOGIN PASSWORD 'hogs-password'")
        pool = strict.pool(min_size=1, max_size=2, rotation=OFTEN)
        with ExitStack() as hogs, pool.connection():
            with suppress(psycopg.OperationalError):
                while True:
                    hogs.enter_context(strict.server.login("hog", "hogs-password"))
            self.says(strict, pool, "53300", "max_connections")
            hogs.close()
            with pool.connection(PATIENCE) as connection:
                assert user_of(connection) == strict.role(1)
        assert pool.status().last_error_reason is None

    def test_r9_a_proof_that_finds_no_slot_proves_nothing(self, strict: Setup) -> None:
        policy = replace(EAGER, proof_timeout=0.0, retry_max=0.05)
        pool = strict.pool(min_size=1, refresh=policy)
        strict.provider.login = "LOGIN CONNECTION LIMIT 0"
        strict.provider.change()
        strict.events.wait_for(LoginRejected, 2 * policy.tuning.proof_attempts)
        assert len(strict.events.of(CredentialsPublished)) == 1
        strict.provider.alter(2, "CONNECTION LIMIT -1")
        strict.published(2)
        assert pool.status().keeper.username == strict.role(2)
        assert strict.provider.calls.count("fetch") == 2

    def says(self, strict: Setup, pool: Any, sqlstate: str, hint: str) -> None:
        waiting = Worker(pool.getconn, timeout=BRIEF)
        wait_until(lambda: pool.status().last_error_sqlstate == sqlstate)
        # Each failure would be a reason to fetch.
        errors = pool.get_stats().get("connections_errors", 0)
        wait_until(lambda: pool.get_stats().get("connections_errors", 0) >= errors + 3)
        assert strict.provider.calls.count("fetch") == 1
        assert not pool.status().suspect
        with pytest.raises(ServerRefused) as caught:
            pool.getconn(timeout=BRIEF)
        assert f"({sqlstate})" in str(caught.value)
        assert hint in str(caught.value)
        assert told(strict) == {("server", sqlstate)}
        assert isinstance(waiting.join().error, CheckoutFailed)

    def test_a_pooler_does_not_take_an_option(self, setup: Setup, postgres: PostgresServer) -> None:
        with pgbouncer(postgres) as conninfo:
            options = {"options": "-c work_mem=4MB"}
            pool = setup.pool(
                min_size=1, wait=False, rotation=OFTEN, conninfo=conninfo, kwargs=options
            )
            self.says(setup, pool, "08P01", "ignore_startup_parameters")
            pool.close()


class TestClient:
    """libpq turns the server away: the error names the parameter that has it do so."""

    @pytest.mark.parametrize(
        ("options", "parameter"),
        [
            pytest.param(
                {"require_auth": "md5"},
                "require_auth",
                marks=pytest.mark.skipif(psycopg.pq.version() < 160000, reason="needs libpq 16"),
            ),
            ({"channel_binding": "require", "sslmode": "disable"}, "channel_binding"),
            ({"sslmode": "require"}, "sslmode"),
        ],
        ids=["require_auth", "channel_binding", "sslmode"],
    )
    def test_a_parameter_that_the_server_does_not_meet(
        self, setup: Setup, options: dict[str, str], parameter: str
    ) -> None:
        pool = setup.pool(min_size=1, wait=False, rotation=OFTEN, kwargs=options)
        self.says(setup, pool, parameter)

    def test_a_certificate_of_an_unknown_ca(self, strict: Setup, tmp_path: Path) -> None:
        options = {"sslmode": "verify-ca", "sslrootcert": str(tmp_path / "missing.pem")}
        pool = strict.pool(min_size=1, wait=False, rotation=OFTEN, kwargs=options)
        self.says(strict, pool, "sslrootcert")

    def says(self, setup: Setup, pool: Any, parameter: str) -> None:
        wait_until(lambda: pool.status().last_error_reason == "client")
        with pytest.raises(ConfigurationError, match=rf"libpq refuses the server: .*{parameter}"):
            pool.getconn(timeout=BRIEF)
        assert told(setup) == {("client", None)}
        assert setup.provider.calls.count("fetch") == 1


class TestPgHba:
    def test_a_role_that_pg_hba_refuses(self, strict: Setup) -> None:
        conninfo = strict.server.conninfo("members")
        pool = strict.pool(min_size=1, wait=False, rotation=OFTEN, conninfo=conninfo)
        error = refused(pool, "pg_hba")
        assert isinstance(error, ServerRefused)
        assert "pg_hba.conf has no line that accepts" in str(error)
        assert told(strict) == {("pg_hba", "28000")}
        assert pool.status().last_error_sqlstate == "28000"

    def test_r9_refused_credentials_do_not_replace_accepted_ones(self, strict: Setup) -> None:
        strict.provider.grants = ["members"]
        policy = replace(EAGER, proof_timeout=0.0, retry_max=0.05)
        pool = strict.pool(
            min_size=1, max_size=2, refresh=policy, conninfo=strict.server.conninfo("members")
        )
        strict.provider.grants = []
        strict.provider.change()
        strict.events.wait_for(LoginRejected, policy.tuning.proof_attempts)
        told = {(e.reason, e.current) for e in strict.events.of(LoginRejected)}  # type: ignore[attr-defined]
        assert told == {("pg_hba", False)}
        with pool.connection(), pool.connection(PATIENCE) as connection:
            assert user_of(connection) == strict.role(1)
        strict.provider.grants = ["members"]
        strict.provider.change()
        strict.published(2)
        assert pool.status().keeper.username == strict.role(3)

    def test_r10_credentials_that_are_no_longer_accepted_are_replaced(self, strict: Setup) -> None:
        strict.provider.grants = ["members"]
        pool = strict.pool(min_size=1, max_size=2, conninfo=strict.server.conninfo("members"))
        with strict.server.admin() as admin, pool.connection():
            admin.execute(f"REVOKE members FROM {strict.role(1)}".encode())
            with pool.connection(PATIENCE) as connection:
                assert user_of(connection) == strict.role(2)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class TestUnreachable:
    def test_a_server_that_does_not_answer_makes_the_pool_unready(self, strict: Setup) -> None:
        with TCPProxy(strict.server.host, strict.server.port) as proxy:
            proxy.stall()
            conninfo = f"host={proxy.host} port={proxy.port} dbname=plain"
            pool = strict.pool(min_size=1, wait=False, conninfo=conninfo)
            wait_until(lambda: proxy.connections)
            status = pool.status()
            assert (status.ready, status.last_error) == (False, None)
            assert status.keeper.ready
            proxy.restore()
            wait_until(lambda: pool.status().ready)
            assert pool.status().connections == {1: 1}

    def test_no_answer_is_left_behind(self, strict: Setup) -> None:
        """Neither a descriptor nor a session, however often it is asked for."""
        pool = strict.pool(min_size=1, max_size=2, rotation=OFTEN)
        before = descriptors()
        strict.provider.failures["fetch"] = [ProviderUnavailable("away")] * 1000
        strict.provider.alter(1, "NOLOGIN")
        with pool.connection():
            waiting = Worker(pool.getconn, timeout=PATIENCE)
            strict.events.wait_for(LoginRejected, 5)
            strict.provider.wait_for_sessions({1: 1})
            strict.provider.alter(1, "LOGIN")
            pool.putconn(cast("Any", waiting.get()))
        pool.close()
        assert descriptors() <= before

    def test_a_question_without_an_answer_ends_with_the_pool(self, strict: Setup) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(PATIENCE)
            pool = strict.make(
                conninfo=f"host=127.0.0.1 port={silent.getsockname()[1]}",
                connection_class=REFUSED[strict.twin.name],
                rotation=RotationPolicy(connect_timeout=3600.0),
            )
            pool.open()
            line, _ = silent.accept()
            with line:
                line.settimeout(PATIENCE)
                pool.close()
                while line.recv(1024):
                    pass


class RefusedAtOnce(psycopg.Connection[Any]):
    @classmethod
    def connect(cls, *_: Any, **__: Any) -> Any:
        raise psycopg.OperationalError("refused")


class AsyncRefusedAtOnce(psycopg.AsyncConnection[Any]):
    @classmethod
    async def connect(cls, *_: Any, **__: Any) -> Any:
        raise psycopg.OperationalError("refused")


REFUSED = {"sync": RefusedAtOnce, "async": AsyncRefusedAtOnce}
