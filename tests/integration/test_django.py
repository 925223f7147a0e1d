"""Django's connections on a real PostgreSQL, with roles that come and go under them."""

from __future__ import annotations

import gc
import threading
import traceback
from collections import Counter
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Self

import pytest
from minting import BRIEF, PATIENCE, Events, RoleProvider
from psycopg import sql
from twins import EAGER, Worker, wait_until

from ephemeral_creds import CredentialKeeper, CredentialsExpired, ProviderUnavailable
from ephemeral_creds.events import CredentialsPublished, FetchFailed, LoginRejected
from ephemeral_creds.testing import ScriptedProvider, TickingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeral_creds import Event, Grant
    from ephemeral_creds.testing import PostgresServer

pytest.importorskip("django", reason="Django is not installed")

import django
from django.conf import settings
from django.db import OperationalError, ProgrammingError, connections, transaction
from django.test import override_settings

from ephemeral_creds.contrib.django import _logins
from ephemeral_creds.contrib.django._process import process

ENGINE = "ephemeral_creds.contrib.django"

if not settings.configured:
    settings.configure(DATABASES={"default": {"ENGINE": ENGINE}}, USE_TZ=True)
django.setup()


class Dropping(RoleProvider):
    """A revocation drops the role, unless that was done by hand."""

    def revoke(self, grant: Grant) -> None:
        ScriptedProvider.revoke(self, grant)
        self.drop(grant.credentials.username)

    def drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


class Ending(Dropping):
    """A revocation ends the sessions, too."""

    def drop(self, name: str) -> None:
        if name in self.roles():
            self._admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(name)))
        self._admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [name]
        )
        super().drop(name)


class Setup:
    """Makes aliases whose credentials come from a provider of the test's own."""

    def __init__(
        self, server: PostgresServer, prefix: str, stack: ExitStack, kind: type[Dropping]
    ) -> None:
        self.server = server
        self.provider = kind(server, prefix)
        self.events = Events()
        self.clock = TickingClock()
        self.provider._clock = self.clock
        self.made: list[CredentialKeeper] = []
        self._stack = stack
        stack.callback(self.provider.disconnect)

    def make_keeper(self) -> CredentialKeeper:
        keeper = CredentialKeeper(
            self.provider, refresh=EAGER, observers=[self.events], clock=self.clock
        )
        self.made.append(keeper)
        self._stack.callback(keeper.close)
        return keeper

    def alias(self, options: dict[str, Any] | None = None, **values: Any) -> str:
        """Make an alias, which this thread need not close."""
        alias = f"{self.provider.prefix}-{len(connections.settings)}"
        database = {
            "ENGINE": ENGINE,
            "NAME": "postgres",
            "HOST": self.server.host,
            "PORT": self.server.port,
            "OPTIONS": {"credentials": self.make_keeper} | (options or {}),
        } | values
        connections.settings |= connections.configure_settings({"default": {}, alias: database})
        self._stack.callback(self._remove, alias)
        return alias

    def _remove(self, alias: str) -> None:
        wrapper: Any = connections[alias]
        wrapper.close()
        wrapper.close_pool()
        del connections[alias], connections.settings[alias]

    def role(self, number: int) -> str:
        return f"{self.provider.prefix}_{number}"

    def rotate(self) -> None:
        keeper = self.made[0]
        keeper.refresh(PATIENCE)


@pytest.fixture(params=[Dropping, Ending], ids=["drop", "end sessions"])
def kind(request: pytest.FixtureRequest) -> type[Dropping]:
    found: type[Dropping] = request.param
    return found


@pytest.fixture
def plain(postgres: PostgresServer, unique: Callable[[str], str]) -> Iterator[Setup]:
    with ExitStack() as stack:
        stack.callback(process._begin)
        yield Setup(postgres, unique("django"), stack, Dropping)


@pytest.fixture
def setup(
    postgres: PostgresServer, unique: Callable[[str], str], kind: type[Dropping]
) -> Iterator[Setup]:
    with ExitStack() as stack:
        stack.callback(process._begin)
        yield Setup(postgres, unique("django"), stack, kind)


POOL = {"rotating_pool": {"min_size": 2, "max_size": 4, "timeout": PATIENCE}}
WAYS = pytest.mark.parametrize(
    ("options", "age"), [({}, 0), ({}, None), (POOL, 0)], ids=["connect", "keep", "pool"]
)


def user(alias: str) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT session_user::text")
        return str(cursor.fetchone()[0])


def error_after(setup: Setup, kind: type[Event], alias: str) -> pytest.ExceptionInfo[Exception]:
    """Return what a connect fails with that does not wait for long, once an event was seen.

    On a busy machine, the wait of the first may be over before that, and then it cannot say why.
    """
    with pytest.raises(OperationalError):
        user(alias)
    setup.events.wait_for(kind)
    with pytest.raises(OperationalError) as raised:
        user(alias)
    return raised


def between_requests(alias: str) -> None:
    connections[alias].close_if_unusable_or_obsolete()


class Load:
    """Threads that use an alias without a pause: as requests, as a command, in transactions."""

    def __init__(self, alias: str, workers: int = 6) -> None:
        self.failures: dict[int, list[str]] = {number: [] for number in range(workers)}
        self.operations = Counter(dict.fromkeys(range(workers), 0))
        self._alias = alias
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def goes_on(self) -> None:
        """Wait until each thread has succeeded some more times."""
        before = Counter(self.operations)
        wait_until(
            lambda: (
                min((self.operations - before).values(), default=0) > 2
                and len(self.operations - before) == len(self._threads)
            ),
            "operations",
            PATIENCE,
        )

    @property
    def failed(self) -> list[str]:
        return [failure for failures in self.failures.values() for failure in failures]

    def _work(self, number: int) -> None:
        connection = connections[self._alias]
        try:
            while not self._done.wait(0.005):
                try:
                    self._operation(number)
                except Exception as error:
                    self.failures[number].append(repr(error))
                else:
                    self.operations[number] += 1
        finally:
            connection.close()

    def _operation(self, number: int) -> None:
        if number % 3 == 0:
            with transaction.atomic(using=self._alias):
                user(self._alias)
                user(self._alias)
        else:
            user(self._alias)
        if number % 2 == 0:
            between_requests(self._alias)


@WAYS
def test_ten_rotations_under_load_cost_no_operation_and_each_lease_is_revoked(
    setup: Setup, options: dict[str, Any], age: int | None
) -> None:
    alias = setup.alias(options, CONN_MAX_AGE=age)
    with Load(alias) as load:
        load.goes_on()
        for _ in range(10):
            setup.rotate()
            load.goes_on()
        wait_until(lambda: setup.provider.roles() == [setup.role(11)], "revocations")
    assert load.failed == []
    assert load.operations.total() > 100
    assert len(setup.made) == 1


KEEPS = pytest.mark.parametrize(("options", "age"), [({}, None), (POOL, 0)], ids=["keep", "pool"])


def statement(alias: str, query: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def moves(alias: str, role: str) -> None:
    """Wait until `role` is used: a pool may lend an old connection until it has replaced it."""
    if "rotating_pool" in connections.settings[alias]["OPTIONS"]:
        wait_until(lambda: user(alias) == role)
    assert user(alias) == role


class TestWhenAConnectionIsReplaced:
    """At the next query, unless the caller would lose something."""

    @WAYS
    def test_by_the_next_query_of_a_command(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        assert user(alias) == plain.role(1)
        plain.rotate()
        moves(alias, plain.role(2))
        wait_until(lambda: plain.provider.live == {plain.role(2)}, "revocation")

    @KEEPS
    def test_not_in_a_transaction(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        with transaction.atomic(using=alias):
            user(alias)
            plain.rotate()
            assert user(alias) == plain.role(1)
        moves(alias, plain.role(2))

    @KEEPS
    def test_not_while_a_cursor_is_open(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        with connections[alias].chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            assert cursor.fetchone() == (1,)
            plain.rotate()
            assert user(alias) == plain.role(1)
            assert cursor.fetchone() == (2,)
        moves(alias, plain.role(2))

    @KEEPS
    @pytest.mark.parametrize(
        ("begin", "end"),
        [
            ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
            ("CREATE TEMPORARY TABLE x AS SELECT 1", "DROP TABLE x"),
            ("LISTEN x", "UNLISTEN x"),
        ],
    )
    def test_not_while_the_session_has_what_would_be_lost(
        self, plain: Setup, options: dict[str, Any], age: int | None, begin: str, end: str
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        wrapper: Any = connections[alias]
        with wrapper.cursor() as cursor:
            cursor.execute(begin)
        plain.rotate()
        assert user(alias) == plain.role(1)
        with wrapper.cursor() as cursor:
            cursor.execute(end)
        # It is not looked at for each query.
        wrapper._look_at = 0.0
        moves(alias, plain.role(2))

    @KEEPS
    def test_between_requests_whatever_it_has(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        statement(alias, "SELECT pg_advisory_lock(1)::text")
        plain.rotate()
        between_requests(alias)
        moves(alias, plain.role(2))

    @KEEPS
    def test_autocommit_stays_off(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        connections[alias].set_autocommit(False)
        user(alias)
        plain.rotate()
        assert user(alias) == plain.role(1)
        connections[alias].commit()
        moves(alias, plain.role(2))
        assert not connections[alias].get_autocommit()
        connections[alias].rollback()
        connections[alias].set_autocommit(True)

    def test_also_where_no_request_comes_any_more(self, plain: Setup) -> None:
        """A thread of a server may wait for hours for its next request."""
        alias = plain.alias(CONN_MAX_AGE=None)
        user(alias)
        between_requests(alias)
        plain.rotate()
        wait_until(lambda: plain.provider.live == {plain.role(2)}, "revocation")
        plain.provider.wait_for_sessions({})
        moves(alias, plain.role(2))

    def test_a_thread_that_ended_with_its_connection_open_keeps_no_lease(
        self, plain: Setup
    ) -> None:
        alias = plain.alias(CONN_MAX_AGE=None)

        def forget() -> None:
            user(alias)
            connections[alias].connection._pool = None  # or psycopg warns of it
            between_requests(alias)
            del connections[alias]

        Worker(forget).get()
        gc.collect()
        plain.rotate()
        wait_until(lambda: plain.provider.live == {plain.role(2)}, "revocation")


class TestWhenTheRoleIsDropped:
    """By hand, behind the keeper's back: what runs at that time may fail, and nothing else."""

    @WAYS
    def test_new_credentials_are_used(
        self, setup: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = setup.alias(options, CONN_MAX_AGE=age)
        user(alias)
        setup.provider.drop(setup.role(1))
        failures = 0
        for _ in range(3):
            try:
                assert user(alias) == setup.role(2)
            except (OperationalError, ProgrammingError):
                failures += 1
        assert failures <= 1

    @WAYS
    def test_under_load(self, setup: Setup, options: dict[str, Any], age: int | None) -> None:
        alias = setup.alias(options, CONN_MAX_AGE=age)
        with Load(alias) as load:
            load.goes_on()
            setup.provider.drop(setup.role(1))
            setup.events.wait_for(CredentialsPublished, 2)
            load.goes_on()
            running = load.failed
            load.goes_on()
        assert load.failed == running
        assert max(map(len, load.failures.values())) <= 1, load.failures

    @KEEPS
    def test_health_checks_see_it(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        """With them, no query fails at all."""
        alias = plain.alias(options, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=True)
        user(alias)
        assert connections[alias].is_usable()
        plain.provider.drop(plain.role(1))
        between_requests(alias)
        assert user(alias) == plain.role(2)

    @KEEPS
    def test_a_connection_is_not_usable_without_its_role(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        user(alias)
        plain.provider.drop(plain.role(1))
        assert not connections[alias].is_usable()
        assert user(alias) == plain.role(2)

    @KEEPS
    def test_a_right_that_is_missing_is_not_mistaken_for_it(
        self, plain: Setup, options: dict[str, Any], age: int | None
    ) -> None:
        alias = plain.alias(options, CONN_MAX_AGE=age)
        for _ in range(3):
            with pytest.raises(ProgrammingError, match="permission denied"):
                statement(alias, "SELECT * FROM pg_authid")
            assert user(alias) == plain.role(1)
        assert plain.provider.calls == ["fetch"]


@KEEPS
def test_a_source_that_is_away_for_longer_than_the_lease_costs_no_operation(
    plain: Setup, options: dict[str, Any], age: int | None
) -> None:
    options = {"rotating_pool": {"min_size": 6, "max_size": 6}} if options else options
    alias = plain.alias(options, CONN_MAX_AGE=60 if age is None else age)
    with Load(alias) as load:
        load.goes_on()
        gone = ProviderUnavailable("away")
        plain.provider.failures |= {kind: [gone] * 1000 for kind in ("fetch", "renew")}
        plain.clock.advance(2 * plain.provider.duration)
        with pytest.raises(CredentialsExpired):
            plain.made[0].current()
        for _ in range(5):
            load.goes_on()
        for failures in plain.provider.failures.values():
            failures.clear()
        plain.events.wait_for(CredentialsPublished, 2)
        wait_until(lambda: plain.role(1) not in plain.provider.sessions())
    assert load.failed == []


def test_credentials_that_are_refused_are_waited_for(plain: Setup) -> None:
    alias = plain.alias(CONN_MAX_AGE=0)
    user(alias)
    between_requests(alias)
    plain.provider.gate.clear()
    plain.provider.alter(1, "NOLOGIN")

    def work() -> str:
        with closing(connections[alias]):
            return user(alias)

    waiting = Worker(work)
    plain.events.wait_for(LoginRejected)
    assert waiting.running
    plain.provider.gate.set()
    assert waiting.get() == plain.role(2)


class TestSessionRole:
    """`assume_role`, from the login on."""

    @pytest.fixture
    def role(self, plain: Setup) -> Iterator[str]:
        with plain.provider.owner(f"{plain.provider.prefix}-owner") as role:
            yield role

    @WAYS
    def test_resetting_the_role_leads_back_to_it(
        self, plain: Setup, role: str, options: dict[str, Any], age: int | None
    ) -> None:
        plain.provider.grants.append(role)
        alias = plain.alias(options | {"assume_role": role}, CONN_MAX_AGE=age)
        for number in (1, 2):
            with connections[alias].cursor() as cursor:
                cursor.execute("RESET ROLE")
                cursor.execute("SELECT current_user::text, session_user::text")
                assert cursor.fetchone() == (role, plain.role(number))
            plain.rotate()
            moves(alias, plain.role(number + 1))
        between_requests(alias)
        connections[alias].close()
        connections[alias].close_pool()

    def test_a_role_that_was_not_granted_is_named(
        self, plain: Setup, role: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_logins, "_PATIENCE", BRIEF)
        alias = plain.alias({"assume_role": role})
        assert f"GRANT {role} TO" in str(error_after(plain, CredentialsPublished, alias).value)


class TestPoolsOfDjango:
    """What closes them, or makes Django close them, costs no role."""

    def test_a_pool_that_was_closed_is_opened_again_with_the_same_role(self, plain: Setup) -> None:
        alias = plain.alias(POOL)
        for _ in range(3):
            assert user(alias) == plain.role(1)
            connections[alias].close_pool()
        assert plain.provider.calls == ["fetch"]

    def test_a_time_zone_is_set_on_each_connection(self, plain: Setup) -> None:
        alias = plain.alias(POOL)
        zone = "SELECT current_setting('TimeZone')"
        assert statement(alias, zone) == "UTC"
        pool = process.pools[alias]
        connections[alias].close()
        with override_settings(TIME_ZONE="Asia/Tokyo", USE_TZ=False):
            for _ in range(3):
                assert statement(alias, zone) == "Asia/Tokyo"
                connections[alias].close()
        assert statement(alias, zone) == "UTC"
        assert process.pools[alias] is pool
        assert plain.provider.calls == ["fetch"]


class TestErrors:
    """They are Django's, say why, and have no secret in their frames."""

    @WAYS
    def test_no_credentials(
        self,
        plain: Setup,
        options: dict[str, Any],
        age: int | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_logins, "_PATIENCE", BRIEF)
        if options:
            options = {"rotating_pool": {"timeout": BRIEF}}
        plain.provider.failures["fetch"] = [ProviderUnavailable("Vault is sealed")] * 1000
        alias = plain.alias(options, CONN_MAX_AGE=age)
        assert "Vault is sealed" in str(error_after(plain, FetchFailed, alias).value)
        plain.provider.failures["fetch"].clear()

    @WAYS
    def test_a_refused_login(
        self,
        plain: Setup,
        options: dict[str, Any],
        age: int | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_logins, "_PATIENCE", 0.5)
        if options:
            options = {"rotating_pool": {"timeout": 0.5}}
        plain.provider.login = "NOLOGIN"
        alias = plain.alias(options, CONN_MAX_AGE=age)
        # A pool logs in again by itself; without one, the second connect does.
        raised = error_after(plain, LoginRejected if options else CredentialsPublished, alias)
        assert "is not permitted to log in" in str(raised.value)
        shown = "".join(
            traceback.TracebackException.from_exception(raised.value, capture_locals=True).format()
        )
        assert "minted-password" not in shown
        assert "the role has LOGIN" in shown
