"""``ephemeral-creds check`` on real servers: each set-up that is broken names its own cause."""

from __future__ import annotations

import os
from contextlib import closing
from threading import Timer
from typing import TYPE_CHECKING

import pytest
from check_command import Checker, roles_of
from pooler import pgbouncer

from ephemeral_creds.check.revocation import revocation_statements
from ephemeral_creds.cli import main
from ephemeral_creds.testing import CREATE_ROLE, DatabaseEngine, find_vault
from ephemeral_creds.testing._binaries import vault_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds.testing import PostgresServer, VaultServer

pytestmark = pytest.mark.slow

CORRECTED = revocation_statements(owner=None)


@pytest.fixture
def checker(
    engine: DatabaseEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Checker:
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


# --- nothing wrong -----------------------------------------------------------------------------


def test_a_good_set_up(checker: Checker, good: str) -> None:
    assert checker.run(checker.url(good, checker.login(good))) == {}
    assert checker.status == 0
    assert set(checker.levels()) == {
        "url", "address", "tls", "seal", "clock", "login", "policy", "role", "mint", "connect",
        "encryption", "rights", "expiry", "renewal", "revocation",
    }  # fmt: skip
    assert checker.texts("address").endswith(f"answers: {vault_version(find_vault())}")
    assert checker.engine.mints(good) == 1
    assert roles_of(checker.engine, good) == []


def test_a_dry_run_mints_nothing(checker: Checker, good: str) -> None:
    assert checker.run(checker.url(good, checker.login(good)), "--dry-run") == {}
    assert checker.levels()["mint"] == "skipped"
    assert not checker.complete
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
    assert checker.status == 3


def test_a_url_that_is_wrong(checker: Checker) -> None:
    bad = checker.run("vault://app?auth=magic")
    assert "auth= in the URL vault://app" in bad["url"][0]
    assert checker.status == 3


def test_a_sealed_vault(
    own_vault: VaultServer,
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
    vault: VaultServer,
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


def test_a_role_without_a_free_connection(checker: Checker, unique: Callable[[str], str]) -> None:
    statement = CREATE_ROLE.replace("WITH LOGIN", "WITH LOGIN CONNECTION LIMIT 0")
    checker.engine.create_role(role := unique("check"), creation_statements=[statement])
    (said,) = checker.run(checker.url(role, checker.login(role)))["connect"]
    assert "too many connections for role" in said
    assert "raise that limit" in said
    assert "host and port" not in said


def test_creation_statements_without_an_end(checker: Checker, unique: Callable[[str], str]) -> None:
    statement = """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}'"""
    checker.engine.create_role(role := unique("check"), creation_statements=[statement])
    bad = checker.run(checker.url(role, checker.login(role)))
    assert "no VALID UNTIL" in bad["expiry"][0]


def test_a_lease_that_is_at_its_max_ttl_from_the_start(
    checker: Checker, unique: Callable[[str], str]
) -> None:
    grants = ['GRANT pg_read_all_data TO "{{name}}"']
    checker.engine.create_role(
        role := unique("check"), default_ttl="1h", max_ttl="1h", grants=grants
    )
    assert checker.run(checker.url(role, checker.login(role))) == {}
    assert "max_ttl" in checker.texts("renewal")


def test_a_revocation_that_ends_sessions(checker: Checker, unique: Callable[[str], str]) -> None:
    role = unique("check")
    grants = ['GRANT pg_read_all_data TO "{{name}}"']
    checker.engine.create_role(role, grants=grants, revocation_statements=CORRECTED)
    assert checker.run(checker.url(role, checker.login(role))) == {}
    assert "no sessions and no login any more" in checker.texts("revocation")
    assert roles_of(checker.engine, role) == []


END_SESSIONS = CORRECTED[2]


@pytest.mark.parametrize(
    ("statements", "left"),
    [
        ([END_SESSIONS], "with 1 grants and 0 objects"),
        ([END_SESSIONS, 'DROP ROLE "{{name}}";'], "with 1 grants and 0 objects"),
        (['ALTER ROLE "{{name}}" NOLOGIN;', END_SESSIONS], "without a login"),
    ],
    ids=["and no more", "and then fails", "and drops nothing"],
)
def test_a_revocation_that_ends_sessions_and_leaves_the_role_behind(
    checker: Checker,
    unique: Callable[[str], str],
    app: str,
    statements: list[str],
    left: str,
) -> None:
    role = unique("check")
    grant = f'GRANT SELECT ON t_{app} TO "{{{{name}}}}"'
    checker.engine.create_role(role, grants=[grant], revocation_statements=statements)
    bad = checker.run(checker.url(role, checker.login(role)))
    assert list(bad) == ["revocation"]
    assert f"is left behind, {left}" in bad["revocation"][0]
    (name,) = roles_of(checker.engine, role)
    with closing(checker.engine.postgres.admin()) as admin:
        # Vault tries again too, and may be first with the last step.
        for statement in CORRECTED[1:-1]:
            admin.execute(statement.replace("{{name}}", name).encode())
        admin.execute(f'DROP ROLE IF EXISTS "{name}"'.encode())


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
    assert "belong to a permanent role" in text
    assert checker.status == 3

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
    assert checker.status == 3


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


def test_an_owner_that_sessions_act_as(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    role = unique("check")
    with closing(checker.engine.postgres.admin()) as admin:
        admin.execute(f"CREATE SCHEMA s_{app} AUTHORIZATION {app}".encode())
    checker.engine.create_role(
        role,
        grants=[f'GRANT {app} TO "{{{{name}}}}"'],
        revocation_statements=revocation_statements(app),
    )
    url = checker.url(role, checker.login(role))
    bad = checker.run(url)
    assert list(bad) == ["rights"]
    assert f"may create objects in s_{app}" in bad["rights"][0]
    assert f"--session-role {app}" in bad["rights"][0]

    assert checker.run(url, "--session-role", app) == {}
    assert f"acting as {app}" in checker.texts("rights")

    # The same where PostgreSQL has each login act as it.
    checker.engine.create_role(
        role,
        grants=[
            f'GRANT {app} TO "{{{{name}}}}"',
            f"ALTER ROLE \"{{{{name}}}}\" SET role = '{app}'",
        ],
        revocation_statements=revocation_statements(app),
    )
    assert checker.run(url) == {}
    assert f"acting as {app}" in checker.texts("rights")
    with closing(checker.engine.postgres.admin()) as admin:
        admin.execute(f"DROP SCHEMA s_{app}".encode())


def test_a_session_role_that_the_role_is_no_member_of(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    checker.engine.create_role(role := unique("check"))
    bad = checker.run(checker.url(role, checker.login(role)), "--session-role", app)
    assert list(bad) == ["connect"]
    assert f'GRANT {app} TO "{{{{name}}}}"' in bad["connect"][0]
    bad = checker.run(checker.url(role, checker.login(role)), "--session-role", "nobody")
    assert "check the name of the session role" in bad["connect"][0]
    assert roles_of(checker.engine, role) == []


def test_settings_that_a_session_role_does_not_bring(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    role = unique("check")
    checker.engine.create_role(
        role,
        grants=[
            f'GRANT {app} TO "{{{{name}}}}"',
            "ALTER ROLE \"{{name}}\" SET lock_timeout = '2s'",
        ],
    )
    with closing(checker.engine.postgres.admin()) as admin:
        for place in ("", "IN DATABASE postgres "):
            admin.execute(f"ALTER ROLE {app} {place}SET statement_timeout = '5s'".encode())
        admin.execute(f"ALTER ROLE {app} IN DATABASE postgres SET search_path = app".encode())
        admin.execute(f"ALTER ROLE {app} IN DATABASE template1 SET work_mem = '1MB'".encode())
        admin.execute(f"ALTER ROLE {app} SET lock_timeout = '1s'".encode())
        admin.execute(f"ALTER ROLE {app} SET my.setting = '1'".encode())
    url = checker.url(role, checker.login(role))
    bad = checker.run(url, "--session-role", app)
    assert list(bad) == ["settings"]
    assert f"{app} has settings that do not apply here: my.setting, search_path, " in (
        checker.texts("settings")
    )
    assert ", statement_timeout. " in checker.texts("settings")
    assert 'ALTER ROLE "{{name}}" SET my.setting = …' in bad["settings"][0]
    # Where they are said otherwise, they are not lost; nor does a user's own session miss them.
    said = "options='-c statement_timeout=9s -c search_path=x -c my.setting=2'"
    conninfo = f"{checker.engine.postgres.conninfo()} {said}"
    assert checker.run(url, "--session-role", app, "--conninfo", conninfo) == {}
    assert checker.run(url) == {}


def test_a_pooler_that_logs_in_as_another_user(
    checker: Checker, good: str, app: str, postgres: PostgresServer
) -> None:
    owner = f"owner_of_{app}"
    with closing(postgres.admin()) as admin:
        admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'password-of-the-pooler'".encode())
        admin.execute(f"GRANT {app} TO {owner}".encode())
        url = checker.url(good, checker.login(good))
        with pgbouncer(
            postgres, upstream=f"user={owner} password=password-of-the-pooler"
        ) as conninfo:
            bad = checker.run(url, "--conninfo", conninfo)
        assert list(bad) == ["connect"]
        assert f"knows the session as '{owner}', not as 'v-" in bad["connect"][0]
        assert "neither the end of the lease" in bad["connect"][0]
        with pgbouncer(postgres) as conninfo:
            assert checker.run(url, "--conninfo", conninfo) == {}
        admin.execute(f"DROP ROLE {owner}".encode())


def test_a_pooler_that_refuses_the_session_role(
    checker: Checker, good: str, app: str, postgres: PostgresServer
) -> None:
    url = checker.url(good, checker.login(good))
    with pgbouncer(postgres) as conninfo:
        bad = checker.run(url, "--session-role", app, "--conninfo", conninfo)
    assert list(bad) == ["connect"]
    remedy = f"ALTER ROLE \"{{{{name}}}}\" SET role = '{app}'"
    assert remedy in bad["connect"][0]
    with pgbouncer(postgres, ignore_startup_parameters="options") as conninfo:
        bad = checker.run(url, "--session-role", app, "--conninfo", conninfo)
    assert remedy in bad["rights"][0]


def test_rights_that_are_not_inherited(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    role = unique("check")
    creation = CREATE_ROLE.replace("WITH LOGIN", "WITH LOGIN NOINHERIT")
    checker.engine.create_role(
        role, creation_statements=[creation], grants=[f'GRANT {app} TO "{{{{name}}}}"']
    )
    url = checker.url(role, checker.login(role))
    bad = checker.run(url)
    assert f"does not inherit what {app} may" in bad["rights"][0]
    assert f"--session-role {app}" in bad["rights"][0]
    assert checker.run(url, "--session-role", app) == {}


def test_a_right_on_one_column_is_a_right(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    role = unique("check")
    checker.engine.create_role(role, grants=[f'GRANT SELECT (x) ON t_{app} TO "{{{{name}}}}"'])
    assert checker.run(checker.url(role, checker.login(role))) == {}
    assert "SELECT 1" in checker.texts("rights")


def test_a_sequence_that_an_insert_needs(
    checker: Checker, unique: Callable[[str], str], app: str
) -> None:
    role = unique("check")
    with closing(checker.engine.postgres.admin()) as admin:
        admin.execute(f"ALTER TABLE t_{app} ADD id serial".encode())
        admin.execute(f"ALTER TABLE t_{app} ADD n int GENERATED BY DEFAULT AS IDENTITY".encode())
    checker.engine.create_role(role, grants=[f'GRANT {app} TO "{{{{name}}}}"'])
    url = checker.url(role, checker.login(role))
    (text,) = checker.run(url)["rights"]
    assert f"may not use: t_{app}_id_seq ->" in text
    with closing(checker.engine.postgres.admin()) as admin:
        admin.execute(f"GRANT USAGE ON SEQUENCE t_{app}_id_seq TO {app}".encode())
    assert checker.run(url) == {}


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
    assert {"renewal", "revocation"}.isdisjoint(checker.levels())
    assert checker.levels()["role"] == "skipped"
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
    assert set(checker.levels()) == {
        "url", "file", "credentials", "connect", "encryption", "rights", "expiry",
    }  # fmt: skip

    # No other user can reach it in a folder of ours.
    path.chmod(0o644)
    assert checker.run(f"file://{path}") == {}
    tmp_path.chmod(0o711)
    bad = checker.run(f"file://{path}")
    assert list(bad) == ["file"]
    assert "readable by every user (mode 0644)" in bad["file"][0]
    assert checker.run(f"file://{path}?world_readable=allow") == {}
    bad = checker.run(f"file://{path}?world_readable=refuse")
    assert bad["file"][0].startswith("fail: ")
    assert bad["file"][0].endswith("refused by FilePolicy.world_readable -> ")
    path.chmod(0o600)

    path.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD=wrong")
    assert "password authentication failed" in checker.run(f"file://{path}")["connect"][0]

    path.write_text("DB_USERNAME=<no value>\nDB_PASSWORD=x")
    bad = checker.run(f"file://{path}")
    assert "<no value>" in bad["file"][0]
    assert "Correct its name" in bad["file"][0]

    path.unlink()
    os.mkfifo(path)
    bad = checker.run(f"file://{path}", "--wait", "60")  # which is not spent
    assert "is a FIFO, not a regular file" in bad["file"][0]
    assert "-> give the path of the file that the sid" in bad["file"][0]

    path.unlink()
    assert "does not exist (yet)" in checker.run(f"file://{path}")["file"][0]
    checker.engine.admin.revoke_prefix(f"database/creds/{good}")


def test_a_directory(checker: Checker, good: str, tmp_path: Path, canary: Canary) -> None:
    canary.allow_secret_file(tmp_path)
    data = checker.engine.read(good).data
    tmp_path.chmod(0o755)
    for key in ("username", "password"):
        (tmp_path / key).write_text(data[key])
        (tmp_path / key).chmod(0o400)
    assert checker.run(f"file://{tmp_path}") == {}
    assert checker.status == 0

    (tmp_path / "password").chmod(0o444)
    tmp_path.chmod(0o711)
    bad = checker.run(f"file://{tmp_path}")
    assert f"{tmp_path}/password is readable by every user" in bad["file"][0]
    checker.engine.admin.revoke_prefix(f"database/creds/{good}")


def test_a_file_that_comes_late(
    checker: Checker, good: str, tmp_path: Path, canary: Canary
) -> None:
    canary.allow_secret_file(tmp_path)
    data = checker.engine.read(good).data
    path = tmp_path / "db-creds.txt"

    def write() -> None:
        path.write_text(f"DB_USERNAME={data['username']}\nDB_PASSWORD={data['password']}")

    assert "does not exist (yet)" in checker.run(f"file://{path}", "--wait", "0.1")["file"][0]
    sidecar = Timer(0.2, write)
    sidecar.start()
    assert checker.run(f"file://{path}", "--wait", "60") == {}
    sidecar.join()
    assert "of 60" in checker.texts("wait")
    checker.engine.admin.revoke_prefix(f"database/creds/{good}")
