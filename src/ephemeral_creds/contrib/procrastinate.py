"""procrastinate: a connector whose workers notice each job, also in a rotation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from ephemeral_creds.contrib._listen import listen_beside
from ephemeral_creds.contrib._missing import missing

try:
    import procrastinate
except ModuleNotFoundError as error:
    raise missing(error, "procrastinate") from None

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from procrastinate.connector import Notify

    from ephemeral_creds.pool._async.pool import AsyncRotatingConnectionPool

__all__ = ["RotatingConnector"]

# What the trigger of a new job sends; the number is not looked at.
_LOOK = json.dumps({"type": "job_inserted", "job_id": 0})


class RotatingConnector(procrastinate.PsycopgConnector):
    """A `procrastinate.PsycopgConnector` for an `AsyncRotatingConnectionPool`.

    procrastinate's own connector loses its connection that listens in each rotation. A job whose
    notification is sent before the next one listens is noticed by polling only. This one has
    another connection listen before it closes the old one, and after a connection broke, it
    has the worker look for jobs; see `ephemeral_creds.contrib.psycopg.alisten`.

    Give the pool to ``App.open_async``, or to ``pool_factory=`` a function that makes it.
    """

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Call `on_notification` for what is notified on `channels`, until it is cancelled."""
        pool = cast("AsyncRotatingConnectionPool[Any]", self.pool)
        names = tuple(channels)

        async def look() -> None:
            await on_notification(channel=names[0], payload=_LOOK)

        async with await listen_beside(pool, names, look) as notices:
            async for notice in notices:
                await on_notification(channel=notice.channel, payload=notice.payload)
