"""The keeper for asyncio: its waits are awaited."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ephemeral_creds.keeper.loop import in_thread, require_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.keeper import CredentialKeeper
    from ephemeral_creds.keeper.status import KeeperStatus
    from ephemeral_creds.lifecycle.policy import RefreshPolicy
    from ephemeral_creds.observers import Observer
    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["AsyncCredentialKeeper"]


class AsyncCredentialKeeper:
    """A `CredentialKeeper` for asyncio.

    It works in the same thread, and no method blocks the event loop, even if Vault hangs. Pools of
    both kinds take it in place of a keeper.

    Args:
        provider: and all that follow: as `CredentialKeeper` has them.

    Raises:
        ConfigurationError: `provider` is not a `CredentialProvider`.
    """

    def __init__(
        self,
        provider: CredentialProvider,
        *,
        refresh: RefreshPolicy | None = None,
        observers: Sequence[Observer] | None = None,
        clock: Clock | None = None,
        name: str | None = None,
        policy: RefreshPolicy | None = None,
    ) -> None:
        # As pools do: it takes longer to import than all the rest.
        from ephemeral_creds.keeper.keeper import CredentialKeeper, renamed

        refresh = renamed("AsyncCredentialKeeper", refresh, policy)
        self._keeper = CredentialKeeper(
            provider, refresh=refresh, observers=observers, clock=clock, name=name
        )

    def __repr__(self) -> str:
        keeper = repr(self._keeper) if hasattr(self, "_keeper") else "<CredentialKeeper not made>"
        return f"<Async{keeper[1:]}"

    @property
    def keeper(self) -> CredentialKeeper:
        """The keeper itself, for code outside the event loop."""
        return self._keeper

    async def start(self) -> None:
        """Start fetching, in the background. Does nothing if it has been started.

        Raises what `CredentialKeeper.start` does, and:

        Raises:
            ConfigurationError: no asyncio event loop runs here. Nothing has been started.
        """
        require_asyncio("AsyncCredentialKeeper.start()")
        self._keeper.start()

    def current(self) -> Grant:
        """Return what to log in with, as `CredentialKeeper.current` does."""
        return self._keeper.current()

    @property
    def generation(self) -> int:
        """The generation in use, as `CredentialKeeper.generation` has it."""
        return self._keeper.generation

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever other credentials are in use.

        As `CredentialKeeper.on_change` does, but in the event loop that runs where this is called.
        """
        loop = asyncio.get_running_loop()

        def call() -> None:
            # Nothing waits in a closed loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(callback)

        return self._keeper.on_change(call)

    async def changed(self, generation: int) -> Grant:
        """Wait until another generation than `generation` is in use, and return its grant.

        Returns at once if that is so already. Waits without limit; put it into `asyncio.timeout`.

        Raises:
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.
            NotReady: its thread has crashed.
            CredentialsExpired: the other generation has expired already.
        """
        changed = asyncio.Event()
        ignore = self.on_change(changed.set)
        try:
            while self.generation == generation:
                self._keeper.require_running()
                await changed.wait()
                changed.clear()
            return self.current()
        finally:
            ignore()

    async def wait(self, timeout: float = 30.0) -> Grant:
        """Wait for something to log in with, as `CredentialKeeper.wait` does."""
        return await in_thread(self._keeper.wait, timeout)

    async def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait for them, as `CredentialKeeper.refresh` does."""
        return await in_thread(self._keeper.refresh, timeout)

    def status(self) -> KeeperStatus:
        """Return a snapshot for a health endpoint or a person."""
        return self._keeper.status()

    async def close(self, timeout: float = 5.0) -> None:
        """Revoke what was granted and stop, as `CredentialKeeper.close` does."""
        await in_thread(self._keeper.close, timeout)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
