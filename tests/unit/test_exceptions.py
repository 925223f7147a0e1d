"""Errors go from process to process, as task queues and test runners send them."""

from __future__ import annotations

import copy
import importlib
import inspect
import multiprocessing
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, cast

import psycopg
import pytest
from psycopg_pool import PoolTimeout

import ephemeral_creds
from ephemeral_creds import CredentialKeeper, EphemeralCredsError, FixedProvider, exceptions
from ephemeral_creds.pool import errors

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = CredentialKeeper(FixedProvider("app", "in-clear")).status()


CLASSES: list[type[EphemeralCredsError]] = [
    found
    for module in (exceptions, errors)
    for found in (getattr(module, name) for name in module.__all__)
    if inspect.isclass(found) and issubclass(found, EphemeralCredsError)
]


def made(kind: type[EphemeralCredsError]) -> EphemeralCredsError:
    error = kind("role 'app': it says why, and what to do")
    error.__cause__ = psycopg.errors.InvalidPassword("password authentication failed")
    error.__cause__.sqlstate = "28P01"
    error.add_note("while it started")
    if isinstance(error, exceptions.ProviderError):
        error.status = 403
    if isinstance(error, exceptions.ProviderUnavailable):
        error.retry_after = 2.5
    if isinstance(error, errors.CheckoutFailed):
        error.last_error = exceptions.ProviderUnavailable("sealed", status=503, retry_after=1.0)
        error.keeper_status = STATUS
    return error


def described(error: BaseException | None) -> object:
    if error is None:
        return None
    attributes = {
        name: described(value) if isinstance(value, BaseException) else value
        for name, value in vars(error).items()
    }
    return type(error), str(error), error.args, attributes, described(error.__cause__)


def by_pickle(error: EphemeralCredsError) -> EphemeralCredsError:
    return cast("EphemeralCredsError", pickle.loads(pickle.dumps(error)))


ERRORS = [pytest.param(made(kind), id=f"{kind.__module__}.{kind.__name__}") for kind in CLASSES]


def test_the_classes_are_all_that_there_are() -> None:
    found: set[type] = set()
    below = [EphemeralCredsError]
    while below:
        found.add(kind := below.pop())
        below += kind.__subclasses__()
    ours = {kind for kind in found if kind.__module__.startswith("ephemeral_creds")}
    assert ours == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_where_it_says(kind: type[EphemeralCredsError]) -> None:
    module = importlib.import_module(kind.__module__)
    assert getattr(module, kind.__qualname__) is kind
    assert kind.__name__ == kind.__qualname__
    public = getattr(ephemeral_creds, kind.__name__, kind)
    assert issubclass(kind, public)
    assert issubclass(kind, PoolTimeout) is (module is errors)


@pytest.mark.parametrize("way", [by_pickle, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_arrives_as_it_was(
    error: EphemeralCredsError, way: Callable[[EphemeralCredsError], EphemeralCredsError]
) -> None:
    arrived = way(error)
    assert arrived is not error
    assert described(arrived) == described(error)


@pytest.mark.slow
def test_errors_arrive_from_another_process() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for parameter in ERRORS:
            error = cast("EphemeralCredsError", parameter.values[0])
            # Sent there, and returned as a result.
            assert described(executor.submit(copy.copy, error).result()) == described(error)
            with pytest.raises(EphemeralCredsError) as caught:
                executor.submit(fail, error).result()
            assert described(caught.value)[:4] == described(error)[:4]  # type: ignore[index]
            # The executor has taken the place of the cause, and tells it.
            assert "InvalidPassword: password authentication failed" in str(caught.value.__cause__)


def fail(error: Exception) -> None:
    raise error


class Peculiar(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")


@pytest.mark.parametrize("cause", [Peculiar("here", "so"), ValueError("no", threading.Lock())])
def test_a_cause_that_cannot_be_sent_is_reported(cause: Exception) -> None:
    error = errors.CheckoutFailed("configure= fails")
    error.last_error = error.__cause__ = cause
    copied = copy.copy(error)
    assert copied.last_error is copied.__cause__ is cause
    arrived = by_pickle(error)
    assert isinstance(arrived, errors.CheckoutFailed)
    for sent in (arrived.last_error, arrived.__cause__):
        assert type(sent) is EphemeralCredsError
        assert str(sent) == f"{type(cause).__name__}: {cause}"


@pytest.mark.parametrize("name", ["CheckoutFailed", "LoginRefused"])
def test_an_old_home_is_deprecated(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated: import it from") as told:
        assert getattr(exceptions, name) is getattr(ephemeral_creds, name)
    assert told[0].filename == __file__
    with pytest.raises(AttributeError, match="Nonsense"):
        exceptions.Nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_importing_errors_brings_no_psycopg() -> None:
    code = "import sys, ephemeral_creds.exceptions; assert 'psycopg' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
