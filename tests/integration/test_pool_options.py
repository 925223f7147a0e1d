"""The user's own options, which still mean what they mean to psycopg_pool; and secrets."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from minting import BRIEF, PATIENCE
from psycopg.rows import dict_row
from twins import user_of, wait_until

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CheckoutFailed,
    ConfigurationError,
    CredentialKeeper,
    DatabaseUnreachable,
    FixedProvider,
    LoginRefused,
    RefreshPolicy,
    RotatingConnectionPool,
    RotationPolicy,
)

if TYPE_CHECKING:
    import psycopg
    from twins import Setup


class TestUsersOptions:
    def test_configure_check_and_reset_still_run(self, setup: Setup) -> None:
        calls: list[str] = []
        seen = threading.Event()

        def reset(_: object) -> None:
            calls.append("reset")
            seen.set()

        def configure(connection: psycopg.Connection[Any]) -> None:
            calls.append(f"configure {connection.info.user}")

        pool = setup.pool(
            min_size=1,
            configure=configure,
            check=lambda _: calls.append("check"),
            reset=reset,
            kwargs=lambda: {"row_factory": dict_row},
        )
        with pool.connection() as connection:
            assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
        assert seen.wait(PATIENCE)
        setup.rotate(2)
        setup.revoked(1)
        configured = [c for c in calls if c.startswith("configure")]
        assert configured == [f"configure {setup.provider.prefix}_{n}" for n in (1, 2)]
        assert "check" in calls

    def test_a_configure_that_fails_keeps_the_old_connections(self, setup: Setup) -> None:
        broken = threading.Event()
        failed = threading.Event()

        def configure(_: object) -> None:
            if broken.is_set():
                failed.set()
                raise RuntimeError("no such extension")

        pool = setup.pool(min_size=1, configure=configure)
        broken.set()
        setup.provider.change()
        assert failed.wait(PATIENCE)
        with pool.connection() as connection:
            assert user_of(connection) == setup.role(1)
        broken.clear()
        setup.published(2)
        setup.revoked(1)

    @pytest.mark.parametrize("close_returns", [False, True])
    def test_a_failed_configure_is_reported_and_not_repeated_at_once(
        self, setup: Setup, close_returns: bool
    ) -> None:
        calls: list[object] = []

        def configure(connection: object) -> None:
            calls.append(connection)
            raise RuntimeError("no such extension")

        pool = setup.pool(
            wait=False,
            min_size=1,
            close_returns=close_returns,
            configure=configure,
            rotation=RotationPolicy(retry_initial=3600.0, retry_max=3600.0),
        )
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(CheckoutFailed, match=r"configure=.*RuntimeError at ") as caught:
            pool.getconn(timeout=BRIEF)
        assert not isinstance(caught.value, DatabaseUnreachable)
        assert pool.status().last_error_reason is None
        assert len(calls) == 1
        setup.provider.wait_for_sessions({})

    def test_close_returns_survives_a_rotation(self, setup: Setup) -> None:
        pool = setup.pool(min_size=2, close_returns=True)
        borrowed = pool.getconn()
        setup.rotate(2)
        borrowed.close()
        setup.revoked(1)
        setup.provider.wait_for_sessions({2: 2})

    @pytest.mark.parametrize(
        ("conninfo", "kwargs"),
        [
            ("host=db user=me", {}),
            ("host=db", {"password": "hunter2hunter2"}),
            ("postgresql://me:hunter2hunter2@db/x", {}),
        ],
    )
    @pytest.mark.parametrize("kind", [RotatingConnectionPool, AsyncRotatingConnectionPool])
    def test_user_and_password_have_one_source(
        self, kind: type[Any], conninfo: str, kwargs: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigurationError, match="remove") as caught:
            kind(FixedProvider("a", "b" * 9), conninfo, kwargs=kwargs)
        assert "hunter2" not in str(caught.value)

    def test_options_of_the_keeper_do_not_fit_a_shared_one(self, setup: Setup) -> None:
        keeper = CredentialKeeper(setup.provider)
        with pytest.raises(ConfigurationError, match="belong to the keeper"):
            setup.make(keeper, refresh=RefreshPolicy())
        keeper.close()


class TestSecrets:
    def test_r27_no_part_of_a_connect_error_holds_the_password(self, setup: Setup) -> None:
        setup.provider.login = "NOLOGIN"
        pool = setup.pool(wait=False)
        wait_until(lambda: pool.status().last_error)
        with pytest.raises(LoginRefused) as caught:
            pool.getconn(timeout=BRIEF)
        error: BaseException | None = caught.value
        while error is not None:
            assert getattr(error, "pgconn", None) is None
            captured = traceback.TracebackException.from_exception(error, capture_locals=True)
            assert "minted-password" not in "".join(captured.format())
            error = error.__cause__ or error.__context__
