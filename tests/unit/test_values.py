"""Secrets are masked wherever a value can be seen."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback

import pytest

from ephemeral_creds import Credentials, Grant, Lease, Secret

PASSWORD = "correct-horse-battery"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        lambda value: "%s" % (value,),  # noqa: UP031
        lambda value: f"{value}",
        ascii,
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        Secret(PASSWORD),
        Credentials("app", Secret(PASSWORD)),
        Grant(Credentials("app", Secret(PASSWORD)), Lease(0.0), origin=PASSWORD),
    ],
    ids=["secret", "credentials", "grant"],
)
def test_every_way_of_showing_is_masked(value: object, show: object) -> None:
    assert callable(show)
    assert PASSWORD not in show(value)


def test_reveal_is_the_only_way_in() -> None:
    secret = Secret(PASSWORD)
    assert secret.reveal() == PASSWORD
    with pytest.raises(TypeError):
        vars(secret)
    assert PASSWORD not in str(dataclasses.asdict(Credentials("app", secret)))


def test_pickling_is_refused() -> None:
    for value in (Secret(PASSWORD), Credentials("app", Secret(PASSWORD))):
        with pytest.raises(TypeError, match="fetch its own"):
            pickle.dumps(value)


def test_copies_are_the_same_secret() -> None:
    secret = Secret(PASSWORD)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_a_traceback_with_locals_does_not_show_it() -> None:
    def fail(secret: Secret) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        fail(Secret(PASSWORD))
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    inner = [line for line in shown.format() if "secret = " in line]
    assert inner
    assert PASSWORD not in "".join(inner)


def test_equality_is_by_value_and_type() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")


def test_values_cannot_be_changed() -> None:
    credentials = Credentials("app", Secret(PASSWORD))
    with pytest.raises(dataclasses.FrozenInstanceError):
        credentials.username = "other"  # type: ignore[misc]
