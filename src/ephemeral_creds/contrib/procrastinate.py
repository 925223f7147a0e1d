"""procrastinate: a connector whose workers notice each job, also in a rotation."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from ephemeral_creds.contrib._listen import listen
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

    procrastinate's own connector listens on a connection outside the pool. A job whose notification
    is sent between the end of that and the beginning of the next is noticed by polling only. This
    one listens on a connection of the pool, and on another one before it returns that. After a
    connection broke, it has the worker look for jobs.

    Give the pool to ``App.open_async``, or to ``pool_factory=`` a function that makes it. It has to
    have two connections or more.
    """

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Call `on_notification` for what is notified on `channels`, until it is cancelled."""
        pool = cast("AsyncRotatingConnectionPool[Any]", self.pool)
        names = tuple(channels)
        async with aclosing(listen(pool, names)) as notices:
            async for notice in notices:
                if notice is None:
                    await on_notification(channel=names[0], payload=_LOOK)
                else:
                    await on_notification(channel=notice.channel, payload=notice.payload)
