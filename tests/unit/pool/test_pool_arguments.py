"""What the constructors refuse, and what the package says where libpq is missing."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, get_type_hints

import pytest
from psycopg_pool import PoolTimeout

from ephemeral_creds import (
    AccessDenied,
    AsyncRotatingConnectionPool,
    AsyncRotatingNullConnectionPool,
    CheckoutFailed,
    ConfigurationError,
    CredentialKeeper,
    FixedProvider,
    Observer,
    RotatingConnectionPool,
    RotatingNullConnectionPool,
    SystemClock,
)
from ephemeral_creds.pool.errors import as_checkout_failed, explain
from ephemeral_creds.pool.shortage import Shortage
from ephemeral_creds.testing import ScriptedProvider

POOLS = [
    RotatingConnectionPool,
    AsyncRotatingConnectionPool,
    RotatingNullConnectionPool,
    AsyncRotatingNullConnectionPool,
]


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_with_a_check_is_no_cycle(pool: Any) -> None:
    def check(_: object) -> None:
        raise NotImplementedError

    made = pool(ScriptedProvider(SystemClock()), check=check)
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


def test_a_pool_whose_thread_could_not_start_starts_it_when_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "app-rotation":
            raise RuntimeError("can't start new thread")
        start(thread)

    pool = RotatingConnectionPool(
        ScriptedProvider(SystemClock()), name="app", min_size=0, max_size=1
    )
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.open()
        pool.open()
        assert "app-rotation" in [thread.name for thread in threading.enumerate()]
    finally:
        pool.close()


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_that_was_not_made_has_a_repr(pool: Any) -> None:
    unmade = pool.__new__(pool)
    assert repr(unmade) == f"<{pool.__name__} not made>"


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("given", "named"),
    [("host=db", "'str'"), (None, "'NoneType'"), (FixedProvider, "'FixedProvider'")],
)
def test_a_pools_first_argument_brings_credentials(pool: Any, given: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"before conninfo, has to be .*{named}"):
        pool(given)


@pytest.mark.parametrize("pool", POOLS)
def test_its_type_hints_can_be_read(pool: Any) -> None:
    hints = get_type_hints(pool.__init__)
    assert hints["observers"] == Sequence[Observer] | None
    psycopgs_own = next(k for k in pool.__mro__ if k.__module__.startswith("psycopg_pool"))
    # Not all of its own hints can be read.
    missing = inspect.signature(psycopgs_own.__init__).parameters.keys() - hints.keys()
    assert missing == {"self"}


@pytest.mark.parametrize("pool", POOLS)
def test_arguments_of_psycopg_pools_have_its_defaults(pool: Any) -> None:
    theirs = next(kind for kind in pool.__mro__ if kind.__module__.startswith("psycopg_pool."))
    methods = [name for name, value in vars(theirs).items() if inspect.isfunction(value)]
    for name in ["__init__", *(method for method in methods if not method.startswith("_"))]:
        ours = inspect.signature(getattr(pool, name)).parameters
        for parameter in inspect.signature(getattr(theirs, name)).parameters.values():
            mine = ours[parameter.name]
            if (name, parameter.name) == ("__init__", "open"):
                # Theirs warns that it is going to be false.
                assert (mine.default, parameter.default) == (False, None)
            else:
                assert (mine.default, mine.name) == (parameter.default, parameter.name), name


@pytest.mark.parametrize("pool", POOLS)
def test_the_old_name_of_verify_connections_warns(pool: Any) -> None:
    with pytest.warns(DeprecationWarning, match=r"suspect\(\) is now verify_connections\(\)"):
        pool(FixedProvider("me", "x")).suspect()


def test_an_async_pool_may_be_told_not_to_open_itself() -> None:
    provider = FixedProvider("me", "x")
    AsyncRotatingConnectionPool(provider, open=False)
    with pytest.raises(ConfigurationError, match=r"open=True.*'await pool.open\(\)'"):
        AsyncRotatingConnectionPool(provider, open=True)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("conninfo", "said"),
    [
        ("host=db hunter2", "cannot be read: it has to look like"),
        ("hots=db", 'cannot be read (invalid connection option "hots")'),
        ("postgresql://db:hunter2/mydb?x", "cannot be read: it has to look like"),
    ],
)
def test_an_invalid_conninfo_is_refused(pool: Any, conninfo: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pool(FixedProvider("me", "x"), conninfo)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_keepers_is_a_provider() -> None:
    with pytest.raises(ConfigurationError, match="has to be a CredentialProvider, not 'NoneType'"):
        CredentialKeeper(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
def test_settings_of_the_keeper_are_refused_by_a_pool(pool: Any) -> None:
    keeper = CredentialKeeper(ScriptedProvider(SystemClock()))
    with pytest.raises(ConfigurationError, match="belong to the keeper"):
        pool(keeper, observers=[])


def test_a_pools_errors_have_public_names_and_the_status() -> None:
    status = CredentialKeeper(FixedProvider("app", "unused")).status()
    in_use = explain("pool", PoolTimeout("too late"), None, status, Shortage(1, 1, borrowed=1))
    assert isinstance(in_use, CheckoutFailed)
    assert (type(in_use).__module__, type(in_use).__name__) == (
        "ephemeral_creds.pool.errors",
        "CheckoutFailed",
    )
    denied = as_checkout_failed(AccessDenied("no", status=403), status)
    assert isinstance(denied, AccessDenied)
    assert denied.status == 403


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RotatingConnectionPool", "AsyncRotatingConnectionPool"])
def test_without_libpq_the_import_says_what_to_install(name: str) -> None:
    code = (
        "import ctypes.util, os\n"
        "ctypes.util.find_library = lambda name: None\n"
        "os.environ['PSYCOPG_IMPL'] = 'python'\n"
        f"from ephemeral_creds import {name}\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ImportError: psycopg finds no libpq")
    assert "pip install 'psycopg[binary]'" in last
