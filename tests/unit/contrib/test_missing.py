"""A library that is not installed."""

from __future__ import annotations

from ephemeral_creds.contrib._missing import missing


def test_the_error_names_the_extra() -> None:
    error = missing(ModuleNotFoundError("No module named 'asyncpg'", name="asyncpg"), "asyncpg")
    assert str(error) == (
        "ephemeral_creds.contrib.asyncpg needs asyncpg: pip install 'ephemeral-creds[asyncpg]'"
    )
    assert error.name == "asyncpg"
