"""psycopg as Django's backend sees it: its module, its errors, and a test of a connection."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from django.db.utils import DatabaseErrorWrapper

from ephemeral_creds.contrib._login import CURRENT_USER, ROLE_MISSING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SUSPICIOUS", "Driver", "ErrorWrapper", "check_role"]

# admin_shutdown: what a session is ended with whose role is dropped in the thorough way. Others
# of the role have ended as well, and do not know it.
SUSPICIOUS = (*ROLE_MISSING, "57P01")


class _Wrapper(Protocol):
    """What these know of the backend's `DatabaseWrapper`."""

    def log_in(self, params: Mapping[str, Any]) -> Any: ...
    def verify(self) -> None: ...


class Driver:
    """psycopg as Django uses it, but for `connect`."""

    def __init__(self, wrapper: _Wrapper) -> None:
        self._wrapper = weakref.ref(wrapper)

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)

    def connect(self, **params: Any) -> Any:
        """Log in with the credentials in use."""
        wrapper = self._wrapper()
        assert wrapper is not None  # noqa: S101 - it calls this
        return wrapper.log_in(params)


class ErrorWrapper(DatabaseErrorWrapper):  # type: ignore[misc]
    """Django's, which also looks for what sessions get whose role is gone."""

    wrapper: _Wrapper

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, psycopg.Error) and error.sqlstate in SUSPICIOUS:
            self.wrapper.verify()
        super().__exit__(kind, error, traceback)


def check_role(connection: psycopg.Connection[Any]) -> None:
    """Raise what says that the connection does not work, or that its role is gone.

    psycopg_pool's own check sends an empty query, which a session answers that has outlived it.
    """
    connection.execute(CURRENT_USER)
    if not connection.autocommit:
        connection.rollback()
