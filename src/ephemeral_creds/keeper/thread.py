"""The thread of a keeper: signals go into the lifecycle machine, and what it decides is done."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from ephemeral_creds import events
from ephemeral_creds.exceptions import EphemeralCredsError, ProviderError
from ephemeral_creds.keeper.consumers import Consumers
from ephemeral_creds.keeper.phase import MOVES, Phase
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle import signals as s
from ephemeral_creds.observers import logger, notify, where_raised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds._values import Grant
    from ephemeral_creds.keeper.consumer import Consumer
    from ephemeral_creds.lifecycle.machine import Lifecycle
    from ephemeral_creds.observers import Observer
    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["KeeperThread"]


class KeeperThread:
    """Feeds `machine` and performs its actions.

    Args:
        name: for the thread and the logs.
        provider: asked by this thread only, and closed at its end.
        machine: what decides.
        clock: where to read time from.
        observers: called with every event.

    Attributes:
        changed: guards what follows; notified when any of it has changed. With it held, nothing
            but the machine is called.
        phase: may be read without the lock.
        handled: the number of the last signal that the machine has handled; see `post`.
        asked_at: the instant at which the provider was asked what it has not answered yet.
        crash: what ended the thread in the phase `Phase.CRASHED`.
    """

    def __init__(
        self,
        name: str,
        provider: CredentialProvider,
        machine: Lifecycle,
        clock: Clock,
        observers: Sequence[Observer],
    ) -> None:
        self.name = name
        self.provider = provider
        self.machine = machine
        self.clock = clock
        self.changed = threading.Condition()
        self.phase = Phase.NEW
        self.handled = 0
        self.asked_at: float | None = None
        self.crash = ""
        self._observers = observers
        self._inbox: deque[tuple[int, s.Signal]] = deque()
        self._posted = 0
        self._consumers = Consumers(self.report)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. The lock is held.

        Raises:
            RuntimeError: the system allows no further thread. It can be tried again.
        """
        # Before it runs: a child that is forked off meanwhile must know what is not its own.
        self._move(Phase.RUNNING)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            self._move(Phase.NEW)
            raise

    def post(self, signal: s.Signal) -> int:
        """Have the machine handle `signal`, and return its number. The lock is held."""
        if isinstance(signal, s.Close) and self.phase is Phase.RUNNING:
            self._move(Phase.CLOSING)
        self._posted += 1
        self._inbox.append((self._posted, signal))
        self.changed.notify_all()
        return self._posted

    def signal(self, signal: s.Signal) -> None:
        """Have the machine handle `signal`."""
        with self.changed:
            self.post(signal)
        if isinstance(signal, s.Close):
            self._consumers.tell_failed()

    def join(self, consumer: Consumer) -> tuple[int, Grant | None]:
        """Add a consumer; return its number and the grant in use. The lock is held."""
        number = self._consumers.add(consumer)
        return number, self.machine.join(number)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after changes, until what is returned is called. The lock is held."""
        number = self._consumers.listen(callback)

        def ignore() -> None:
            with self.changed:
                self._consumers.ignore(number)

        return ignore

    def leave(self, number: int) -> None:
        """Remove a consumer."""
        with self.changed:
            if self._consumers.remove(number):
                self.post(s.ConsumerLeft(number))

    def report(self, event: events.Event) -> None:
        """Call the observers with `event`."""
        notify(self._observers, replace(event, keeper=self.name))

    def inherit(self) -> None:
        """Leave to the parent what is the parent's: this is the child of a fork."""
        # A thread of the parent may have held the lock.
        self.changed = threading.Condition()
        if Phase.INHERITED in MOVES[self.phase]:
            with self.changed:
                self._move(Phase.INHERITED)
        elif self.phase is Phase.NEW:
            # The child may start it; consumers that joined before stayed in the parent.
            for number in self._consumers.numbers:
                self.leave(number)

    def _move(self, phase: Phase) -> None:
        if phase not in MOVES[self.phase]:
            raise RuntimeError(f"a keeper cannot move from {self.phase.value} to {phase.value}")
        self.phase = phase
        self.changed.notify_all()

    # -- closing ---------------------------------------------------------------------------

    def ask_to_close(self) -> None:
        """Have the thread revoke what was granted, and end; without one, close the provider."""
        with self.changed:
            alone = self.phase in (Phase.NEW, Phase.CRASHED)
            if alone:
                self._move(Phase.STOPPED)
            else:
                self.post(s.Close())
        self._consumers.tell_failed()
        if alone:
            self._close_provider()

    def wait_until_stopped(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of the thread."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(timeout)
        with self.changed:
            hung = self.phase is Phase.CLOSING
            if hung:
                self._move(Phase.HUNG)
        if hung:
            logger.warning(
                "%s: %s does not answer; its leases are revoked if it still does, and expire "
                "otherwise",
                self.name,
                self.provider.description,
            )

    def _close_provider(self) -> None:
        try:
            self.provider.close()
        except BaseException as error:  # noqa: BLE001 - nothing is left to be done
            self.report(events.KeeperFailed(error=f"closing failed: {where_raised(error)}"))

    # -- what runs in the thread -----------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - otherwise it would be lost
            if self._crashed(where_raised(error)):
                return
        self._close_provider()
        with self.changed:
            self._move(Phase.STOPPED)

    def _crashed(self, crash: str) -> bool:
        """Note a defect; return whether it ended what should have gone on."""
        with self.changed:
            running = self.phase is Phase.RUNNING
            if running:
                self.crash = crash
                self._move(Phase.CRASHED)
        logger.critical(
            "%s: the thread that renews credentials has crashed (%s); those in use work until "
            "their deadline",
            self.name,
            crash,
        )
        self.report(events.KeeperFailed(error=f"the thread has crashed: {crash}"))
        self._consumers.tell_failed()
        return running

    def _work(self) -> None:
        try:
            self.provider.observe(self._hear)
            self.provider.watch(lambda: self.signal(s.SourceChanged()))
        except BaseException as error:  # noqa: BLE001 - without a watch it can still fetch
            self.report(events.KeeperFailed(error=f"watching failed: {where_raised(error)}"))
        pending: deque[tuple[int, s.Signal]] = deque([(0, s.Start())])
        while not self._step(pending):
            with self.changed:
                while not (pending or self._inbox) and self.clock.now() < self.machine.deadline:
                    self.clock.wait(self.changed, self.machine.deadline)
                if not pending:
                    pending.append(self._inbox.popleft() if self._inbox else (0, s.Tick()))

    def _hear(self, event: events.Event) -> None:
        """Pass on an event of the provider; whether a source's problem counts, the machine says."""
        match event:
            case events.SourceUnusable(error=error):
                self.signal(s.SourceSeen(error))
            case events.SourceRecovered():
                self.signal(s.SourceSeen(""))
            case _:
                self.report(event)

    def _step(self, pending: deque[tuple[int, s.Signal]]) -> bool:
        """Have the machine handle the next signal, perform its actions; return if it has ended."""
        number, signal = pending.popleft()
        with self.changed:
            actions = self.machine.handle(signal, self.clock.now())
            self.handled = max(self.handled, number)
            self.changed.notify_all()
        for action in actions:
            try:
                outcome = self._perform(action)
            except BaseException as error:  # noqa: BLE001 - a defect of ours must not stop it
                self.report(events.KeeperFailed(error=where_raised(error)))
                continue
            if outcome is not None:
                # What came in meanwhile came before the outcome: it may join what was in flight.
                with self.changed:
                    pending.extend(self._inbox)
                    self._inbox.clear()
                pending.append((0, outcome))
        return a.Stop() in actions

    def _perform(self, action: a.Action) -> s.Signal | None:
        match action:
            case a.Fetch() | a.Renew() | a.Revoke():
                return self._ask(action)
            case a.Report(event):
                if isinstance(event, events.FetchFailed):
                    self._consumers.tell_failed()
                self.report(event)
            case a.Stop():
                pass
            case _:
                self._consumers.tell(action)
        return None

    def _ask(self, operation: a.Operation) -> s.Signal:
        """Return the provider's answer."""
        self.asked_at = self.clock.now()
        try:
            match operation:
                case a.Fetch(refused):
                    if refused is not None:
                        return s.Granted(self.provider.fetch_instead(refused))
                    return s.Granted(self.provider.fetch())
                case a.Renew(grant):
                    return s.Renewed(grant.generation, self.provider.renew(grant))
                case a.Revoke(grant):
                    self.provider.revoke(grant)
                    return s.Revoked(grant.generation)
                case _:
                    assert_never(operation)
        except EphemeralCredsError as error:
            failure: Exception = error
        except BaseException as error:  # noqa: BLE001 - a provider's defect is a failed attempt
            # Its text may hold anything; where it happened is enough to find it.
            failure = ProviderError(f"{self.provider.description}: defect: {where_raised(error)}")
        finally:
            self.asked_at = None
        # Frames hold local variables, and this one is kept.
        return s.Failed(operation, failure.with_traceback(None))
