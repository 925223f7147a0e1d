"""The thread that feeds the lifecycle machine and performs what it decides."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import traceback
import warnings
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from ephemeral_creds import events
from ephemeral_creds._clock import Clock, SystemClock
from ephemeral_creds._fork import register, registered
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    CredentialsExpired,
    EphemeralCredsError,
    KeeperClosed,
    NoCredentials,
    NotReady,
    ProviderError,
)
from ephemeral_creds.keeper.consumer import KeeperStatus, Member
from ephemeral_creds.keeper.registry import call_at_process_end
from ephemeral_creds.lifecycle.actions import (
    Action,
    AskEnd,
    Expire,
    Extend,
    Fetch,
    Operation,
    Prove,
    Publish,
    Reclaim,
    Renew,
    Report,
    Retire,
    Revoke,
    Stop,
    Suspect,
)
from ephemeral_creds.lifecycle.machine import Lifecycle, State
from ephemeral_creds.lifecycle.policy import RefreshPolicy
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerLeft,
    Failed,
    Granted,
    RefreshRequested,
    Renewed,
    Revoked,
    Signal,
    SourceChanged,
    SourceSeen,
    Start,
    Tick,
)
from ephemeral_creds.observers import Observer, log_event, logger
from ephemeral_creds.providers.base import CredentialProvider

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from ephemeral_creds._values import Grant

__all__ = ["CredentialKeeper", "running_keepers"]

# For all keepers of the process together.
_EXIT_TIMEOUT = 5.0

_numbers = itertools.count(1)


class CredentialKeeper:
    """Keeps one provider's credentials fresh, for any number of pools.

    One thread fetches, renews, replaces and revokes; `current` reads memory. A pool makes a
    keeper of its own unless it is given one; give several pools the same keeper to have them
    rotate together and share one role.

    The keeper never gives up: while the provider is away it tries again with growing delays, and
    the credentials in hand go on working until their own end.

    A process that forks must start its keepers in the child (in gunicorn's ``post_fork``, for
    example): a thread does not survive a fork, and the leases belong to the parent. In the child,
    a keeper that the parent had started raises `KeeperClosed` and revokes nothing.

    Args:
        provider: where the credentials come from. The keeper closes it.
        refresh: when to renew, retry and mint.
        observers: called with every `Event`; by default they are logged.
        clock: where to read time from.
        name: for logs and the thread; by default ``keeper-1`` and so on.
        policy: the deprecated name of `refresh`.

    Raises:
        ConfigurationError: `provider` is none.
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
        refresh = renamed("CredentialKeeper", refresh, policy)
        if not isinstance(provider, CredentialProvider):
            raise ConfigurationError(
                "the first argument of a CredentialKeeper is a provider; given was "
                f"{type(provider).__name__!r}"
            )
        self._name = name or f"keeper-{next(_numbers)}"
        self._provider = provider
        self._observers = (log_event,) if observers is None else tuple(observers)
        self._clock = clock or SystemClock()
        self._machine = Lifecycle(
            refresh or RefreshPolicy(),
            mints=provider.mints,
            draw=random.Random().random,  # noqa: S311 - spreads load
        )
        # Guards the machine, the inbox and the members. Nothing is called with it held but the
        # machine itself.
        self._changed = threading.Condition()
        self._inbox: deque[tuple[int, Signal]] = deque()
        self._posted = self._handled = 0
        self._members: dict[int, Member] = {}
        self._member_numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._asked_at: float | None = None
        # Flags of their own: whoever asks for them does not hold the lock.
        self._closing = self._forked = self._gave_up = False
        # What ended the thread although it should have gone on.
        self._ended = ""
        register(self)

    def __repr__(self) -> str:
        return f"<CredentialKeeper {self._name!r} of {self._provider.description}>"

    @property
    def name(self) -> str:
        """What the keeper is called in logs."""
        return self._name

    @property
    def clock(self) -> Clock:
        """What the deadlines of its grants are instants of."""
        return self._clock

    def start(self) -> None:
        """Start fetching, in the background. Does nothing where that has been done.

        Raises:
            KeeperClosed: it was closed, or belongs to the parent process of a fork.
            RuntimeError: the system allows the process no further thread. Nothing has been
                started; it can be tried again.
        """
        with self._changed:
            if self._forked or self._closing:
                raise self._unusable()
            if self._thread is not None:
                return
            # Before it runs: what is forked off meanwhile must know that the keeper is not its own.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                raise
        call_at_process_end(_close_running)

    def current(self) -> Grant:
        """Return what to log in with. Reads memory and never blocks.

        Raises:
            NotReady: nothing has arrived yet.
            CredentialsExpired: the last credentials passed their deadline.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.

        The first two say so where the keeper's thread has ended by a defect.
        """
        if not self._forked:
            grant = self._machine.usable(self._clock.now())
            if grant is not None:
                return grant
        raise self._unusable()

    def wait(self, timeout: float = 30.0) -> Grant:
        """Wait for something to log in with, up to `timeout` seconds.

        Raises:
            ConfigurationError, AccessDenied: at once, where there have been no credentials yet
                and only a person can help. The keeper itself goes on trying, slowly.
            NotReady, CredentialsExpired: nothing came in time; the cause is chained.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.
        """
        deadline = self._clock.now() + timeout
        with self._changed:
            while True:
                now = self._clock.now()
                grant = None if self._forked else self._machine.usable(now)
                if grant is not None:
                    return grant
                error = self._machine.last_error
                hopeless = isinstance(error, ConfigurationError | AccessDenied)
                if error is not None and hopeless and self._machine.current is None:
                    raise _copy(error) from None
                if self._closing or self._forked or self._ended or now >= deadline:
                    raise self._unusable() from (_copy(error) if error is not None else None)
                self._clock.wait(self._changed, deadline)

    def refresh(self, timeout: float = 30.0) -> Grant:
        """Ask for new credentials and wait, up to `timeout` seconds, until they are in use.

        Joins a refresh that is under way, unless its credentials have failed to log in seven
        times: others are asked for then. Mints are rationed, so that calling this in a loop makes
        nothing but delays.

        Returns:
            The grant in use afterwards; the same as before where the provider had no other.

        Raises:
            ProviderError, ConfigurationError: the provider failed. What was in use stays.
            NotReady: it took longer than `timeout`. What was in use stays, and so does the
                request. Or, at once, the keeper has not been started.
            KeeperClosed: the keeper was closed, or belongs to the parent process of a fork.
        """
        deadline = self._clock.now() + timeout
        with self._changed:
            if self._thread is None:
                raise self._unusable()
            failures = self._machine.counts.failed_fetches
            ticket = self._post(RefreshRequested())
            while self._handled < ticket or not self._machine.settled:
                if self._forked or self._closing or self._ended:
                    raise self._unusable()
                error = self._machine.last_error
                if self._machine.counts.failed_fetches > failures and error is not None:
                    raise _copy(error) from None
                if self._clock.now() >= deadline:
                    why = (
                        ": PostgreSQL has let nobody log in with the new credentials yet; "
                        "LoginRejected events say why, unless it does not answer"
                    )
                    raise NotReady(
                        f"{self._provider.description}: the refresh asked for has not finished "
                        f"in {timeout:g} s{why if self._machine.proving else ''}; it goes on in "
                        "the background"
                    )
                self._clock.wait(self._changed, deadline)
        return self.current()

    def status(self) -> KeeperStatus:
        """Return a snapshot for a health endpoint or a person."""
        with self._changed:
            now = self._clock.now()
            machine = self._machine
            grant = machine.current
            remaining = grant.lease.expires_at - now if grant is not None else None
            ends_in = machine.ends_at - now
            return KeeperStatus(
                name=self._name,
                provider=self._provider.description,
                state="failed" if self._ended else machine.state.value,
                ready=machine.usable(now) is not None and not self._forked,
                generation=grant.generation if grant is not None else 0,
                username=grant.credentials.username if grant is not None else None,
                expires_in=remaining if remaining != float("inf") else None,
                retired=machine.retired,
                last_error=machine.last_failure,
                ends_in=ends_in if ends_in != float("inf") else None,
                source_error=machine.source_error or None,
                **asdict(machine.counts),
            )

    def close(self, timeout: float = 5.0) -> None:
        """Revoke what was granted, close the provider and stop; returns in `timeout` seconds.

        Where the provider hangs, the thread is left to finish by itself, and leases that could
        not be revoked end at their own time. A keeper that has no thread, because it was not
        started or its thread has ended by a defect, closes the provider at once, which takes as
        long as the provider's own ``close()`` does. Safe to call twice, and from a forked child,
        where it does nothing.
        """
        if self._forked:
            return
        self._ask_to_close()
        self._finish_closing(timeout)

    @property
    def _is_running(self) -> bool:
        """Whether the end of the process has to wait for it: not where that was in vain before."""
        return self._thread is not None and not self._forked and not self._gave_up

    def _ask_to_close(self) -> None:
        with self._changed:
            if self._machine.state is State.NEW and self._thread is None:
                self._closing = True
                self._machine.handle(Close(), self._clock.now())
                self._changed.notify_all()
            else:
                self._post(Close())
        self._tell_failed()

    def _finish_closing(self, timeout: float) -> None:
        thread = self._thread
        if thread is None or self._ended:
            self._close_provider()
        elif thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                self._gave_up = True
                logger.warning(
                    "%s: %s does not answer; its thread and leases are left to end by themselves",
                    self._name,
                    self._provider.description,
                )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- for pools -------------------------------------------------------------------------

    def join(self, member: Member) -> tuple[int, Grant | None]:
        """Add a pool; return the number that it signals with, and the grant in use, if any."""
        with self._changed:
            if self._forked:
                raise self._unusable()
            number = next(self._member_numbers)
            self._members[number] = member
            return number, self._machine.join(number)

    def leave(self, number: int) -> None:
        """Remove a pool that has closed its connections."""
        with self._changed:
            if self._members.pop(number, None) is not None:
                self._post(ConsumerLeft(number))

    def signal(self, signal: Signal) -> None:
        """Have the keeper's thread take note of `signal`; returns at once."""
        with self._changed:
            self._post(signal)
        if isinstance(signal, Close):
            self._tell_failed()

    def report(self, event: events.Event) -> None:
        """Call the observers with `event`."""
        event = replace(event, keeper=self._name)
        for observer in self._observers:
            try:
                observer(event)
            except BaseException as error:  # an observer must not stop a renewal
                on_main = threading.current_thread() is threading.main_thread()
                if on_main and not isinstance(error, Exception):
                    # Ctrl-C arrives wherever the main thread is: it is not the observer's.
                    raise
                logger.error("%s: observer %r failed: %s", self._name, observer, _place(error))

    # -- the thread ------------------------------------------------------------------------

    def _post(self, signal: Signal) -> int:
        self._posted += 1
        self._closing = self._closing or isinstance(signal, Close)
        self._inbox.append((self._posted, signal))
        self._changed.notify_all()
        return self._posted

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - nobody else would ever hear of it
            place = _place(error)
            with self._changed:
                self._ended = place
                self._changed.notify_all()
            logger.critical(
                "%s: the thread that renews credentials has ended: %s; those in use work until "
                "their deadline",
                self._name,
                place,
            )
            self.report(events.KeeperFailed(error=f"the thread has ended: {place}"))
            self._tell_failed()

    def _work(self) -> None:
        try:
            self._provider.observe(self._hear)
            self._provider.watch(lambda: self.signal(SourceChanged()))
        except BaseException as error:  # noqa: BLE001 - without a watch there is still a fetch
            self.report(events.KeeperFailed(error=f"watching failed: {_place(error)}"))
        pending: deque[tuple[int, Signal]] = deque([(0, Start())])
        while not self._step(pending):
            with self._changed:
                while not (pending or self._inbox) and self._clock.now() < self._machine.deadline:
                    self._clock.wait(self._changed, self._machine.deadline)
                if not pending:
                    pending.append(self._inbox.popleft() if self._inbox else (0, Tick()))
        self._close_provider()

    def _close_provider(self) -> None:
        try:
            self._provider.close()
        except BaseException as error:  # noqa: BLE001 - there is nothing left to be done
            self.report(events.KeeperFailed(error=f"closing failed: {_place(error)}"))

    def _hear(self, event: events.Event) -> None:
        """Pass on what the provider tells; when a source's problem counts, the machine says."""
        match event:
            case events.SourceUnusable(error=error):
                self.signal(SourceSeen(error))
            case events.SourceRecovered():
                self.signal(SourceSeen(""))
            case _:
                self.report(event)

    def _step(self, pending: deque[tuple[int, Signal]]) -> bool:
        """Have the machine handle the next signal, and do what it says; true at the end."""
        ticket, signal = pending.popleft()
        with self._changed:
            actions = self._machine.handle(signal, self._clock.now())
            self._handled = max(self._handled, ticket)
            self._changed.notify_all()
        for action in actions:
            try:
                outcome = self._perform(action)
            except BaseException as error:  # noqa: BLE001 - a defect of ours must not stop it
                self.report(events.KeeperFailed(error=_place(error)))
                continue
            if outcome is not None:
                # What came in meanwhile came before the outcome: it may join what was in flight.
                with self._changed:
                    pending.extend(self._inbox)
                    self._inbox.clear()
                pending.append((0, outcome))
        return Stop() in actions

    def _perform(self, action: Action) -> Signal | None:
        match action:
            case Fetch() | Renew() | Revoke():
                return self._ask(action)
            case Prove(grant, number):
                with self._changed:
                    member = self._members.get(number)
                if member is not None:
                    member.prove(grant)
            case Publish(grant):
                for member in self._all_members():
                    member.publish(grant)
            case Extend(grant):
                for member in self._all_members():
                    member.extend(grant)
            case Retire(grant):
                for member in self._all_members():
                    member.retire(grant)
            case Expire(grant):
                for member in self._all_members():
                    member.expire(grant)
            case Reclaim(grant):
                for member in self._all_members():
                    member.reclaim(grant)
            case Suspect(grant):
                for member in self._all_members():
                    member.suspect(grant)
            case AskEnd(grant):
                for member in self._all_members():
                    member.ask_end(grant)
            case Report(event):
                if isinstance(event, events.FetchFailed):
                    self._tell_failed()
                self.report(event)
            case Stop():
                pass
            case _:
                assert_never(action)
        return None

    def _ask(self, operation: Operation) -> Signal:
        self._asked_at = self._clock.now()
        try:
            return self._answer(operation)
        finally:
            self._asked_at = None

    def _answer(self, operation: Operation) -> Signal:
        try:
            match operation:
                case Fetch():
                    return Granted(self._provider.fetch())
                case Renew(grant):
                    return Renewed(grant.generation, self._provider.renew(grant))
                case Revoke(grant):
                    self._provider.revoke(grant)
                    return Revoked(grant.generation)
                case _:
                    assert_never(operation)
        except EphemeralCredsError as error:
            failure: Exception = error
        except BaseException as error:  # noqa: BLE001 - a provider's defect is a failed attempt
            # Its text may hold anything; where it happened is enough to find it.
            failure = ProviderError(f"{self._provider.description}: defect: {_place(error)}")
        # Frames hold local variables, and this one is kept.
        return Failed(operation, failure.with_traceback(None))

    def _tell_failed(self) -> None:
        for member in self._all_members():
            try:
                member.failed()
            except Exception as error:  # noqa: BLE001 - it must not stop a close
                self.report(events.KeeperFailed(error=_place(error)))

    def _all_members(self) -> list[Member]:
        with self._changed:
            return list(self._members.values())

    def _unusable(self) -> NoCredentials:
        where = self._provider.description
        if self._forked:
            return KeeperClosed(
                f"{where}: this process was forked off the one that owns the keeper "
                f"{self._name!r}; make keepers and pools after the fork, for example in "
                "gunicorn's post_fork hook"
            )
        if self._closing:
            return KeeperClosed(f"{where}: the keeper {self._name!r} is closed")
        failure = self._machine.last_failure
        because = f"; last failure: {failure}" if failure is not None else ""
        if (asked_at := self._asked_at) is not None:
            waited = self._clock.now() - asked_at
            because += f"; a request of {waited:.0f} s ago is not answered yet"
        if self._ended:
            because += (
                f"; the thread of the keeper {self._name!r} has ended by a defect "
                f"({self._ended}): restart the process or make another keeper, and report it"
            )
        grant = self._machine.current
        if grant is not None and self._clock.now() >= grant.lease.expires_at:
            return CredentialsExpired(
                f"{where}: the credentials of generation {grant.generation} "
                f"have expired and could not be replaced{because}"
            )
        if grant is not None:
            return NotReady(f"{where}: no other credentials can be had{because}")
        if self._thread is None:
            return NotReady(
                f"{where}: the keeper {self._name!r} has not been started: call its start(), or "
                "use it in a with statement"
            )
        return NotReady(f"{where}: no credentials have arrived yet{because}")

    def _after_fork(self) -> None:
        # One that was not started has nothing of the parent's.
        self._forked = self._thread is not None
        # The parent's threads may have held the lock at the instant of the fork.
        self._changed = threading.Condition()


def renamed(
    keeper: str, refresh: RefreshPolicy | None, policy: RefreshPolicy | None
) -> RefreshPolicy | None:
    """Return what was given as ``refresh=``, or by its old name, which the caller's caller used.

    Raises:
        TypeError: both were given.
    """
    if policy is None:
        return refresh
    if refresh is not None:
        raise TypeError(f"{keeper}: policy= is the old name of refresh=: leave it out")
    warnings.warn(f"{keeper}(policy=) is now refresh=", DeprecationWarning, stacklevel=3)
    return policy


def _copy(error: Exception) -> Exception:
    """Return what may be raised: whatever is, refers to the frames that it passes.

    The one that is kept would keep their local variables, of the handler of a user's request, for
    example. Its constructor is not called: it may be anybody's.
    """
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    copied.__cause__ = error.__cause__
    return copied


def _place(error: BaseException) -> str:
    """Say what kind of error was raised where, without its text: that may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _close_all(keepers: Sequence[CredentialKeeper], timeout: float) -> None:
    """Close keepers of this process side by side, within `timeout` seconds all in all."""
    clock = SystemClock()
    deadline = clock.now() + timeout
    for keeper in keepers:
        keeper._ask_to_close()  # noqa: SLF001 - the same module
    for keeper in keepers:
        keeper._finish_closing(max(deadline - clock.now(), 0.0))  # noqa: SLF001


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Leave out that pools which are still open try to connect until the very end."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(argument, KeeperClosed) for argument in arguments)


def running_keepers() -> list[CredentialKeeper]:
    """Return the keepers of this process that have been started, and not given up."""
    return [keeper for keeper in registered(CredentialKeeper) if keeper._is_running]  # noqa: SLF001


def _close_running() -> None:
    # Does nothing where it is there already.
    logging.getLogger("psycopg.pool").addFilter(_is_worth_telling)
    _close_all(running_keepers(), _EXIT_TIMEOUT)
