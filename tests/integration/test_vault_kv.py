"""Credentials in a key-value secret of a real Vault or OpenBao: versions, errors, changes."""

from __future__ import annotations

import contextlib
import math
import threading
from typing import TYPE_CHECKING

import pytest
from check_command import Checker
from minting import Events
from secret_rotation import Rotation, change_under_load, pool_for
from source_load import PoolLoad
from twins import wait_until

from differences import needs
from ephemeral_creds import (
    AccessDenied,
    AppRoleAuth,
    ConfigurationError,
    Secret,
    TokenAuth,
    VaultConfig,
    VaultKVProvider,
    provider_from_url,
)
from ephemeral_creds.events import (
    SourceRecovered,
    SourceUnusable,
)
from ephemeral_creds.testing import VaultAdmin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds.testing import DatabaseEngine, PostgresServer, VaultServer

    Unique = Callable[[str], str]


class Store:
    """A secret in a key-value engine, and who writes it."""

    def __init__(self, vault: VaultServer, path: str, mount: str = "secret") -> None:
        self.admin = VaultAdmin(vault)
        self.path = path
        self.mount = mount

    def write(self, *, cas: int | None = None, **fields: object) -> int:
        """Write a version and return its number."""
        options = {} if cas is None else {"options": {"cas": cas}}
        path = f"{self.mount}/data/{self.path}"
        version: int = self.admin.call("POST", path, {"data": fields, **options}).data["version"]
        return version

    def change(self, how: str, body: dict[str, object] | None = None, method: str = "POST") -> None:
        self.admin.call(method, f"{self.mount}/{how}/{self.path}", body)


@pytest.fixture
def store(vault: VaultServer, unique: Unique) -> Store:
    return Store(vault, f"app/{unique('db')}")


@pytest.fixture
def provider(vault: VaultServer, store: Store) -> Iterator[Callable[..., VaultKVProvider]]:
    with contextlib.ExitStack() as stack:

        def make(path: str | None = None, **arguments: object) -> VaultKVProvider:
            settings: dict[str, object] = {
                "auth": TokenAuth(vault.root_token),
                "config": VaultConfig(vault.address, read_timeout=20),
            }
            made = VaultKVProvider(path or store.path, **(settings | arguments))  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make


# --- what is read -------------------------------------------------------------------------------


def test_a_secret_is_read(store: Store, provider: Callable[..., VaultKVProvider]) -> None:
    store.write(username="app", password="kv-password-1")
    grant = provider().fetch()
    assert grant.credentials.username == "app"
    assert grant.credentials.password == Secret("kv-password-1")
    lease = grant.lease
    assert (lease.duration, lease.lease_id, lease.renewable) == (math.inf, "", False)
    assert (lease.rotates_in, lease.ask_again_in) == (math.inf, 300.0)


@pytest.mark.parametrize(
    ("ttl", "interval"), [("30s", 30.0), ("90", 90.0), ("1s", 5.0), ("soon", 300.0)]
)
def test_custom_metadata_says_how_often_to_ask(
    store: Store, provider: Callable[..., VaultKVProvider], ttl: str, interval: float
) -> None:
    store.write(username="app", password="kv-password-1")
    store.change("metadata", {"custom_metadata": {"ttl": ttl}})
    assert provider().fetch().lease.ask_again_in == interval
    assert provider(poll_interval=7.0).fetch().lease.ask_again_in == 7.0


def test_a_version_may_be_pinned(store: Store, provider: Callable[..., VaultKVProvider]) -> None:
    store.write(username="app", password="kv-password-1")
    store.write(username="app", password="kv-password-2")
    assert provider(version=1).fetch().credentials.password == Secret("kv-password-1")
    assert provider().fetch().credentials.password == Secret("kv-password-2")


def test_a_secret_with_a_password_only(
    store: Store, provider: Callable[..., VaultKVProvider]
) -> None:
    store.write(password="kv-password-1")
    assert provider(username="app").fetch().credentials.username == "app"
    with pytest.raises(ConfigurationError, match=r"USERNAME is missing: correct .* username="):
        provider().fetch()


def test_the_same_by_url(vault: VaultServer, store: Store) -> None:
    store.write(pw="kv-password-1")
    environ = {"T": vault.root_token.reveal(), "VAULT_ADDR": vault.address}
    url = f"vault-kv://{store.path}?auth=token&token_env=T&db_username=app&password_field=pw"
    with contextlib.closing(provider_from_url(url, environ=environ)) as provider:
        assert isinstance(provider, VaultKVProvider)
        assert provider.fetch().credentials.password == Secret("kv-password-1")
        assert provider.description == (
            f"Vault secret '{store.path}' (secret/data/{store.path} at {vault.address})"
        )


def test_an_engine_of_version_1(
    vault: VaultServer, unique: Unique, provider: Callable[..., VaultKVProvider]
) -> None:
    """And any other that answers a read with fields."""
    mount, admin = unique("kv"), VaultAdmin(vault)
    admin.call("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    admin.call("POST", f"{mount}/app/db", {"user": "app", "pw": "kv-password-1", "ttl": "20s"})
    fields = {"username": "user", "password": "pw"}
    grant = provider("app/db", mount=mount, engine_version=1, fields=fields).fetch()
    assert grant.credentials.password == Secret("kv-password-1")
    assert grant.lease.ask_again_in == 20.0


@needs("namespaces")
def test_a_secret_in_a_namespace(
    vault: VaultServer, unique: Unique, provider: Callable[..., VaultKVProvider]
) -> None:
    team, admin = unique("team"), VaultAdmin(vault)
    admin.call("POST", f"sys/namespaces/{team}", {})
    mount = {"type": "kv", "options": {"version": "2"}}
    admin.call("POST", f"{team}/sys/mounts/secret", mount)
    fields = {"username": "app", "password": "kv-password-1"}
    path, secret = f"{team}/secret/data/app/db", {"data": fields}
    # For a moment it answers 400: "Upgrading from non-versioned to versioned data".
    wait_until(lambda: admin.request("POST", path, secret).status == 200, "the engine")
    # The token is the root namespace's.
    config = VaultConfig(vault.address, namespace=team, auth_namespace="")
    assert provider("app/db", config=config).fetch().credentials.username == "app"
    with pytest.raises(ConfigurationError, match=rf"namespace '{team}'.* HTTP 404"):
        provider("app/other", config=config).fetch()


def test_a_writer_with_check_and_set_is_read_whole(
    store: Store, provider: Callable[..., VaultKVProvider]
) -> None:
    store.write(cas=0, username="user-0", password="kv-password-0")
    over = threading.Event()

    def write() -> None:
        version = 1
        while not over.is_set():
            store.write(cas=version, username=f"user-{version}", password=f"kv-password-{version}")
            version += 1

    writer = threading.Thread(target=write)
    writer.start()
    reader, seen = provider(), set[str]()
    try:
        while len(seen) < 20:
            credentials = reader.fetch().credentials
            number = credentials.username.removeprefix("user-")
            assert credentials.password == Secret(f"kv-password-{number}")
            seen.add(number)
    finally:
        over.set()
        writer.join()


# --- what is wrong ------------------------------------------------------------------------------


def test_deleted_and_destroyed_versions(
    store: Store, provider: Callable[..., VaultKVProvider]
) -> None:
    store.write(username="app", password="kv-password-1")
    store.write(username="app", password="kv-password-2")
    store.change("data", method="DELETE")
    with pytest.raises(ConfigurationError, match=r"version 2 is deleted: undelete it \(vault kv"):
        provider().fetch()
    assert provider(version=1).fetch().credentials.username == "app"
    store.change("destroy", {"versions": [1]})
    with pytest.raises(ConfigurationError, match="version 1 is destroyed: write a new version"):
        provider(version=1).fetch()
    store.change("undelete", {"versions": [2]})
    assert provider().fetch().credentials.username == "app"


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("nothing", {}, "no reason given; .* and version: vault kv get -mount=secret nothing"),
        ("data/nothing", {}, "the path is given without the 'data/' of Vault's API"),
        ("app/db", {"mount": "nowhere"}, "no handler for route"),
    ],
)
def test_a_secret_that_does_not_exist(
    provider: Callable[..., VaultKVProvider],
    path: str,
    arguments: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        provider(path, **arguments).fetch()


def test_a_version_that_does_not_exist(
    store: Store, provider: Callable[..., VaultKVProvider]
) -> None:
    store.write(username="app", password="kv-password-1")
    with pytest.raises(ConfigurationError, match="asked for version 7 of the secret at secret/"):
        provider(version=7).fetch()


@pytest.mark.parametrize("rights", ["all", "one path"])
def test_an_engine_of_the_other_version_is_named(
    vault: VaultServer, unique: Unique, provider: Callable[..., VaultKVProvider], rights: str
) -> None:
    mount, admin = unique("kv"), VaultAdmin(vault)
    admin.call("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "1"}})
    paths = {f"{mount}/app/db": ["read"], "secret/data/app/*": ["read"]}
    how = admin.create_approle(unique("approle"), [admin.write_policy(unique("policy"), paths)])
    auth = AppRoleAuth(how.role_id, how.secret_id)
    settings = {} if rights == "all" else {"auth": auth}
    with pytest.raises(ConfigurationError, match=r"version 1: set engine_version=1$"):
        provider("app/db", mount=mount, **settings).fetch()
    with pytest.raises(ConfigurationError, match=r"version 2: set engine_version=2$"):
        provider("app/db", engine_version=1, **settings).fetch()


def test_a_policy_without_the_path(
    vault: VaultServer, store: Store, unique: Unique, provider: Callable[..., VaultKVProvider]
) -> None:
    store.write(username="app", password="kv-password-1")
    admin = VaultAdmin(vault)
    how = admin.create_approle(unique("approle"), ["default"])
    auth = AppRoleAuth(how.role_id, how.secret_id)
    line = rf'path "secret/data/{store.path}" \{{ capabilities = \["read"\] \}}'
    with pytest.raises(AccessDenied, match=line):
        provider(auth=auth).fetch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 0}, "version=0"),
        ({"version": 1, "engine_version": 1}, "only an engine of version 2"),
        ({"engine_version": 3}, "must be 1 or 2"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"path": "a/../b"}, "cannot be the path of a secret"),
        ({"path": "/"}, "cannot be the path of a secret"),
    ],
)
def test_arguments_that_cannot_be_right(
    provider: Callable[..., VaultKVProvider], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        provider(**arguments)


# --- the check ----------------------------------------------------------------------------------


class TestCheck:
    @pytest.fixture
    def checker(
        self,
        engine: DatabaseEngine,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> Checker:
        return Checker(engine, capsys, monkeypatch)

    def url(
        self, checker: Checker, store: Store, rules: dict[str, list[str]], more: str = ""
    ) -> str:
        how = checker.login("kv", rules)
        return checker.url(store.path, how).replace("vault://", "vault-kv://") + more

    def test_it_takes_each_step(
        self, checker: Checker, store: Store, postgres: PostgresServer, empty_database: str
    ) -> None:
        rotation = Rotation(postgres, (f"check_{store.path[7:]}",))
        store.write(**rotation.values)
        rules = {f"secret/data/{store.path}": ["read"]}
        assert checker.run(self.url(checker, store, rules), dbname=empty_database) == {}
        assert "engine of version 2" in checker.texts("engine")
        assert checker.complete

    def test_a_missing_right(self, checker: Checker, store: Store) -> None:
        bad = checker.run(self.url(checker, store, {}))
        assert list(bad) == ["policy"]
        assert f'path "secret/data/{store.path}"' in bad["policy"][0]

    def test_a_path_with_the_data_of_the_api(self, checker: Checker, store: Store) -> None:
        url = self.url(checker, store, {}).replace("vault-kv://", "vault-kv://data/")
        assert "without the 'data/'" in checker.run(url)["policy"][0]

    def test_the_wrong_engine(self, checker: Checker, store: Store) -> None:
        rules = {"secret/*": ["read"]}
        bad = checker.run(self.url(checker, store, rules, "&engine_version=1"))
        assert "engine_version=2" in bad["engine"][0]


# --- changes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_changes_under_load_fail_no_query(
    postgres: PostgresServer,
    store: Store,
    provider: Callable[..., VaultKVProvider],
    unique: Unique,
) -> None:
    rotation = Rotation(postgres, (unique("kv_app"),))
    store.write(**rotation.values)
    with pool_for(provider(poll_interval=0.2), rotation.conninfo) as (keeper, pool):
        change_under_load(
            keeper, pool, rotation, lambda values: store.write(**values), lambda: unique("kv_app")
        )


@pytest.mark.slow
def test_a_wrong_password_falls_back_to_the_version_before_it(
    postgres: PostgresServer,
    store: Store,
    provider: Callable[..., VaultKVProvider],
    unique: Unique,
) -> None:
    rotation, events = Rotation(postgres, (unique("kv_app"),)), Events()
    store.write(**rotation.values)
    with pool_for(provider(poll_interval=0.2), rotation.conninfo, events) as (keeper, pool):
        pool.wait()
        with PoolLoad(pool) as load:
            rotation.take_turn()
            store.write(**rotation.values)
            (unusable,) = events.wait_for(SourceUnusable)
            load.goes_on(60)
            assert keeper.status().source_error
            rotation.take_turn()
            rotation.set_secret()
            store.write(**rotation.values)
            events.wait_for(SourceRecovered)
            load.goes_on(60)
    assert load.failures == []
    assert "PostgreSQL refuses version 2" in str(unusable)


@pytest.mark.slow
def test_a_secret_that_vanishes_costs_nothing(
    postgres: PostgresServer,
    store: Store,
    provider: Callable[..., VaultKVProvider],
    unique: Unique,
) -> None:
    rotation = Rotation(postgres, (unique("kv_app"),))
    store.write(**rotation.values)
    with pool_for(provider(poll_interval=0.1), rotation.conninfo, min_size=1, max_size=4) as (
        keeper,
        pool,
    ):
        pool.wait()
        store.change("metadata", method="DELETE")
        wait_until(lambda: keeper.status().last_error)
        borrowed = [pool.getconn() for _ in range(4)]  # three logins
        for conn in borrowed:
            pool.putconn(conn)
    assert "check that there is such a secret" in str(keeper.status().last_error)
