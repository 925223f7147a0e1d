"""Settings of Django that cannot be right: reported by its checks, and by the first connection."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from ephemeral_creds import CredentialKeeper, FixedProvider, Secret, SystemClock
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("django", reason="Django is not installed")

import django
from django.conf import settings
from django.core.checks import WARNING
from django.core.exceptions import ImproperlyConfigured
from django.db import ConnectionHandler, connections

from ephemeral_creds.contrib.django import keeper
from ephemeral_creds.contrib.django._process import process
from ephemeral_creds.contrib.django._wrapper import RotatingWrapper

ENGINE = "ephemeral_creds.contrib.django"
FIXED = FixedProvider("app", Secret("fixed-password-of-django"))

if not settings.configured:
    settings.configure(DATABASES={"default": {"ENGINE": ENGINE}}, USE_TZ=True)
django.setup()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    for started, _ in process._keepers.values():
        started.close()
    process._begin()


def database(options: dict[str, Any] | None = None, **values: Any) -> Any:
    options = {"credentials": FIXED} if options is None else options
    databases = {"default": {"ENGINE": ENGINE, "NAME": "app", "OPTIONS": options} | values}
    return ConnectionHandler(databases)["default"]


def found(wrapper: Any) -> list[str]:
    return [issue.id.removeprefix("ephemeral_creds.") for issue in wrapper.validation.check()]


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        (None, {}, []),
        ({"credentials": "file:///run/creds"}, {}, []),
        ({"credentials": lambda: FIXED}, {}, []),
        ({"credentials": FIXED, "rotating_pool": True}, {}, []),
        ({"credentials": FIXED, "rotating_pool": {"max_size": 2}}, {}, []),
        ({"credentials": FIXED, "rotating_pool": False}, {"CONN_MAX_AGE": None}, []),
        (None, {"USER": "me"}, ["E001"]),
        (None, {"PASSWORD": "of-a-setting"}, ["E001"]),
        ({"credentials": FIXED, "passfile": "/x"}, {}, ["E001"]),
        ({}, {}, ["E002"]),
        ({"credentials": 5}, {}, ["E002"]),
        ({"credentials": FIXED, "pool": True}, {}, ["E003"]),
        ({"credentials": FIXED, "rotating_pool": True}, {"CONN_MAX_AGE": 60}, ["E004"]),
        ({"credentials": FIXED, "rotating_pool": 5}, {}, ["E005"]),
        ({"credentials": FIXED, "rotating_pool": {"size": 5}}, {}, ["E006"]),
        ({"credentials": FIXED, "rotating_pool": {"conninfo": "x"}}, {}, ["E006"]),
        ({"credentials": "volt://role"}, {}, ["E007"]),
    ],
)
def test_checks_report_wrong_settings(
    options: dict[str, Any] | None, values: dict[str, Any], expected: list[str]
) -> None:
    assert found(database(options, **values)) == expected


def test_messages_name_the_alias_and_a_remedy() -> None:
    (issue,) = database(None, USER="me").validation.check()
    assert issue.msg.startswith("settings.DATABASES['default']: USER would be ignored")
    assert "Remove it" in issue.hint


def test_a_minted_role_that_would_own_tables_is_warned_of() -> None:
    provider = ScriptedProvider(SystemClock())
    (issue,) = database({"credentials": provider}).validation.check()
    assert (issue.id, issue.level) == ("ephemeral_creds.W001", WARNING)
    assert found(database({"credentials": provider, "assume_role": "app"})) == []
    assert provider.calls == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "E002"),
        ({"credentials": "volt://role"}, "there is no such scheme"),
        ({"credentials": lambda: 5}, "not 'int'"),
        ({"credentials": FIXED, "pool": True}, "rotating_pool"),
    ],
)
def test_a_connection_is_refused_with_the_same_words(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=expected):
        database(options).ensure_connection()


def test_parameters_have_neither_user_nor_password_nor_options_of_ours() -> None:
    params = database({"credentials": FIXED, "rotating_pool": True}).get_connection_params()
    assert {"user", "password", "credentials", "rotating_pool"} & set(params) == set()
    assert params["dbname"] == "app"


def test_a_copy_has_the_same_provider() -> None:
    wrapper = database()
    copied = wrapper.copy("other")
    assert copied.alias == "other"
    assert copied.settings_dict["OPTIONS"]["credentials"] is FIXED
    assert copied.settings_dict["OPTIONS"] is not wrapper.settings_dict["OPTIONS"]


class TestKeepers:
    """One for each source of credentials, in each process."""

    def test_aliases_with_one_source_share_one(self) -> None:
        first, second = (database({"credentials": FIXED}).keeper for _ in range(2))
        assert first is second
        assert first.wait(10.0).credentials.username == "app"
        assert database({"credentials": FixedProvider("x", Secret("y"))}).keeper is not first

    def test_a_callable_may_make_one_with_a_policy(self) -> None:
        made: list[CredentialKeeper] = []

        def make() -> CredentialKeeper:
            made.append(CredentialKeeper(FIXED, name="mine"))
            return made[-1]

        wrapper = database({"credentials": make})
        assert wrapper.keeper is wrapper.keeper is made[0]

    def test_an_alias_has_one(self) -> None:
        options = {"credentials": FIXED}
        given = {"default": {}, "app": {"ENGINE": ENGINE, "NAME": "app", "OPTIONS": options}}
        connections.settings |= connections.configure_settings(given)
        try:
            assert keeper("app") is database(options).keeper
            with pytest.raises(ImproperlyConfigured, match="ENGINE has to be"):
                keeper()
        finally:
            del connections["app"], connections.settings["app"]


def test_a_pool_that_nothing_has_used_is_not_made_to_be_closed() -> None:
    provider = ScriptedProvider(SystemClock())
    wrapper = database({"credentials": provider, "rotating_pool": True})
    wrapper.close_pool()
    wrapper.ensure_timezone()
    assert process.pools == {}
    assert provider.calls == []


def test_the_backend_for_postgis_needs_nothing_but_gdal() -> None:
    try:
        base = importlib.import_module(f"{ENGINE}.postgis.base")
    except ImproperlyConfigured as error:
        assert "GDAL" in str(error)  # noqa: PT017 - where it is installed, nothing is raised
    else:
        assert issubclass(base.DatabaseWrapper, RotatingWrapper)
