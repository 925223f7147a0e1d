"""``ephemeral-creds check`` on real servers: each set-up that is broken names its own cause."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from ephemeral_creds.cli import main
from ephemeral_creds.cli._check.credentials import CORRECTED
from ephemeral_creds.testing import CREATE_ROLE, AppRole, DatabaseEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer, VaultLike

pytestmark = pytest.mark.slow

SECRET_ID = "CHECK_SECRET_ID"


class Checker:
    """Runs the command against one engine and reads what it found."""

    def __init__(
        self,
        engine: DatabaseEngine,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.engine = engine
        self.status = -1
        self.found: list[dict[str, str]] = []
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def url(self, role: str, how: AppRole, **more: str) -> str:
        self._monkeypatch.setenv(SECRET_ID, how.secret_id.reveal())
        settings = {
            "address": self.engine.vault.address,
            "auth": "approle",
            "role_id": how.role_id,
            "secret_id_env": SECRET_ID,
        }
        return f"vault://{role}?{urlencode(settings | more)}"

    def run(self, url: str, *options: str, dbname: str = "postgres") -> dict[str, list[str]]:
        """Return the texts and remedies of each step that warns or fails, and keep the rest."""
        conninfo = self.engine.postgres.conninfo(dbname)
        self.status = main(["check", url, "--json", "--conninfo", conninfo, *options])
        said = json.loads(self._capsys.readouterr().out)
        self.found = said["findings"]
        assert said["status"] == ("ok", "warn", "fail")[self.status]
        bad: dict[str, list[str]] = {}
        for finding in self.found:
            if finding["level"] in ("warn", "fail"):
                text = f"{finding['level']}: {finding['text']} -> {finding['remedy']}"
                bad.setdefault(finding["step"], []).append(text)
        return bad

    def login(
        self, role: str, rules: Mapping[str, Sequence[str]] | None = None, **settings: object
    ) -> AppRole:
        """Return a login that may do all that a check looks at, or what `rules` say."""
        mount = self.engine.mount
        rules = rules if rules is not None else {
            f"{mount}/creds/{role}": ["read"],
            f"{mount}/roles/{role}": ["read"],
            f"{mount}/config/{self.engine.connection}": ["read"],
            "sys/leases/revoke": ["update"],
        }  # fmt: skip
        policy = self.engine.admin.write_policy(f"check-{role}", rules)
        how: AppRole = self.engine.admin.create_approle(f"check-{role}", [policy], **settings)  # type: ignore[arg-type]
        return how

    def levels(self) -> dict[str, str]:
        return {finding["step"]: finding["level"] for finding in self.found}


@pytest.fixture
def checker(
    engine: DatabaseEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Checker:
    for name in ("VAULT_ADDR", "VAULT_NAMESPACE", "PGHOST", "PGDATABASE", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    return Checker(engine, capsys, monkeypatch)


@pytest.fixture
def app(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[str]:
    """A group role that may use a table of its own."""
    name = unique("app")
    with closing(postgres.admin()) as admin:
        admin.execute(f"CREATE ROLE {name}".encode())
        admin.execute(f"CREATE TABLE t_{name} (x int)".encode())
        admin.execute(f"GRANT SELECT, INSERT ON t_{name} TO {name}".encode())
    yield name
    with closing(postgres.admin()) as admin:
        admin.execute(f"DROP TABLE t_{name}".encode())
        admin.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def good(checker: Checker, unique: Callable[[str], str], app: str) -> str:
    """A role with nothing wrong."""
    role = unique("check")
    checker.engine.create_role(role, grants=[f'GRANT {app} TO "{{{{name}}}}"'])
    return role


def roles_of(engine: DatabaseEngine, role: str) -> list[str]:
    return [name for name in engine.postgres.roles() if f"-{role[:8]}-" in name]


# --- nothing wrong -----------------------------------------------------------------------------


def test_a_good_set_up(checker: Checker, good: str) -> None:
    assert checker.run(checker.url(good, checker.login(good))) == {}
    assert checker.status == 0
    assert set(checker.levels()) == {
        "url", "address", "tls", "seal", "clock", "login", "policy", "role", "mint", "connect",
        "rights", "expiry", "renewal", "revocation",
    }  # fmt: skip
    assert checker.engine.mints(good) == 1
    assert roles_of(checker.engine, good) == []


def test_a_dry_run_mints_nothing(checker: Checker, good: str) -> None:
    assert checker.run(checker.url(good, checker.login(good)), "--dry-run") == {}
    assert checker.levels()["mint"] == "skipped"
    assert checker.engine.mints(good) == 0


def test_a_token_that_may_read_no_definitions_is_fine(checker: Checker, good: str) -> None:
    rules = {f"database/creds/{good}": ["read"], "sys/leases/revoke": ["update"]}
    assert checker.run(checker.url(good, checker.login(good, rules))) == {}
    assert checker.levels()["role"] == "skipped"


def test_people_get_aligned_columns(
    checker: Checker, good: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = checker.url(good, checker.login(good))
    assert main(["check", url, "--conninfo", checker.engine.postgres.conninfo()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Vault role '{good}'")
    assert lines[-1] == "all is well"
    assert any(line.startswith("ok      renewal") and "moved along" in line for line in lines)


# --- what is broken ----------------------------------------------------------------------------


def test_the_wrong_address(checker: Checker, good: str) -> None:
    how = checker.login(good)
    bad = checker.run(checker.url(good, how, address="http://127.0.0.1:1"))
    assert list(bad) == ["address"]
    assert "Connection refused" in bad["address"][0]
    assert "VAULT_ADDR" in bad["address"][0]
    assert checker.status == 2


def test_a_url_that_is_wrong(checker: Checker) -> None:
    bad = checker.run("vault://app?auth=magic")
    assert "auth=magic" in bad["url"][0]
    assert checker.status == 2


def test_a_sealed_vault(
    own_vault: VaultLike,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checker = Checker(DatabaseEngine(own_vault, postgres), capsys, monkeypatch)
    checker.engine.create_role("app")
    url = checker.url("app", checker.login("app"))
    own_vault.seal()
    bad = checker.run(url)
    assert list(bad) == ["seal"]
    assert "vault operator unseal" in bad["seal"][0]


def test_a_bad_token(checker: Checker, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECK_TOKEN", "hvs.nonsense")
    address = checker.engine.vault.address
    bad = checker.run(f"vault://{good}?auth=token&token_env=CHECK_TOKEN&address={address}")
    assert list(bad) == ["login"]
    assert "expired or revoked" in bad["login"][0]


def test_a_policy_without_the_path(checker: Checker, good: str) -> None:
    bad = checker.run(checker.url(good, checker.login(good, {"sys/leases/revoke": ["update"]})))
    assert list(bad) == ["policy"]
    assert f'path "database/creds/{good}" {{ capabilities = ["read"] }}' in bad["policy"][0]
    assert checker.engine.mints(good) == 0


def test_a_policy_that_denies_renewal(checker: Checker, good: str) -> None:
    rules = {
        f"database/creds/{good}": ["read"],
        "sys/leases/renew": ["deny"],
        "sys/leases/revoke": ["update"],
    }
    bad = checker.run(checker.url(good, checker.login(good, rules)))
    assert sorted(bad) == ["policy", "renewal"]
    assert bad["policy"][0].startswith("warn: may not update sys/leases/renew")
    assert 'path "sys/leases/renew"' in bad["renewal"][0]
    assert checker.status == 1
    assert checker.run(checker.url(good, checker.login(good, rules)), "--dry-run") != {}


def test_a_policy_without_revocation(checker: Checker, good: str) -> None:
    bad = checker.run(checker.url(good, checker.login(good, {f"database/creds/{good}": ["read"]})))
    assert sorted(bad) == ["policy", "revocation"]
    assert bad["policy"][0].startswith("warn: may not update sys/leases/revoke")
    assert "the role went with the token" in bad["revocation"][0]
    assert checker.status == 1
    assert roles_of(checker.engine, good) == []


def test_warnings_may_be_allowed(checker: Checker, good: str) -> None:
    url = checker.url(good, checker.login(good, {f"database/creds/{good}": ["read"]}))
    assert main(["check", url, "--allow-warnings", "--dry-run"]) == 0


def test_an_unknown_role(checker: Checker) -> None:
    bad = checker.run(checker.url("nobody", checker.login("nobody")))
    assert list(bad) == ["role"]
    assert "there is no role 'nobody'" in bad["role"][0]
    rules = {"database/creds/nobody": ["read"]}
    bad = checker.run(checker.url("nobody", checker.login("nobody", rules)))
    assert "unknown role" in bad["mint"][0]


def test_a_role_that_the_connection_does_not_allow(
    vault: VaultLike,
    postgres: PostgresServer,
    checker: Checker,
    unique: Callable[[str], str],
) -> None:
    checker.engine = DatabaseEngine(vault, postgres, connection=unique("narrow"))
    checker.engine.create_role(role := unique("check"))
    path = f"database/config/{checker.engine.connection}"
    checker.engine.admin.call("POST", path, {"allowed_roles": "other", "verify_connection": False})
    bad = checker.run(checker.url(role, checker.login(role)))
    assert list(bad) == ["role"]
    assert "is not in allowed_roles" in bad["role"][0]
    assert f"allowed_roles=other,{role}" in bad["role"][0]
    # The same where it may not be looked at beforehand.
    bad = checker.run(checker.url(role, checker.login(role, {f"database/creds/{role}": ["read"]})))
    assert "allowed_roles" in bad["mint"][0]


def test_creation_statements_without_login(checker: Checker, unique: Callable[[str], str]) -> None:
    statement = CREATE_ROLE.replace("WITH LOGIN", "WITH NOLOGIN")
    checker.engine.create_role(role := unique("check"), creation_statements=[statement])
    bad = checker.run(checker.url(role, checker.login(role)))
    assert sorted(bad) == ["connect", "role"]
    assert "not permitted to log in" in bad["connect"][0]
    assert "WITH LOGIN PASSWORD" in bad["connect"][0]
    assert roles_of(checker.engine, role) == []


def test_creation_statements_without_an_end(checker: Checker, unique: Callable[[str], str]) -> None:
    statement = """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}'"""
    checker.engine.create_role(role := unique("check"), creation_statements=[statement])
    bad = checker.run(checker.url(role, checker.login(role)))
    assert "no VALID UNTIL" in bad["expiry"][0]


LEFT_BEHIND = {
    "the grants stay": ['DROP ROLE "{{name}}";'],
    "some grants stay": [
        'REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA public FROM "{{name}}";',
        'DROP ROLE "{{name}}";',
    ],
    "nothing is dropped": ['ALTER ROLE "{{name}}" NOLOGIN;'],
}


@pytest.mark.parametrize("statements", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_revocation_statements_that_leave_the_role_behind(
    checker: Checker, unique: Callable[[str], str], app: str, statements: list[str]
) -> None:
    role = unique("check")
    grants = [
        f'GRANT SELECT ON t_{app} TO "{{{{name}}}}"',
        'GRANT CONNECT ON DATABASE postgres TO "{{name}}"',
    ]
    checker.engine.create_role(role, grants=grants, revocation_statements=statements)
    bad = checker.run(checker.url(role, checker.login(role)))
    assert list(bad) == ["revocation"]
    (text,) = bad["revocation"]
    (left,) = roles_of(checker.engine, role)
    assert f"the role '{left}' is left behind" in text
    for statement in CORRECTED:
        assert statement in text
    assert checker.status == 2

    # What it says to write works: by hand for the one that is left, and for the next ones. In this
    # order: with statements that work, Vault itself removes the one that is left, sooner or later.
    with closing(checker.engine.postgres.admin()) as admin:
        for statement in CORRECTED:
            admin.execute(statement.replace("{{name}}", left).encode())
    assert roles_of(checker.engine, role) == []
    checker.engine.create_role(role, grants=grants, revocation_statements=CORRECTED)
    assert checker.run(checker.url(role, checker.login(role))) == {}
    assert roles_of(checker.engine, role) == []


def test_the_corrected_statements_do_without_a_superuser(
    postgres: PostgresServer, unique: Callable[[str], str]
) -> None:
    manager, name, table = unique("manager"), unique("made"), unique("owned")
    password = f"Pw-{manager}-x9Y"
    with closing(postgres.admin()) as admin:
        admin.execute(f"CREATE ROLE {manager} LOGIN CREATEROLE PASSWORD '{password}'".encode())
        with closing(postgres.login(manager, password)) as vaults_own:
            vaults_own.execute(f"CREATE ROLE {name} LOGIN".encode())
            for what in ("CREATE ON SCHEMA public", "CONNECT ON DATABASE postgres"):
                admin.execute(f"GRANT {what} TO {manager} WITH GRANT OPTION".encode())
                vaults_own.execute(f"GRANT {what} TO {name}".encode())
            admin.execute(f"SET ROLE {name}; CREATE TABLE {table} (x int); RESET ROLE".encode())
            with vaults_own.transaction():
                for statement in CORRECTED:
                    vaults_own.execute(statement.replace("{{name}}", name).encode())
        assert postgres.roles(name) == []
        admin.execute(f"DROP OWNED BY {manager}; DROP ROLE {manager}".encode())


def test_renew_statements_that_forget_valid_until(
    checker: Checker, unique: Callable[[str], str]
) -> None:
    role = unique("check")
    checker.engine.create_role(role, renew_statements=["SELECT 1"])
    bad = checker.run(checker.url(role, checker.login(role)))
    assert "VALID UNTIL did not move" in bad["renewal"][0]
    assert "do not move VALID UNTIL" in bad["role"][0]
    assert checker.status == 2


def test_a_token_shorter_than_the_lease(checker: Checker, good: str) -> None:
    how = checker.login(good, token_ttl="10m", token_max_ttl="10m")
    bad = checker.run(checker.url(good, how))
    assert list(bad) == ["token"]
    assert "before the lease of 3600 s" in bad["token"][0]
    assert "token_period" in bad["token"][0]
    assert checker.status == 1


def test_the_wrong_database(checker: Checker, good: str) -> None:
    bad = checker.run(checker.url(good, checker.login(good)), dbname="elsewhere")
    assert list(bad) == ["connect"]
    assert 'database "elsewhere" does not exist' in bad["connect"][0]
    assert roles_of(checker.engine, good) == []


def test_a_role_with_too_much_power(checker: Checker, unique: Callable[[str], str]) -> None:
    role = unique("check")
    checker.engine.create_role(role, grants=['ALTER ROLE "{{name}}" SUPERUSER'])
    bad = checker.run(checker.url(role, checker.login(role)))
    assert "superuser" in bad["rights"][0]


def test_a_static_role(checker: Checker, unique: Callable[[str], str]) -> None:
    role, username = unique("static"), unique("static_user")
    with closing(checker.engine.postgres.admin()) as admin:
        admin.execute(f"CREATE ROLE {username} LOGIN IN ROLE pg_read_all_data".encode())
    checker.engine.create_static_role(role, username, rotation_period="1h")
    rules = {f"database/static-creds/{role}": ["read"]}
    url = checker.url(role, checker.login(role, rules)).replace("vault:", "vault-static:", 1)
    assert checker.run(url, "--dry-run") == {}  # to read a password mints nothing
    assert checker.status == 0
    assert checker.levels()["credentials"] == "ok"
    assert {"renewal", "revocation", "role"}.isdisjoint(checker.levels())
    bad = checker.run(url.replace(role, "nobody"))
    assert 'path "database/static-creds/nobody"' in bad["policy"][0]


# --- a file ------------------------------------------------------------------------------------


def test_a_file(checker: Checker, good: str, tmp_path: Path, canary: Canary) -> None:
    canary.allow_secret_file(tmp_path)
    data = checker.engine.read(good).data
    path = tmp_path / "db-creds.txt"
    path.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD={data['password']}")
    path.chmod(0o640)
    assert checker.run(f"file://{path}") == {}
    assert set(checker.levels()) == {"url", "file", "credentials", "connect", "rights", "expiry"}

    path.chmod(0o644)
    bad = checker.run(f"file://{path}")
    assert list(bad) == ["file"]
    assert "0644 lets everybody read it" in bad["file"][0]

    path.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD=wrong")
    assert "password authentication failed" in checker.run(f"file://{path}")["connect"][0]

    path.write_text("DB_USERNAME=<no value>\nDB_PASSWORD=x")
    assert "<no value>" in checker.run(f"file://{path}")["file"][0]

    path.unlink()
    assert "not there (yet)" in checker.run(f"file://{path}")["file"][0]
    checker.engine.admin.revoke_prefix(f"database/creds/{good}")
