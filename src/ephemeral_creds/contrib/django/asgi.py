"""The end of an ASGI server's process, which Django's application is not told about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ephemeral_creds.contrib.django._process import process
from ephemeral_creds.keeper.loop import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, object]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Message, Receive, Send], Awaitable[None]]

__all__ = ["revoke_at_shutdown"]


def revoke_at_shutdown(application: Callable[..., Awaitable[Any]]) -> Application:
    """Return `application` with the lifespan protocol, which revokes all leases at its end.

    Django has no part in that protocol
    (https://asgi.readthedocs.io/en/latest/specs/lifespan.html), and uvicorn ends its process by
    the signal that has stopped it: without this, roles would stay until their leases end.

    Args:
        application: Django's, from ``get_asgi_application()``, or what is around it.
    """

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        stage = ""
        while stage != "lifespan.shutdown":
            stage = str((await receive())["type"])
            if stage == "lifespan.shutdown":
                await in_thread(process.close)
            await send({"type": f"{stage}.complete"})

    return call
