"""Tests that every provider of credentials has to pass, ours and those of others.

Subclass `ProviderContract` in a test module, and give it the fixtures::

    from ephemeral_creds.testing import ProviderContract

    class TestMyProvider(ProviderContract):
        @pytest.fixture
        def provider(self):
            return MyProvider("https://secrets.example.com/app")

What a keeper relies on, and cannot check by itself while a service runs, is here.
"""

from __future__ import annotations

import copy
import os
import pickle
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from ephemeral_creds._clock import SystemClock
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.events import Event
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    LeaseLost,
    ProviderUnavailable,
)
from ephemeral_creds.providers.base import CredentialProvider
from ephemeral_creds.testing._process import in_child, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ephemeral_creds._clock import Clock

__all__ = ["ProviderContract"]

_PATIENCE = 30.0  # seconds for what has to come, on a machine that has much else to do
_BRIEF = 0.1  # seconds for what must not come
_SHORT = 4  # a password of so few characters may be part of any text by chance


class ProviderContract:
    """The contract of `CredentialProvider`, as pytest tests.

    Override the fixture `provider`. The others have a default, with which the tests that need more
    are skipped: what a source cannot do need not be given.
    """

    # --- fixtures to override ---------------------------------------------------------------

    @pytest.fixture
    def provider(self) -> CredentialProvider:
        """A provider whose next `fetch` succeeds; each test gets its own, and closes it."""
        raise NotImplementedError("override the fixture 'provider' of ProviderContract")

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock that the provider reads."""
        return SystemClock()

    @pytest.fixture
    def known_secrets(self) -> Sequence[str]:
        """What must not be shown besides the passwords: the token that it logs in with, say."""
        return ()

    @pytest.fixture
    def change(self) -> Callable[[], object] | None:
        """Change the source, so that the next `fetch` brings other credentials."""
        return None

    @pytest.fixture
    def exists(self) -> Callable[[str], bool] | None:
        """Tell whether there is a user of that name, for a provider that mints."""
        return None

    @pytest.fixture
    def unavailable(self) -> CredentialProvider | None:
        """A provider whose source does not answer."""
        return None

    @pytest.fixture
    def misconfigured(self) -> CredentialProvider | None:
        """A provider of something that does not exist at its source."""
        return None

    @pytest.fixture
    def denied(self) -> CredentialProvider | None:
        """A provider that its source refuses."""
        return None

    @pytest.fixture
    def close_within(self) -> float:
        """Seconds that `close` may take at most."""
        return 15.0

    @pytest.fixture
    def fetch_within(self) -> float:
        """Seconds that a `fetch` may take at most if the source does not answer."""
        return 60.0

    # --- description and representation ------------------------------------------------------

    def test_the_description_is_one_line_that_stays(self, provider: CredentialProvider) -> None:
        """Messages and metrics have it: it names what and where, before the first fetch too."""
        before = provider.description
        assert before.strip() == before != "", "description: empty, or with spaces around it"
        assert before.isprintable(), "description: more than one line"
        with _fetched(provider):
            assert provider.description == before, "description: changed by a fetch"

    def test_no_text_of_it_shows_a_secret(
        self, provider: CredentialProvider, known_secrets: Sequence[str]
    ) -> None:
        """Neither of the provider nor of the grant: both end up in tracebacks."""
        with _fetched(provider) as grant:
            texts = {
                "description": provider.description,
                "repr": repr(provider),
                "str": str(provider),
                "the grant's repr": repr(grant),
                "the origin's repr": repr(grant.origin),
            }
            _hides(texts, grant, known_secrets)

    def test_a_pickle_is_refused_or_has_no_secret(
        self, provider: CredentialProvider, known_secrets: Sequence[str]
    ) -> None:
        """A pickle ends up in queues and caches."""
        with _fetched(provider) as grant:
            pickles = {"the provider's": _pickled(provider), "the grant's": _pickled(grant)}
            _hides({f"{whose} pickle": p for whose, p in pickles.items()}, grant, known_secrets)

    # --- fetch -------------------------------------------------------------------------------

    def test_a_fetch_returns_a_grant(self, provider: CredentialProvider, clock: Clock) -> None:
        """Its times count from when the request was sent, on the provider's clock."""
        before = clock.now()
        with _fetched(provider) as grant:
            assert isinstance(grant, Grant)
            assert isinstance(grant.credentials, Credentials)
            assert isinstance(grant.credentials.username, str)
            assert grant.credentials.username, "the user name is empty"
            assert isinstance(grant.credentials.password, Secret)
            assert grant.credentials.password, "the password is empty"
            assert grant.generation == 0, "generation: the keeper numbers grants"
            self._check_lease(grant.lease, before, clock)

    def test_mints_is_true_if_each_fetch_makes_something(
        self, provider: CredentialProvider
    ) -> None:
        """The keeper rations the fetches of a provider that mints, and revokes what they made."""
        with _fetched(provider) as first, _fetched(provider) as second:
            if type(provider).mints:
                return
            same = first.credentials == second.credentials
            if first.lease.is_token:
                # Each fetch may bring another token, and makes nothing.
                same = first.credentials.username == second.credentials.username
            assert same, "mints is False: but a second fetch brought other credentials"
            assert not first.lease.lease_id, "mints is False: but there is a lease to revoke"

    def test_a_change_at_the_source_is_fetched(
        self, provider: CredentialProvider, change: Callable[[], object] | None
    ) -> None:
        """With no memory of what it fetched before."""
        if change is None:
            pytest.skip("no fixture 'change'")
        with _fetched(provider) as first:
            change()
            with _fetched(provider) as second:
                assert first.credentials != second.credentials

    def test_others_may_be_asked_for_than_those_refused(self, provider: CredentialProvider) -> None:
        """A source without others is simply asked again."""
        with _fetched(provider) as refused:
            grant = provider.fetch_instead(refused)
            assert isinstance(grant, Grant)
            if type(provider).mints:
                provider.revoke(grant)

    def test_events_show_no_secret(
        self, provider: CredentialProvider, known_secrets: Sequence[str]
    ) -> None:
        """They go to logs and to metrics."""
        events: list[Event] = []
        provider.observe(events.append)
        with _fetched(provider) as grant:
            assert all(isinstance(event, Event) for event in events)
            _hides({type(event).__name__: repr(event) for event in events}, grant, known_secrets)

    # --- leases ------------------------------------------------------------------------------

    def test_a_renewal_extends_the_same_lease(
        self, provider: CredentialProvider, clock: Clock
    ) -> None:
        """The credentials stay as they are, and the lease's id too."""
        with _fetched(provider) as grant:
            if not grant.lease.renewable:
                pytest.skip("its leases are not renewable")
            before = clock.now()
            lease = provider.renew(grant)
            self._check_lease(lease, before, clock)
            assert lease.lease_id == grant.lease.lease_id
            assert lease.expires_at >= grant.lease.expires_at - 2.0, "a renewal shortened the lease"

    def test_a_revoked_lease_is_lost(
        self, provider: CredentialProvider, exists: Callable[[str], bool] | None
    ) -> None:
        """To revoke it again does nothing, and to renew it raises `LeaseLost`."""
        with _fetched(provider) as grant:
            username = grant.credentials.username
            if exists is not None:
                assert exists(username), f"there is no {username!r} after the fetch"
            provider.revoke(grant)
            if exists is not None and type(provider).mints:
                assert not exists(username), f"{username!r} is left after its revocation"
            provider.revoke(grant)
            if grant.lease.renewable:
                with pytest.raises(LeaseLost):
                    provider.renew(grant)

    # --- errors ------------------------------------------------------------------------------

    def test_a_source_that_does_not_answer_is_unavailable(
        self,
        unavailable: CredentialProvider | None,
        known_secrets: Sequence[str],
        fetch_within: float,
    ) -> None:
        """It is tried again soon, and a `fetch` is bounded in time."""
        begun = time.monotonic()
        _fails(unavailable, ProviderUnavailable, known_secrets, "unavailable")
        assert time.monotonic() - begun < fetch_within, "fetch: not bounded in time"

    def test_an_absent_secret_is_a_configuration_error(
        self, misconfigured: CredentialProvider | None, known_secrets: Sequence[str]
    ) -> None:
        """It is tried again slowly, and raised at once where there were no credentials yet."""
        _fails(misconfigured, ConfigurationError, known_secrets, "misconfigured")

    def test_a_refusal_is_access_denied(
        self, denied: CredentialProvider | None, known_secrets: Sequence[str]
    ) -> None:
        """The same, and the message says what right is missing."""
        _fails(denied, AccessDenied, known_secrets, "denied")

    # --- watch, fork and close ---------------------------------------------------------------

    def test_a_watch_notices_a_change_until_it_is_closed(
        self, provider: CredentialProvider, change: Callable[[], object] | None
    ) -> None:
        """And nothing else: each call makes the keeper fetch."""
        if type(provider).watch is CredentialProvider.watch or change is None:
            pytest.skip("it watches nothing, or no fixture 'change'")
        calls: list[float] = []
        provider.watch(lambda: calls.append(time.monotonic()))
        with _fetched(provider):
            time.sleep(_BRIEF)
            assert not calls, "on_change was called although nothing has changed"
            change()
            called = wait_until(lambda: calls, _PATIENCE)
            assert called, f"on_change was not called within {_PATIENCE:g} s"
            provider.close()
            seen = len(calls)
            change()
            time.sleep(_BRIEF)
            assert len(calls) == seen, "on_change was called after close()"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_child_of_a_fork_fetches_for_itself(self, provider: CredentialProvider) -> None:
        """With no socket, lock or lease of its parent, whose grants live on."""
        with _fetched(provider) as grant:

            def use() -> None:
                own = provider.fetch()
                provider.revoke(copy.copy(grant))  # does nothing: it is the parent's
                provider.revoke(own)
                provider.close()

            said = in_child(use, _PATIENCE)
            assert not said, f"in a child of a fork: {said}"
            if grant.lease.renewable:
                provider.renew(grant)  # the child has revoked only what is its own

    def test_close_is_soon_done_and_may_be_called_twice(
        self, provider: CredentialProvider, close_within: float
    ) -> None:
        """A service's shutdown waits for it, and a signal may call it again."""
        with _fetched(provider) as grant:
            provider.revoke(grant)
            begun = time.monotonic()
            provider.close()
            provider.close()
            assert time.monotonic() - begun < close_within, "close(): not bounded in time"

    def test_close_without_a_fetch(self, provider: CredentialProvider) -> None:
        """As after a start that failed."""
        provider.close()

    # --- what several tests need -------------------------------------------------------------

    @staticmethod
    def _check_lease(lease: Lease, before: float, clock: Clock) -> None:
        assert isinstance(lease, Lease)
        after = clock.now()
        # 0 is for what has no time at all, as constants have.
        counts = before <= lease.requested_at <= after or lease.requested_at == 0.0
        assert counts, "requested_at: not the instant at which the request was sent"
        assert lease.expires_at > after, "the lease had expired when it came"
        assert lease.ask_again_in > 0, "ask_again_in: 0 would be a loop"
        assert not lease.renewable or lease.lease_id, "a renewable lease has an id"


@contextmanager
def _fetched(provider: CredentialProvider) -> Iterator[Grant]:
    """Fetch, and revoke and close in the end: a test leaves nothing behind."""
    grant = provider.fetch()
    try:
        yield grant
    finally:
        if type(provider).mints:
            with suppress(EphemeralCredsError):  # of one that is closed already
                provider.revoke(grant)
        provider.close()


def _pickled(value: object) -> str:
    try:
        return pickle.dumps(value).decode("latin-1")
    except Exception:  # noqa: BLE001 - however it is refused
        return ""


def _hides(texts: dict[str, str], grant: Grant | None, known: Sequence[str]) -> None:
    secrets = [*known]
    if grant is not None:
        secrets.append(grant.credentials.password.reveal())
    for where, text in texts.items():
        # No assert with the text itself: pytest would show the secret.
        if any(len(secret) > _SHORT and secret in text for secret in secrets):
            pytest.fail(f"{where} shows a secret", pytrace=False)


def _fails(
    provider: CredentialProvider | None,
    kind: type[EphemeralCredsError],
    known_secrets: Sequence[str],
    fixture: str,
) -> None:
    """Check that a fetch raises an error of that kind, which is fit to be logged and pickled."""
    if provider is None:
        pytest.skip(f"no fixture {fixture!r}")
    try:
        with pytest.raises(EphemeralCredsError) as caught:
            provider.fetch()
    finally:
        provider.close()
    error = caught.value
    assert isinstance(error, kind), f"{type(error).__name__} instead of {kind.__name__}: {error}"
    assert len(str(error)) > 20, "the message says too little: what, where, and what to do"
    foreign = [e for e in (error.__cause__, error.__context__) if e is not None]
    ours = all(isinstance(e, EphemeralCredsError) for e in foreign)
    assert ours, "the error is chained to a foreign one, which may hold a secret: raise from None"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - made right here
    # Without this function's own frame, which has the secrets to look for.
    frames = error.__traceback__ and error.__traceback__.tb_next
    shown = traceback.TracebackException(type(error), error, frames, capture_locals=True)
    texts = {"the error": f"{error!r} {error}", "its traceback": "".join(shown.format())}
    _hides(texts, None, known_secrets)
