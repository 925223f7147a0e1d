"""Databases' tokens at a server that verifies them, in front of a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import PATIENCE, Events
from token_load import CHANGES, TokenLoad
from twins import EAGER, wait_until

from ephemeral_creds import (
    AlloyDBIAMProvider,
    AsyncRotatingConnectionPool,
    AuroraDSQLProvider,
    CloudSQLIAMProvider,
    ConfigurationError,
    CredentialKeeper,
    LakebaseProvider,
    LoginRefused,
    RDSIAMProvider,
    RotatingConnectionPool,
    TokenProvider,
    provider_from_url,
)
from ephemeral_creds.cli import main
from ephemeral_creds.contrib.psycopg import connect
from ephemeral_creds.events import CredentialsEnding, LoginRejected, PasswordChanged
from ephemeral_creds.testing import TickingClock
from lakebase_workspace import CLIENT, INSTANCE, LakebaseWorkspace
from platforms import ACCOUNT, IDENTITY, Platform, machine
from token_server import AWSKeys, TokenServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from certificates import Authority, Issued
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.testing import PostgresServer

    Unique = Callable[[str], str]

botocore_credentials = pytest.importorskip("botocore.credentials")

HOST = "mydb.abc123.eu-central-1.rds.amazonaws.com"
DSQL = "abc123.dsql.us-east-1.on.aws"
READER = "mydb.cluster-ro-abc123.eu-central-1.rds.amazonaws.com"


class Rotation:
    """A session whose AWS credentials end after some seconds, each time others."""

    def __init__(self, keys: AWSKeys, seconds: float = 3600.0) -> None:
        self._keys, self._seconds = keys, seconds
        self._ends: dict[str, float] = {}

    def get_credentials(self) -> Any:
        now = time.time()
        for key, end in list(self._ends.items()):
            if end < now:
                self._keys.secrets.pop(key, None)
        name, secret, session = (secrets.token_hex(10) for _ in range(3))
        self._keys.secrets[name] = secret, session
        self._ends[name] = now + self._seconds
        ends = datetime.now(UTC) + timedelta(seconds=self._seconds)
        return botocore_credentials.RefreshableCredentials(
            *(name, secret, session, ends, dict, "test"), advisory_timeout=0, mandatory_timeout=0
        )


class World:
    """A server of tokens for each endpoint, and how to connect."""

    def __init__(self, postgres: PostgresServer, authority: Authority, stack: ExitStack) -> None:
        self._postgres, self._stack, self._ca = postgres, stack, authority.path
        self._authority = authority
        self.servers: dict[str, TokenServer] = {}
        self.keys: dict[str, AWSKeys] = {}

    def serve(self, host: str, verify: Callable[[str, str], str]) -> TokenServer:
        certificate: Issued = self._authority.issue(host, server=True, ip="127.0.0.1")
        server = self._stack.enter_context(TokenServer(self._postgres, certificate, verify))
        self.servers[host] = server
        return server

    def server(self, host: str = HOST) -> TokenServer:
        keys = AWSKeys("rds-db", "", "eu-central-1", ("connect",))
        if self.keys:
            keys.secrets = next(iter(self.keys.values())).secrets
        server = self.serve(host, keys.verify)
        keys.endpoint = f"{host}:{server.port}"
        self.keys[host] = keys
        return server

    def provider(self, user: str, seconds: float = 3600.0, **more: Any) -> RDSIAMProvider:
        endpoints = [keys.endpoint for keys in self.keys.values()]
        rotation = Rotation(next(iter(self.keys.values())), seconds)
        return RDSIAMProvider(user, endpoints, session=rotation, **more)

    def conninfo(self, *hosts: str, **more: str) -> str:
        hosts = hosts or tuple(self.servers)
        given = {
            "host": ",".join(hosts),
            "hostaddr": ",".join("127.0.0.1" for _ in hosts),
            "port": ",".join(str(self.servers[host].port) for host in hosts),
            "dbname": "postgres",
            "sslmode": "verify-full",
            "sslrootcert": str(self._ca),
        }
        return psycopg.conninfo.make_conninfo("", **given | more)


@pytest.fixture
def world(postgres: PostgresServer, authority: Authority) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(postgres, authority, stack)


@pytest.fixture
def user(world: World, unique: Unique) -> str:
    name = unique("rds_app")
    world.server().create_role(name)
    return name


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.mark.slow
def test_tokens_and_signing_credentials_change_under_load_and_no_query_fails(
    world: World, user: str
) -> None:
    server = world.servers[HOST]
    load = TokenLoad(world.provider(user, 2.0), world.conninfo())
    load.run()
    assert load.failures == []
    assert load.backends[0] == load.backends[1]
    assert load.changes >= CHANGES
    print(f"queries: {load.queries}, changes: {load.changes}, logins: {len(server.accepted)}")


@pytest.mark.slow
def test_a_server_that_refuses_once_gets_another_token_under_load(world: World, user: str) -> None:
    load = TokenLoad(world.provider(user, 2.0), world.conninfo())

    def refuse() -> None:
        world.servers[HOST].refuse = 1
        wait_until(lambda: world.servers[HOST].refused, "a refusal")

    load.run(refuse)
    assert load.failures == []
    assert load.backends[0] == load.backends[1]
    assert "refused on request" in world.servers[HOST].refused


@pytest.mark.slow
def test_the_pool_for_asyncio(world: World, user: str) -> None:
    load = TokenLoad(world.provider(user, 2.0), world.conninfo())
    asyncio.run(load.run_async())
    assert load.failures == []
    assert load.backends[0] == load.backends[1]
    assert load.changes >= CHANGES


def test_a_refused_login_asks_for_one_other_token(world: World, user: str, events: Events) -> None:
    """AWS credentials without rds-db:connect are refused with each token."""
    server = world.servers[HOST]
    keeper = CredentialKeeper(world.provider(user), observers=[events])
    pool = RotatingConnectionPool(keeper, world.conninfo(), min_size=1, max_size=1)
    with keeper, pool:
        pool.wait(PATIENCE)
        with pool.connection():
            server.refuse = 10**6
            pool.resize(2)
            events.wait_for(PasswordChanged)
            refused = len(server.refused)
            wait_until(lambda: len(server.refused) > refused + 2, "refusals")
            wait_until(lambda: pool.status().last_error_sqlstate, "why")
            with pytest.raises(LoginRefused, match=f"'{user}' from tokens for .*rds_iam"):
                pool.getconn(0.1)
            assert len(events.of(PasswordChanged)) == 1
            rejected = events.of(LoginRejected)[0]
            assert isinstance(rejected, LoginRejected)
            assert (rejected.reason, rejected.sqlstate) == ("credentials", "28000")


def test_each_host_of_a_conninfo_gets_its_own_token(world: World, user: str) -> None:
    first, second = world.servers[HOST], world.server(READER)
    second.create_role_like(first, user)
    provider = world.provider(user)
    with CredentialKeeper(provider) as keeper:
        conninfo = world.conninfo(HOST, READER)
        with RotatingConnectionPool(keeper, conninfo, min_size=1, max_size=2) as pool:
            pool.wait(PATIENCE)
            first.refuse = 10**6
            assert len(first.accepted) == 1
            with pool.connection() as one, pool.connection() as other:
                assert one.info.port == first.port
                assert other.info.port == second.port
        with connect(keeper, world.conninfo(READER)) as conn:
            assert conn.info.port == second.port
    assert first.refused == ["refused on request"] * len(first.refused)
    assert second.refused == []


def test_each_host_gets_its_own_token_in_asyncio(world: World, user: str) -> None:
    first, second = world.servers[HOST], world.server(READER)
    second.create_role_like(first, user)

    async def run() -> None:
        conninfo = world.conninfo(HOST, READER, target_session_attrs="read-write")
        first.refuse = 1
        pool = AsyncRotatingConnectionPool(world.provider(user), conninfo, min_size=1)
        async with pool:
            await pool.wait(PATIENCE)
            async with pool.connection() as conn:
                assert conn.info.port == second.port

    asyncio.run(run())
    assert second.refused == []


def test_a_host_without_a_token_is_named(world: World, user: str) -> None:
    world.server(READER)
    with (
        CredentialKeeper(world.provider(user)) as keeper,
        pytest.raises(ConfigurationError, match=r"no token for 127\.0\.0\.1:1, only for mydb"),
    ):
        connect(keeper, "host=127.0.0.1 port=1 sslmode=require", timeout=PATIENCE)


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_a_token_is_not_sent_without_tls(world: World, user: str, sslmode: str) -> None:
    conninfo = world.conninfo(sslmode=sslmode)
    with (
        RotatingConnectionPool(world.provider(user), conninfo, min_size=1) as pool,
        pytest.raises(ConfigurationError, match=rf"sslmode={sslmode} lets .*sslmode=verify-full"),
    ):
        pool.getconn(PATIENCE)
    assert world.servers[HOST].accepted == world.servers[HOST].refused == []


def test_a_provider_may_allow_it(world: World, user: str) -> None:
    conninfo = world.conninfo(sslmode="prefer")
    provider = world.provider(user, requires_tls=False)
    with RotatingConnectionPool(provider, conninfo, min_size=1) as pool:
        pool.wait(PATIENCE)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Metadata servers of Azure and Google Cloud whose tokens live three seconds."""
    with machine(monkeypatch) as made:
        made.life = 3.0
        yield made


@pytest.fixture
def databricks(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LakebaseWorkspace]:
    """A workspace of Databricks, in the environment as an app there has it."""
    with LakebaseWorkspace(authority.issue("localhost", server=True, ip="127.0.0.1")) as made:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.path))
        monkeypatch.setenv("DATABRICKS_HOST", made.host)
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT)
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", made.secret)
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dsql", "entra", "cloudsql-iam", "alloydb-iam", "lakebase"])
def test_tokens_of_other_databases_change_under_load(
    world: World, platform: Platform, databricks: LakebaseWorkspace, unique: Unique, kind: str
) -> None:
    provider: CredentialProvider | None = None
    host, verify = DSQL, platform.verify_entra
    user = IDENTITY if kind == "entra" else ACCOUNT.removesuffix(".gserviceaccount.com")
    if kind == "lakebase":
        user, verify, databricks.life = CLIENT, databricks.verify, 3.0
        provider = LakebaseProvider(instance=INSTANCE)
    elif kind == "dsql":
        user = unique("dsql_app")
        keys = AWSKeys("dsql", host, "us-east-1", ("DbConnect",))
        verify = keys.verify
        provider = AuroraDSQLProvider(user, host, session=Rotation(keys, 2.0))
    elif kind != "entra":
        scope = {"cloudsql-iam": CloudSQLIAMProvider, "alloydb-iam": AlloyDBIAMProvider}[kind].SCOPE
        verify = partial(platform.verify_google, scope)
    server = world.serve(host, verify)
    with server.role(user):
        load = TokenLoad(provider or provider_from_url(f"{kind}://"), world.conninfo())
        load.run()
    assert load.failures == []
    assert load.backends[0] == load.backends[1]
    assert load.changes >= CHANGES
    assert set(server.accepted) == {user}
    print(f"{kind}: queries: {load.queries}, changes: {load.changes}, refused: {server.refused}")


def test_a_source_that_is_unreachable_after_the_end_of_a_token_costs_nothing(
    world: World, unique: Unique, events: Events
) -> None:
    """As long as logins work, whatever the source has announced."""
    user, calls = unique("app"), 0

    def token() -> tuple[str, float]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the source is unreachable")
        return "a-token-of-any-kind", time.time() + 3600.0

    server = world.serve(HOST, lambda user, token: "")
    with server.role(user):
        clock = TickingClock()
        provider = TokenProvider(user, token, clock=clock)
        policy = replace(EAGER, grace=0.1)
        keeper = CredentialKeeper(provider, refresh=policy, observers=[events], clock=clock)
        with keeper, RotatingConnectionPool(keeper, world.conninfo(), min_size=1) as pool:
            pool.wait(PATIENCE)
            clock.advance(3600.0)
            (ending,) = events.wait_for(CredentialsEnding)
            assert isinstance(ending, CredentialsEnding)
            assert ending.ends_in <= 0
            for _ in range(3):
                with pool.connection(PATIENCE) as conn:
                    conn.close()
            assert "OSError at" in str(pool.status().keeper.last_error)
    assert len(server.accepted) >= 3
    assert server.refused == []


class TestOtherDrivers:
    def test_asyncpg(self, world: World, user: str, authority: Authority) -> None:
        pytest.importorskip("asyncpg")
        from ephemeral_creds.contrib.asyncpg import create_pool

        server = world.servers[HOST]
        context = ssl.create_default_context(cafile=str(authority.path))
        context.check_hostname = False  # it connects by address: asyncpg has no hostaddr

        async def run() -> None:
            dsn = f"postgresql://127.0.0.1:{server.port}/postgres"
            provider = world.provider(user)
            async with create_pool(provider, dsn, ssl=context, min_size=1) as pool:
                assert await pool.fetchval("SELECT current_user") == user
            with pytest.raises(ConfigurationError, match="ssl=prefer lets"):
                async with create_pool(provider, dsn, min_size=1):
                    pass

        asyncio.run(run())
        assert server.accepted
        assert server.refused == []

    def test_sqlalchemy(self, world: World, user: str) -> None:
        sqlalchemy = pytest.importorskip("sqlalchemy")
        from ephemeral_creds.contrib.sqlalchemy import attach

        with CredentialKeeper(world.provider(user)) as keeper:
            for conninfo in (world.conninfo(), world.conninfo(sslmode="prefer")):
                given = psycopg.conninfo.conninfo_to_dict(conninfo)
                engine = sqlalchemy.create_engine("postgresql+psycopg://", connect_args=given)
                attach(engine, keeper)
                if given["sslmode"] == "prefer":
                    with pytest.raises(sqlalchemy.exc.OperationalError, match="sslmode=prefer"):
                        engine.connect()
                else:
                    with engine.connect() as connection:
                        query = sqlalchemy.text("SELECT current_user::text")
                        assert connection.scalar(query) == user
                engine.dispose()
        assert world.servers[HOST].refused == []

    def test_django(self, world: World, user: str) -> None:
        pytest.importorskip("django")
        from ephemeral_creds.contrib.django._logins import Logins

        world.server(READER)
        with CredentialKeeper(world.provider(user)) as keeper:
            keeper.wait(PATIENCE)
            good = psycopg.conninfo.conninfo_to_dict(world.conninfo(HOST))
            logins = Logins(keeper, good, None)
            with logins.open(good, None).connection as conn:
                assert conn.info.user == user
            with pytest.raises(ConfigurationError, match="sslmode=prefer lets a login send"):
                logins.open({**good, "sslmode": "prefer"}, None)
            both = psycopg.conninfo.conninfo_to_dict(world.conninfo(HOST, READER))
            with pytest.raises(ConfigurationError, match=f"no token for {HOST},{READER}:"):
                logins.open(both, None)
            logins.sessions.close()


class TestCheck:
    @pytest.fixture
    def check(
        self,
        world: World,
        empty_database: str,
        user: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., tuple[int, dict[str, str]]]:
        del user  # whose server there has to be
        keys = world.keys[HOST]
        keys.secrets["AKIAEXAMPLE"] = (secrets.token_hex(10), "")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secrets["AKIAEXAMPLE"][0])
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

        def run(role: str, **parameters: str) -> tuple[int, dict[str, str]]:
            url = f"rds-iam://{role}?host={HOST}&port={world.servers[HOST].port}"
            where = {"dbname": empty_database} | parameters
            status = main(["check", url, "--json", "--conninfo", world.conninfo(**where)])
            found = json.loads(capsys.readouterr().out)["findings"]
            return status, {
                each["step"]: f"{each['level']}: {each['text']} -> {each['remedy']}"
                for each in found
            }

        return run

    def test_all_is_well(self, check: Callable[..., tuple[int, dict[str, str]]], user: str) -> None:
        status, found = check(user)
        assert status == 0, found
        assert found["credentials"] == f"ok: '{user}', with a token, for 900 s -> "
        assert found["encryption"].startswith("ok: TLS, with sslmode=verify-full")

    def test_a_server_that_is_not_verified(
        self, check: Callable[..., tuple[int, dict[str, str]]], user: str
    ) -> None:
        status, found = check(user, sslmode="require", sslrootcert="")
        assert status == 1
        assert found["encryption"].startswith("warn: the login sends a token to a server that is")

    def test_a_connection_without_tls(
        self, check: Callable[..., tuple[int, dict[str, str]]], user: str
    ) -> None:
        status, found = check(user, sslmode="allow")
        assert status == 3
        assert found["connect"].startswith("fail: sslmode=allow lets a login send its token")

    @pytest.mark.parametrize(
        ("kind", "query", "remedy"),
        [
            ("dsql", f"?host={DSQL}", "dsql:DbConnect"),
            ("entra", "", "pgaadauth_create_principal"),
            ("cloudsql-iam", "", "cloudsql.iam_authentication"),
            ("alloydb-iam", "", "alloydb.iam_authentication"),
            ("lakebase", f"?instance={INSTANCE}", "databricks_create_role"),
        ],
    )
    def test_another_source(
        self,
        world: World,
        empty_database: str,
        platform: Platform,
        databricks: LakebaseWorkspace,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        unique: Unique,
        kind: str,
        query: str,
        remedy: str,
    ) -> None:
        del databricks  # that there is one
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(10))
        role, platform.life = unique("cloud_app"), 3600.0
        with world.serve(DSQL, lambda user, token: "").role(role):
            conninfo = world.conninfo(DSQL, dbname=empty_database)
            for user, status in ((role, 0), ("nobody", 3)):
                url = f"{kind}://{user}{query}"
                assert main(["check", url, "--json", "--conninfo", conninfo]) == status
        good, bad = map(json.loads, capsys.readouterr().out.splitlines())
        (credentials,) = (f["text"] for f in good["findings"] if f["step"] == "credentials")
        life = "900" if kind == "dsql" else "3"
        assert credentials.startswith(f"'{role}', with a token, for {life}")
        (found,) = (f["remedy"] for f in bad["findings"] if f["step"] == "connect")
        assert remedy in found

    def test_a_refused_token(self, check: Callable[..., tuple[int, dict[str, str]]]) -> None:
        status, found = check("no_such_user")
        assert status == 3
        assert "GRANT rds_iam TO the role; allow rds-db:connect in IAM" in found["connect"]


def test_exec_gives_each_server_its_token_and_wants_tls(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, port = world.keys[HOST], world.servers[HOST].port
    keys.secrets["AKIAEXAMPLE"] = (secrets.token_hex(10), "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secrets["AKIAEXAMPLE"][0])
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    program = (
        "import os, psycopg\n"
        f"where = 'host={HOST} hostaddr=127.0.0.1 port={port} dbname=postgres'\n"
        "with psycopg.connect(where) as c:\n"
        "    print(c.execute('SELECT current_user').fetchone()[0], os.environ['PGSSLMODE'])\n"
    )
    url = f"rds-iam://{user}?host={HOST},{READER}&port={port}"
    # Not main(): exec sets up the log of its process.
    command = [sys.executable, "-m", "ephemeral_creds", "exec", url, "--"]
    command += [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, [user, "require"]), ended.stderr
    assert world.servers[HOST].refused == []


def test_agent_has_one_password_for_all_servers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(10))
    path = tmp_path / "credentials.json"
    assert main(["agent", f"rds-iam://app?host={HOST},{READER}", str(path)]) == 125
    said = f"{path} has room for one password, but each of {HOST}:5432, {READER}:5432 takes"
    assert said in " ".join(capfd.readouterr().err.split())
    assert not path.exists()
