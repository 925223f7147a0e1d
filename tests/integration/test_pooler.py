"""Pools behind a PgBouncer, which keeps connections of its own and takes no startup option."""

from __future__ import annotations

import re
import time
from configparser import ConfigParser
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from minting import PATIENCE
from pooler import POOLER, pgbouncer, pgbouncer_version
from psycopg_pool import PoolClosed
from twins import rotate_ten_times, user_of

from ephemeral_creds import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twins import Setup

    from ephemeral_creds.testing import PostgresServer


PAGE = Path(__file__).parents[2] / "docs/how-to/pgbouncer.md"
PLACES = ("listen_addr", "auth_file", "auth_user")


@pytest.fixture
def owner(setup: Setup, unique: Callable[[str], str]) -> Iterator[str]:
    """A role that stays, and that whatever the provider mints is a member of."""
    with setup.provider.owner(unique("owner")) as name:
        setup.provider.grants = [name]
        yield name


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("named", [False, True], ids=["role alone", "with session_role"])
def test_a_role_that_is_set_at_each_login_holds(
    setup: Setup, postgres: PostgresServer, owner: str, mode: str, named: bool
) -> None:
    """Whichever connection of the pooler's a query goes to, and through all rotations."""
    setup.provider.settings = {"role": owner}
    ignored = {"ignore_startup_parameters": "options"} if named else {}
    # Two connections of the pooler's for four clients: none keeps one to itself.
    with pgbouncer(postgres, pool_mode=mode, default_pool_size="2", **ignored) as conninfo:
        pool = setup.pool(
            conninfo=conninfo,
            min_size=4 if mode == "transaction" else 2,
            session_role=owner if named else None,
            kwargs={"prepare_threshold": None},
        )
        for generation in (1, 2, 3):
            for _ in range(8):
                with pool.connection(PATIENCE) as connection:
                    row = connection.execute("SELECT session_user, current_user").fetchone()
                assert row == (setup.role(generation), owner)
            if generation < 3:
                setup.rotate(generation + 1)
                setup.revoked(generation)
        pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("null", [False, True], ids=["pool", "null pool"])
@pytest.mark.parametrize("prepared", [False, True], ids=["", "prepared statements"])
def test_ten_rotations_in_transaction_mode_fail_nothing(
    setup: Setup, postgres: PostgresServer, owner: str, null: bool, prepared: bool
) -> None:
    """Two sessions for six clients; those of an old role are ended when it is dropped."""
    settings = {"pool_mode": "transaction", "default_pool_size": "2"}
    if prepared:
        if pgbouncer_version() < (1, 22) or psycopg.pq.version() < 170000:
            pytest.skip("prepared statements need PgBouncer 1.22 and libpq 17")
        settings["max_prepared_statements"] = "100"
    setup.provider.settings = {"role": owner}
    setup.provider.end_sessions = True
    with pgbouncer(postgres, **settings) as conninfo:
        pool = setup.pool(
            null=null,
            conninfo=conninfo,
            max_size=4,
            timeout=PATIENCE,
            kwargs={"prepare_threshold": 0 if prepared else None},
        )
        rotate_ten_times(setup, pool, workers=6)
        with pool.connection() as connection:
            row = connection.execute("SELECT session_user, current_user").fetchone()
        assert row == (setup.role(11), owner)
        pool.close()
    assert setup.provider.roles() == []


@pytest.mark.parametrize("statement", ["RESET ROLE", "DISCARD ALL"])
def test_it_is_where_a_reset_goes_back_to(
    setup: Setup, postgres: PostgresServer, owner: str, statement: str
) -> None:
    """PgBouncer itself sends DISCARD ALL between two clients."""
    setup.provider.settings = {"role": owner}
    with pgbouncer(postgres) as conninfo:
        pool = setup.pool(conninfo=conninfo, min_size=1, kwargs={"autocommit": True})
        with pool.connection() as connection:
            connection.execute("SET ROLE NONE")
            assert user_of(connection) == setup.role(1)
            connection.execute(statement)
            assert user_of(connection) == owner
        pool.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "takes no startup parameter 'options' .*unsupported startup parameter"),
        ({"ignore_startup_parameters": "options"}, "seems to drop the startup parameter"),
    ],
    ids=["refused", "dropped"],
)
def test_a_session_role_that_does_not_get_through_is_reported_at_once(
    setup: Setup, postgres: PostgresServer, owner: str, settings: dict[str, str], said: str
) -> None:
    begun = time.monotonic()
    with pgbouncer(postgres, **settings) as conninfo:
        pool = setup.pool(conninfo=conninfo, min_size=2, session_role=owner, wait=False)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=said) as caught:
                pool.getconn(PATIENCE)
            assert f"ALTER ROLE \"{{{{name}}}}\" SET role = '{owner}'" in str(caught.value)
            assert f"session_role='{owner}'" in str(caught.value)
        with pytest.raises(ConfigurationError, match=said):
            pool.wait(PATIENCE)
        with pytest.raises(PoolClosed):
            pool.wait(PATIENCE)
        with pytest.raises(ConfigurationError, match=said):
            setup.pool(conninfo=conninfo, min_size=2, session_role=owner)
        # Other credentials would not help, and none were asked for.
        assert setup.provider.calls.count("fetch") == 2
    assert time.monotonic() - begun < PATIENCE


def test_the_configuration_in_the_documentation(setup: Setup, postgres: PostgresServer) -> None:
    """As it stands, but for addresses and names: PgBouncer takes no comment behind a value."""
    text = PAGE.read_text()
    ini, statements = (
        re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
        for language in ("ini", "sql")
    )
    page = ConfigParser(comment_prefixes=";", interpolation=None)
    page.read_string(ini)
    upstream = page["databases"]["mydb"].replace("host=db dbname=mydb", "")
    settings = {k: v for k, v in page["pgbouncer"].items() if k not in PLACES}
    with (
        pgbouncer(postgres, upstream=upstream, **settings) as conninfo,
        closing(postgres.admin()) as admin,
        ExitStack() as stack,
    ):
        admin.execute(statements.replace("TO pgbouncer", f"TO {POOLER}").encode())
        stack.callback(admin.execute, "DROP FUNCTION public.pgbouncer_user")
        admin.execute(f"ALTER ROLE {POOLER} NOSUPERUSER".encode())
        pool = setup.pool(conninfo=conninfo, min_size=1)
        setup.rotate(2)
        setup.revoked(1)
        with pool.connection(PATIENCE) as connection:
            assert user_of(connection) == setup.role(2)
        setup.provider.alter(2, "VALID UNTIL '2001-01-01'")
        password = f"minted-password-{setup.role(2)}-2"
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(conninfo, user=setup.role(2), password=password)
        pool.close()
