"""Sessions that act as a role that stays, while the roles they log in as come and go."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from minting import BRIEF, PATIENCE
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from twins import EAGER, AsyncTwin, user_of, wait_until

from ephemeral_creds import ConfigurationError, LoginRefused, RotationPolicy, ServerRefused
from ephemeral_creds.events import LoginRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twins import Setup

    from ephemeral_creds.testing import PostgresServer

AWKWARD = ["plain", "Upper", "with space", 'double"quote', "single'quote", "back\\slash", " x=y "]


@pytest.fixture
def owner(setup: Setup, unique: Callable[[str], str]) -> Iterator[str]:
    """A role that owns a schema, and that all that the provider mints are members of."""
    with owner_of_schema(setup, unique("owner")) as name:
        yield name


@contextmanager
def owner_of_schema(setup: Setup, name: str) -> Iterator[str]:
    with setup.provider.owner(name), closing(setup.server.admin()) as admin:
        role = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role))
        setup.provider.grants = [name]
        yield name


def create_table(connection: Any, schema: str, name: str) -> None:
    connection.execute(
        sql.SQL("CREATE TABLE {}.{} ()").format(*map(sql.Identifier, (schema, name)))
    )
    connection.commit()


def owners(postgres: PostgresServer, schema: str) -> list[tuple[str, str]]:
    with closing(postgres.admin()) as admin:
        return admin.execute(
            "SELECT tablename::text, tableowner::text FROM pg_tables WHERE schemaname = %s"
            " ORDER BY 1",
            [schema],
        ).fetchall()


class TestActsAs:
    def test_every_connection_of_every_generation(self, setup: Setup, owner: str) -> None:
        pool = setup.pool(min_size=2, max_size=4, session_role=owner)
        for generation in (1, 2):
            connections = [pool.getconn() for _ in range(4)]
            assert {user_of(c) for c in connections} == {owner}
            logged_in_as = {c.execute("SELECT session_user").fetchone()[0] for c in connections}
            assert logged_in_as == {setup.role(generation)}
            for connection in connections:
                connection.rollback()
                pool.putconn(connection)
            if generation == 1:
                setup.rotate(2)
                setup.revoked(1)

    def test_tables_belong_to_it_and_outlive_the_roles_that_made_them(
        self, setup: Setup, postgres: PostgresServer, owner: str
    ) -> None:
        pool = setup.pool(min_size=1, session_role=owner)
        for generation in (1, 2, 3):
            with pool.connection() as connection:
                create_table(connection, owner, f"of_{generation}")
            setup.rotate(generation + 1)
            setup.revoked(generation)
            # PostgreSQL refuses to drop a role that owns something.
            assert setup.provider.roles() == [setup.role(generation + 1)]
        assert owners(postgres, owner) == [(f"of_{n}", owner) for n in (1, 2, 3)]

    def test_without_it_the_lease_of_a_table_cannot_be_revoked(
        self, setup: Setup, postgres: PostgresServer, owner: str
    ) -> None:
        """What it is good for."""
        pool = setup.pool(min_size=1)
        with pool.connection() as connection:
            create_table(connection, owner, "orphan")
        assert owners(postgres, owner) == [("orphan", setup.role(1))]
        with (
            closing(postgres.admin()) as admin,
            pytest.raises(psycopg.errors.Error, match="depend"),
        ):
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(setup.role(1))))
        with closing(postgres.admin()) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(setup.role(1))))

    @pytest.mark.parametrize("statement", ["RESET ROLE", "DISCARD ALL"])
    def test_it_is_where_a_reset_goes_back_to(
        self, setup: Setup, owner: str, statement: str
    ) -> None:
        pool = setup.pool(min_size=1, session_role=owner, kwargs={"autocommit": True})
        with pool.connection() as connection:
            connection.execute("SET ROLE NONE")
            assert user_of(connection) == setup.role(1)
            connection.execute(statement)
            assert user_of(connection) == owner

    def test_reset_all_leaves_it_alone(self, setup: Setup, owner: str) -> None:
        """PostgreSQL exempts the role from it."""
        pool = setup.pool(min_size=1, session_role=owner)
        with pool.connection() as connection:
            connection.execute("RESET ALL")
            assert user_of(connection) == owner

    @pytest.mark.parametrize("name", AWKWARD)
    def test_any_name_that_postgresql_allows(
        self,
        setup: Setup,
        unique: Callable[[str], str],
        name: str,
    ) -> None:
        with owner_of_schema(setup, f"{name}{unique('role')}{name}") as role:
            pool = setup.pool(min_size=1, session_role=role)
            with pool.connection() as connection:
                assert user_of(connection) == role
            pool.close()

    @pytest.mark.parametrize(
        "place", ["kwargs", "callable kwargs", "conninfo", "callable conninfo"]
    )
    def test_the_users_own_options_hold_too(self, setup: Setup, owner: str, place: str) -> None:
        options = r"-c work_mem=12345kB -c application_name=with\ space"
        given: dict[str, Any] = {}
        conninfo = f"{setup.server.conninfo()} options='{options.replace(chr(92), chr(92) * 2)}'"
        if "kwargs" in place:
            given["kwargs"] = {"options": options}
        else:
            given["conninfo"] = conninfo
        if "callable" in place:
            given = {name: (lambda value=value: value) for name, value in given.items()}
        pool = setup.pool(min_size=1, session_role=owner, **given)
        with pool.connection() as connection:
            assert user_of(connection) == owner
            for name, value in (("work_mem", "12345kB"), ("application_name", "with space")):
                row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
                assert row == (value,)

    @pytest.mark.parametrize(
        "place", ["PGOPTIONS", "PGSERVICE", "service in conninfo", "service in kwargs"]
    )
    def test_options_that_libpq_finds_by_itself_hold_too(
        self,
        setup: Setup,
        owner: str,
        place: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = r"-c work_mem=12345kB -c application_name=with\ space"
        settings = conninfo_to_dict(setup.server.conninfo()) | {"options": options}
        service = tmp_path / "pg_service.conf"
        service.write_text(
            "[app]\n" + "".join(f"{name}={value}\n" for name, value in settings.items())
        )
        monkeypatch.setenv("PGSERVICEFILE", str(service))
        given: dict[str, Any] = {"conninfo": ""}
        match place:
            case "PGOPTIONS":
                monkeypatch.setenv("PGOPTIONS", options)
                given = {}
            case "PGSERVICE":
                monkeypatch.setenv("PGSERVICE", "app")
            case "service in conninfo":
                given = {"conninfo": "service=app"}
            case _:
                given["kwargs"] = {"service": "app"}
        pool = setup.pool(min_size=1, session_role=owner, **given)
        with pool.connection() as connection:
            assert user_of(connection) == owner
            for name, value in (("work_mem", "12345kB"), ("application_name", "with space")):
                row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
                assert row == (value,)

    def test_in_a_database_without_an_encoding(self, setup: Setup, owner: str) -> None:
        name = sql.Identifier(owner)
        with closing(setup.server.admin()) as admin:
            admin.execute(
                sql.SQL(
                    "CREATE DATABASE {} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
                ).format(name)
            )
            pool = setup.pool(min_size=1, session_role=owner, kwargs={"dbname": owner})
            pool.verify_connections()
            with pool.connection() as connection:
                row = connection.execute("SELECT current_user").fetchone()
            pool.close()
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        assert row == (owner.encode(),)


class TestUsersFunctions:
    def test_configure_check_and_reset_run_as_it(self, setup: Setup, owner: str) -> None:
        seen: dict[str, set[bytes | None]] = {"configure": set(), "check": set(), "reset": set()}

        def note(name: str) -> Callable[[Any], None]:
            def call(connection: Any) -> None:
                # Through libpq, which is the same for both kinds of connection.
                result = connection.pgconn.exec_(b"SELECT current_user")
                seen[name].add(result.get_value(0, 0))

            return call

        pool = setup.pool(min_size=1, session_role=owner, **{name: note(name) for name in seen})
        with pool.connection():
            pass
        setup.rotate(2)
        setup.revoked(1)
        with pool.connection():
            pass
        pool.close()
        assert seen == {name: {owner.encode()} for name in seen}

    def test_a_users_own_role_is_undone_by_a_reset(self, setup: Setup, owner: str) -> None:
        """DISCARD ALL in ``reset=`` is what careful services have."""

        def reset(connection: Any) -> None:
            connection.pgconn.exec_(b"DISCARD ALL")

        pool = setup.pool(min_size=1, max_size=1, session_role=owner, reset=reset)
        for _ in range(3):
            with pool.connection(PATIENCE) as connection:
                assert user_of(connection) == owner
                connection.execute("SET SESSION ROLE NONE")
                assert user_of(connection) == setup.role(1)
                connection.commit()


class TestFailures:
    def test_a_role_that_was_not_granted_is_named(self, setup: Setup, owner: str) -> None:
        setup.provider.grants = []
        pool = setup.pool(min_size=1, session_role=owner, wait=False)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(LoginRefused, match=f"permission denied .*{owner}") as caught:
            pool.wait(BRIEF)
        assert f"GRANT {owner} TO" in str(caught.value)

    def test_one_that_does_not_exist_is_named(self, setup: Setup) -> None:
        pool = setup.pool(min_size=1, session_role="nobody-at-all", wait=False)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(ServerRefused, match="check that there is a role nobody-at-all"):
            pool.wait(BRIEF)

    def test_a_new_generation_that_may_not_act_as_it_is_never_used(
        self, setup: Setup, owner: str
    ) -> None:
        pool = setup.pool(min_size=1, session_role=owner)
        setup.provider.grants = []
        setup.provider.change()
        setup.events.wait_for(LoginRejected, EAGER.tuning.proof_attempts)
        with pool.connection() as connection:
            assert user_of(connection) == owner
            assert connection.execute("SELECT session_user").fetchone() == (setup.role(1),)

    def test_a_class_of_the_users_that_fails_loses_nothing(self, setup: Setup, owner: str) -> None:
        base: Any = (
            psycopg.AsyncConnection if isinstance(setup.twin, AsyncTwin) else psycopg.Connection
        )
        failed = threading.Event()

        class Awkward(base):  # type: ignore[misc]
            def cursor(self, *args: Any, **kwargs: Any) -> Any:
                if not failed.is_set():
                    failed.set()
                    raise RuntimeError("not yet")
                return super().cursor(*args, **kwargs)

        pool = setup.pool(
            min_size=1,
            session_role=owner,
            connection_class=Awkward,
            rotation=RotationPolicy(retry_initial=0.01),
        )
        assert failed.is_set()
        assert pool.status().connections == {1: 1}
        setup.provider.wait_for_sessions({1: 1})

    def test_an_option_that_a_proxy_drops_is_noticed(self, setup: Setup, owner: str) -> None:
        """Some poolers do: better no connection than one that acts as another role."""
        pool = setup.pool(min_size=1, session_role=owner, wait=False, connection_class=deaf(setup))
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(ConfigurationError, match="drop the startup parameter") as caught:
            pool.wait(BRIEF)
        assert owner in str(caught.value)


def deaf(setup: Setup) -> Any:
    """Return a connection class that loses the option on its way."""
    if setup.twin.name == "sync":

        class Deaf(psycopg.Connection[Any]):
            @classmethod
            def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
                return super().connect(conninfo, **kwargs | {"options": ""})

        return Deaf

    class AsyncDeaf(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            return await super().connect(conninfo, **kwargs | {"options": ""})

    return AsyncDeaf
