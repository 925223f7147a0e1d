"""One login, which leaves its password nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from ephemeral_creds.keeper.loop import in_thread
from ephemeral_creds.pool.login import clean_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ephemeral_creds._values import Grant
    from ephemeral_creds.pool.diagnosis import Diagnosis
    from ephemeral_creds.pool.failure import ConnectFailure

__all__ = ["login_async"]

T = TypeVar("T")


async def login_async(
    connect: Callable[..., Awaitable[T]],
    conninfo: str,
    kwargs: Mapping[str, Any],
    grant: Grant,
    diagnosis: Diagnosis,
) -> T | ConnectFailure:
    """Connect with `grant`; a failure is returned, so that no frame with its password is raised."""
    credentials = grant.credentials
    try:
        return await connect(
            conninfo,
            **kwargs,
            user=credentials.username,
            password=credentials.password.reveal(),
        )
    except psycopg.Error as error:
        # Imported with the first one: it takes longer than all the rest of this module.
        from ephemeral_creds.pool.diagnosis import FailedLogin

        failure = clean_failure(error)
        failed = FailedLogin(error, conninfo, kwargs, credentials)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must lose its traceback
        return clean_failure(error)
    except BaseException as error:
        # Interrupted in psycopg, whose frames have the password.
        error.__traceback__ = None
        raise
    # libpq resolves names and starts a connect without asking whether it may wait.
    verdict = await in_thread(diagnosis.explain, failed, grant.generation)
    return failure.because(verdict)
