"""What `retry_on_rotation` runs again, how often and for how long: nothing here ever sleeps."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

import psycopg
import psycopg_pool
import pytest

from ephemeral_creds import (
    AsyncRotatingConnectionPool,
    CheckoutFailed,
    ConfigurationError,
    Credentials,
    FixedProvider,
    Grant,
    Lease,
    NotReady,
    RotatingConnectionPool,
    Secret,
    retry_on_rotation,
)
from ephemeral_creds.pool.errors import as_checkout_failed
from ephemeral_creds.pool.retry import AsyncRetries, Retries
from ephemeral_creds.pool.retry_run import Attempt, kind_of
from ephemeral_creds.testing import FakeClock

LOST = psycopg.errors.AdminShutdown("terminating connection")


def checkout_failed(error: Exception) -> BaseException:
    pool = sync_pool()
    return as_checkout_failed(error, pool._keeper.status())


def sync_pool() -> RotatingConnectionPool:
    return RotatingConnectionPool(FixedProvider("someone", "some-password"), name="orders")


def async_pool() -> AsyncRotatingConnectionPool:
    return AsyncRotatingConnectionPool(FixedProvider("someone", "some-password"), name="orders")


def raised_from(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def failed_connect() -> psycopg.OperationalError:
    try:
        psycopg.connect("host=127.0.0.1 port=1 user=someone password=some-password")
    except psycopg.OperationalError as error:
        return error
    raise AssertionError("something listens on port 1")


class TestKinds:
    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            ("57P01", "lost"),
            ("57P02", "lost"),
            ("57P03", "lost"),
            ("57P05", "lost"),
            ("08000", "lost"),
            ("08003", "lost"),
            ("08006", "lost"),
            ("08P01", "lost"),
            ("42501", "role"),
            ("42704", "role"),
            ("57014", "cancelled"),
            ("57P04", None),
            ("23505", None),
            ("25P02", None),
            ("25P03", None),
            ("28000", None),
            ("28P01", None),
            ("40001", None),
            ("40P01", None),
            ("42P01", None),
            ("42601", None),
            ("53300", None),
            ("55P03", None),
        ],
    )
    def test_by_sqlstate(self, state: str, kind: str | None) -> None:
        assert kind_of(psycopg.errors.lookup(state)("something")) == kind

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (psycopg.OperationalError("the connection is lost"), "lost"),
            (psycopg.InterfaceError("the cursor is closed"), None),
            (psycopg.DataError("no sqlstate either"), None),
            (psycopg.errors.ConnectionTimeout("connecting"), None),
            (psycopg.errors.PipelineAborted("what came before failed"), None),
            (psycopg_pool.PoolTimeout("none in time"), None),
            (psycopg_pool.PoolClosed("closed"), None),
            (psycopg_pool.TooManyRequests("queue full"), None),
            (checkout_failed(NotReady("none yet")), None),
            (checkout_failed(ConfigurationError("wrong role")), None),
            (CheckoutFailed("all in use"), None),
            (ConnectionResetError("not psycopg's"), None),
            (KeyboardInterrupt(), None),
            (asyncio.CancelledError(), None),
            (None, None),
        ],
        ids=repr,
    )
    def test_without_sqlstate(self, error: BaseException | None, kind: str | None) -> None:
        assert kind_of(error) == kind

    def test_a_connect_of_the_functions_own(self) -> None:
        assert kind_of(failed_connect()) is None

    def test_an_error_counts_as_the_one_it_was_raised_from(self) -> None:
        wrapped: BaseException = LOST
        for _ in range(3):
            wrapped = raised_from(RuntimeError("the order was not saved"), wrapped)
        assert kind_of(wrapped) == "lost"
        assert kind_of(raised_from(RuntimeError(), None)) is None

    def test_sqlalchemy_keeps_the_original_in_orig(self) -> None:
        error = RuntimeError("(psycopg.errors.AdminShutdown) …")
        error.orig = LOST  # type: ignore[attr-defined]
        assert kind_of(error) == "lost"
        error.orig = "nothing of psycopg's"  # type: ignore[attr-defined]
        assert kind_of(error) is None

    def test_an_error_raised_while_another_was_handled_does_not_count(self) -> None:
        error = KeyError("a mistake in an except clause")
        error.__context__ = LOST
        assert kind_of(error) is None

    def test_a_failed_checkout_is_not_looked_through(self) -> None:
        failed = raised_from(checkout_failed(NotReady("no credentials")), LOST)
        assert kind_of(raised_from(RuntimeError(), failed)) is None

    def test_errors_that_were_raised_from_each_other_have_an_end(self) -> None:
        first, second = RuntimeError(), RuntimeError()
        raised_from(first, raised_from(second, first))
        assert kind_of(first) is None


class Script:
    """A transaction that raises what it is told to, and then returns ``done``."""

    def __init__(self, *errors: BaseException | Callable[[], BaseException]) -> None:
        self._errors = list(errors)
        self.calls = 0
        self.pauses: list[float] = []
        self.clock = FakeClock()

    def __call__(self) -> str:
        self.calls += 1
        if not self._errors:
            return "done"
        error = self._errors.pop(0)
        raise error if isinstance(error, BaseException) else error()

    async def called(self) -> str:
        await asyncio.sleep(0)
        return self()

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


Runner = Callable[..., str]


def decorated(script: Script, attempts: int = 3, timeout: float = 30.0, pool: Any = None) -> str:
    now = script.clock.now
    retries = Retries(pool or sync_pool(), attempts, timeout, sleep=script.sleep, clock=now)
    return retries(script.__call__)()


def looped(script: Script, attempts: int = 3, timeout: float = 30.0, pool: Any = None) -> str:
    now = script.clock.now
    result = "never ran"
    retries = Retries(pool or sync_pool(), attempts, timeout, sleep=script.sleep, clock=now)
    for attempt in retries:
        with attempt:
            result = script()
    return result


def async_decorated(
    script: Script, attempts: int = 3, timeout: float = 30.0, pool: Any = None
) -> str:
    now, sleep = script.clock.now, script.async_sleep
    retries = AsyncRetries(pool or async_pool(), attempts, timeout, sleep=sleep, clock=now)
    return asyncio.run(retries(script.called)())


def async_looped(script: Script, attempts: int = 3, timeout: float = 30.0, pool: Any = None) -> str:
    now, sleep = script.clock.now, script.async_sleep

    async def loop() -> str:
        result = "never ran"
        retries = AsyncRetries(pool or async_pool(), attempts, timeout, sleep=sleep, clock=now)
        async for attempt in retries:
            with attempt:
                result = await script.called()
        return result

    return asyncio.run(loop())


@pytest.fixture(params=[decorated, looped, async_decorated, async_looped])
def run(request: pytest.FixtureRequest) -> Runner:
    """The four ways to say it."""
    runner: Runner = request.param
    return runner


def pool_for(run: Runner) -> Any:
    return async_pool() if "async" in run.__name__ else sync_pool()


class TestAttempts:
    def test_a_successful_block_runs_once(self, run: Runner) -> None:
        script = Script()
        assert run(script) == "done"
        assert script.calls == 1

    @pytest.mark.parametrize("failures", [1, 2])
    def test_a_block_whose_connection_was_lost_runs_again(self, run: Runner, failures: int) -> None:
        script = Script(*[LOST] * failures)
        assert run(script) == "done"
        assert script.calls == 1 + failures

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_the_last_error_is_raised_as_it_is(self, run: Runner, attempts: int) -> None:
        errors = [psycopg.errors.AdminShutdown(str(number)) for number in range(10)]
        script = Script(*errors)
        with pytest.raises(psycopg.errors.AdminShutdown) as caught:
            run(script, attempts=attempts)
        assert caught.value is errors[attempts - 1]
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert script.calls == attempts
        assert len(script.pauses) == attempts - 1

    @pytest.mark.parametrize(
        "error",
        [
            psycopg.errors.UniqueViolation("taken"),
            psycopg.errors.SerializationFailure("another session's concern"),
            psycopg.errors.InsufficientPrivilege("no rotation, and no connection to test"),
            psycopg.errors.QueryCanceled("statement timeout"),
            psycopg_pool.PoolTimeout("all in use"),
            ValueError("not the database"),
        ],
        ids=repr,
    )
    def test_everything_else_is_raised_at_once(self, run: Runner, error: Exception) -> None:
        script = Script(error)
        with pytest.raises(type(error)) as caught:
            run(script)
        assert caught.value is error
        assert script.calls == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_an_interruption_ends_it(self, error: type[BaseException]) -> None:
        for run in (decorated, looped):
            script = Script(error())
            with pytest.raises(error):
                run(script)
            assert script.calls == 1

    def test_a_cancellation_ends_it(self) -> None:
        for run in (async_decorated, async_looped):
            script = Script(asyncio.CancelledError())
            with pytest.raises(asyncio.CancelledError):
                run(script)
            assert script.calls == 1

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), ValueError("mine"), psycopg.errors.UniqueViolation("taken")]
    )
    def test_another_error_leaves_the_block_at_once(self, error: BaseException) -> None:
        def loop() -> None:
            for attempt in retry_on_rotation(sync_pool()):
                with attempt:
                    raise error
                pytest.fail("it was held back")

        with pytest.raises(type(error)) as caught:
            loop()
        assert caught.value is error

    def test_pauses_are_short_random_and_grow(self, run: Runner) -> None:
        script = Script(*[LOST] * 40)
        with pytest.raises(psycopg.OperationalError):
            run(script, attempts=40, timeout=3600.0)
        assert len(set(script.pauses)) > 30
        assert script.pauses[0] <= 0.05
        assert script.pauses[1] <= 0.1
        assert 0.1 < max(script.pauses) <= 1.0

    def test_no_attempt_begins_after_the_time_is_up(self, run: Runner) -> None:
        script = Script(*[LOST] * 1000)
        with pytest.raises(psycopg.OperationalError):
            run(script, attempts=1000, timeout=5.0)
        assert 4.0 <= sum(script.pauses) < 5.0
        assert script.calls == len(script.pauses) + 1 < 100

    def test_an_attempt_that_takes_all_the_time_is_the_last(self, run: Runner) -> None:
        def slow() -> BaseException:
            script.clock.advance(31.0)
            return LOST

        script = Script(slow)
        with pytest.raises(psycopg.OperationalError):
            run(script)
        assert script.calls == 1

    def test_each_call_and_each_loop_has_its_own_attempts(self) -> None:
        script = Script(LOST, LOST)
        retries = Retries(sync_pool(), 2, 30.0, sleep=script.sleep, clock=script.clock.now)
        repeated = retries(script.__call__)
        with pytest.raises(psycopg.OperationalError):
            repeated()
        script = Script(LOST)
        assert retries(lambda: repeated() + script())() == "donedone"

    def test_the_log_has_the_type_and_the_sqlstate_only(
        self, run: Runner, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "ephemeral_creds")
        run(Script(psycopg.errors.AdminShutdown("a value of the query")))
        (record,) = [r for r in caplog.records if r.name == "ephemeral_creds"]
        assert record.levelno == logging.INFO
        message = record.getMessage()
        assert message.startswith("orders: attempt 1 of 3 failed with AdminShutdown")
        assert "57P01" in message
        assert "value" not in message


def grant(generation: int) -> Grant:
    lease = Lease(requested_at=0.0, duration=3600.0, renewable=True, lease_id="lease")
    return Grant(Credentials(f"user-{generation}", Secret("password-of-it")), lease, generation)


class TestReasons:
    """What the pool saw while the attempt ran decides; see also the real ones."""

    DENIED = psycopg.errors.InsufficientPrivilege("denied")
    CANCELED = psycopg.errors.QueryCanceled("cancelled")

    def during(self, pool: Any, error: Exception, *seen: Callable[[], object]) -> Any:
        def happen() -> Exception:
            for call in seen:
                call()
            return error

        return happen

    def cut_off(self, pool: Any) -> None:
        pool._rotation.cut_off += 1

    def test_the_first_credentials_are_no_rotation(self, run: Runner) -> None:
        pool = pool_for(run)
        script = Script(self.during(pool, self.DENIED, lambda: pool._rotation.publish(grant(1))))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(script, pool=pool)
        assert script.calls == 1

    def test_the_next_credentials_are(self, run: Runner) -> None:
        pool = pool_for(run)
        pool._rotation.publish(grant(1))
        script = Script(self.during(pool, self.DENIED, lambda: pool._rotation.publish(grant(2))))
        assert run(script, pool=pool) == "done"
        assert script.calls == 2

    def test_those_before_the_attempt_are_not(self, run: Runner) -> None:
        pool = pool_for(run)
        pool._rotation.publish(grant(1))
        pool._rotation.publish(grant(2))
        script = Script(
            self.during(pool, self.DENIED, lambda: pool._rotation.publish(grant(3))), self.DENIED
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(script, pool=pool, attempts=10)
        assert script.calls == 2

    def test_a_query_that_the_pool_cancelled(self, run: Runner) -> None:
        pool = pool_for(run)
        script = Script(self.during(pool, self.CANCELED, lambda: self.cut_off(pool)))
        assert run(script, pool=pool) == "done"

    def test_a_query_that_another_client_cancelled(self, run: Runner) -> None:
        pool = pool_for(run)
        self.cut_off(pool)
        script = Script(self.CANCELED)
        with pytest.raises(psycopg.errors.QueryCanceled):
            run(script, pool=pool)

    def test_after_a_loss_the_other_connections_are_tested(self, run: Runner) -> None:
        pool = pool_for(run)
        pool._rotation.publish(grant(1))
        assert not pool._rotation.must_vet
        run(Script(LOST), pool=pool)
        assert pool._rotation.is_suspect(1)


class TestArguments:
    @pytest.mark.parametrize("attempts", [0, -1, 2.5, "3", None])
    def test_attempts(self, attempts: Any) -> None:
        with pytest.raises(ConfigurationError, match="attempts="):
            retry_on_rotation(sync_pool(), attempts=attempts)

    @pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan"), "30", None])
    def test_timeout(self, timeout: Any) -> None:
        with pytest.raises(ConfigurationError, match="timeout="):
            retry_on_rotation(sync_pool(), timeout=timeout)

    def test_the_pool(self) -> None:
        wrong: Any = psycopg_pool.ConnectionPool("", open=False)
        with pytest.raises(ConfigurationError, match="must be a RotatingConnectionPool"):
            retry_on_rotation(wrong)

    def test_a_forgotten_pool(self) -> None:
        def function() -> None: ...

        decorator: Any = retry_on_rotation
        with pytest.raises(ConfigurationError, match=r"@retry_on_rotation\(pool\)"):
            decorator(function)

    def test_functions_go_with_the_pool(self) -> None:
        async def coroutine() -> None: ...
        def function() -> None: ...
        def generator() -> Any:
            yield

        async def async_generator() -> Any:
            yield

        plain: Any = retry_on_rotation(sync_pool())
        waiting: Any = retry_on_rotation(async_pool())
        for decorator, misfits in (
            (plain, [coroutine, generator, async_generator, "no function"]),
            (waiting, [function, generator, async_generator, None]),
        ):
            for misfit in misfits:
                with pytest.raises(ConfigurationError, match="cannot repeat"):
                    decorator(misfit)


class TestTypes:
    """`assert_type` is for mypy, which is strict; the rest is for readers."""

    def test_a_functions_signature_stays(self) -> None:
        def function(number: int, *names: str, flag: bool = False) -> list[str]:
            """Do it."""
            return [*names, str(number), str(flag)]

        repeated = retry_on_rotation(sync_pool())(function)
        assert_type(repeated(1, "a", flag=True), list[str])
        assert inspect.signature(repeated) == inspect.signature(function)
        assert (repeated.__name__, repeated.__doc__) == ("function", "Do it.")
        with pytest.raises(TypeError):
            repeated("one", flags=True)  # type: ignore[arg-type, call-arg]

    def test_a_coroutine_functions_signature_stays(self) -> None:
        async def function(number: int) -> str:
            return str(number)

        repeated = retry_on_rotation(async_pool())(function)
        assert inspect.iscoroutinefunction(repeated)
        assert asyncio.run(self.awaited(repeated)) == "7"

    async def awaited(self, function: Callable[[int], Coroutine[Any, Any, str]]) -> str:
        result = await function(7)
        assert_type(result, str)
        return result

    def test_loops(self) -> None:
        assert_type(retry_on_rotation(sync_pool()), Retries)
        assert_type(retry_on_rotation(async_pool(), attempts=2, timeout=1), AsyncRetries)
        for attempt in retry_on_rotation(sync_pool()):
            assert_type(attempt, Attempt)
            with attempt as nothing:
                assert nothing is None

    def test_methods_keep_their_self(self) -> None:
        class Service:
            @retry_on_rotation(sync_pool())
            def name(self, greeting: str) -> str:
                return f"{greeting} {type(self).__name__}"

        assert_type(Service().name("hello"), str)
        assert Service().name("hello") == "hello Service"

    def test_pools_of_any_connection_class(self) -> None:
        class Mine(psycopg.Connection[dict[str, int]]): ...

        pool = RotatingConnectionPool(FixedProvider("a", "b" * 9), connection_class=Mine)
        assert_type(retry_on_rotation(pool), Retries)
