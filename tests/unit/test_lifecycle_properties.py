"""The machine through random faults, clock jumps, suspends, late answers and doubled ones.

``EPHEMERAL_CREDS_EXAMPLES`` sets how many examples are run; a thorough run has 100,000.
"""

from __future__ import annotations

import math
import os
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from lifecycle_driver import grant

from ephemeral_creds._lifecycle import Lifecycle, State
from ephemeral_creds._policy import RefreshPolicy
from ephemeral_creds._signals import (
    Accepted,
    Close,
    Expire,
    Failed,
    Fetch,
    Granted,
    Left,
    Operation,
    Prove,
    Publish,
    RefreshRequested,
    Rejected,
    Released,
    Renew,
    Renewed,
    Report,
    Retire,
    Revoke,
    Revoked,
    Signal,
    SourceChanged,
    Start,
    Stop,
    Tick,
)
from ephemeral_creds._values import Grant, Lease
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)

EXAMPLES = int(os.environ.get("EPHEMERAL_CREDS_EXAMPLES", "300"))

durations = st.sampled_from([0.0, 0.5, 2.0, 4.0, 60.0, 3600.0, 86400.0])
pauses = st.sampled_from([0.0, 0.001, 0.5, 1.0, 3.0, 10.0, 45.0, 1000.0, 50000.0])
generations = st.integers(0, 12)
errors = st.sampled_from(
    [
        ProviderUnavailable("away"),
        ProviderUnavailable("quota", retry_after=33.0),
        MalformedResponse("html"),
        AccessDenied("denied"),
        ConfigurationError("unknown role"),
        LeaseLost("lease not found"),
    ]
)


class LifecycleMachine(RuleBasedStateMachine):
    """Plays keeper, provider, pools and clock, and remembers what it gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.in_flight: Operation | None = None
        self.pools: set[int] = set()
        self.next_pool = 1
        self.next_user = 1
        self.proofs: list[Prove] = []
        self.retired: list[tuple[int, int]] = []
        self.fetched_at: list[float] = []
        self.answers: list[Signal] = []
        self.ends: dict[str, float] = {}
        self.minted: set[str] = set()
        self.given_back: set[str] = set()
        self.failed_revocations: Counter[str] = Counter()
        self.published: str | None = None
        self.closing = self.stopped = False

    @initialize(
        mints=st.booleans(),
        draw=st.floats(0, 1),
        burst=st.integers(1, 3),
        interval=st.sampled_from([0.0, 1.0, 10.0]),
    )
    def build(self, mints: bool, draw: float, burst: int, interval: float) -> None:
        self.policy = RefreshPolicy(mint_burst=burst, mint_interval=interval)
        self.mints = mints
        self.machine = Lifecycle(self.policy, mints=mints, draw=lambda: draw)

    def send(self, signal: Signal) -> None:
        for action in self.machine.handle(signal, self.now):
            match action:
                case Fetch() | Renew() | Revoke():
                    assert self.in_flight is None, "two operations in flight"
                    self.in_flight = action
                    if isinstance(action, Fetch):
                        self.fetched_at.append(self.now)
                case Prove():
                    self.proofs.append(action)
                case Publish(published):
                    assert not self.closing, "published while closing"
                    self.published = published.credentials.username
                    assert self.ends[self.published] > self.now, "published a dead one"
                case Retire(old):
                    current = self.machine.current
                    assert current is None or current.generation != old.generation
                    self.retired += [(pool, old.generation) for pool in self.pools]
                case Expire(dead):
                    current = self.machine.current
                    in_use = current is not None and current.generation == dead.generation
                    grace = 0.0 if in_use else self.policy.grace
                    assert dead.lease.expires_at - grace <= self.now, "expired a live one"
                case Report():
                    pass
                case Stop():
                    assert not self.stopped, "stopped twice"
                    self.stopped = True

    def answer(self, signal: Signal) -> None:
        self.in_flight = None
        self.answers.append(signal)
        self.send(signal)

    def new_grant(self, duration: float, *, renewable: bool, sent_before: float) -> Granted:
        granted = grant(self.next_user, self.now - sent_before, duration, renewable=renewable)
        self.next_user += 1
        name = granted.credentials.username
        self.ends[name] = granted.lease.expires_at
        if granted.lease.lease_id:
            self.minted.add(name)
        return Granted(granted)

    def revoked(self, given: Grant) -> None:
        self.given_back.add(given.credentials.username)
        self.answer(Revoked(given.generation))

    # -- the provider ----------------------------------------------------------------------

    @rule()
    def start(self) -> None:
        self.send(Start())

    @precondition(lambda self: isinstance(self.in_flight, Fetch))
    @rule(duration=durations | st.just(math.inf), renewable=st.booleans(), slow=pauses)
    def fetch_succeeds(self, duration: float, renewable: bool, slow: float) -> None:
        self.answer(self.new_grant(duration, renewable=renewable, sent_before=min(slow, 90.0)))

    @precondition(
        lambda self: isinstance(self.in_flight, Fetch) and self.machine.current is not None
    )
    @rule(duration=durations)
    def fetch_brings_the_same(self, duration: float) -> None:
        current = self.machine.current
        assert current is not None
        lease = Lease(self.now, duration, True, current.lease.lease_id)
        if duration:
            self.ends[current.credentials.username] = lease.expires_at
        self.answer(Granted(Grant(current.credentials, lease)))

    @precondition(lambda self: isinstance(self.in_flight, Renew))
    @rule(duration=durations, renewable=st.booleans())
    def renewal_succeeds(self, duration: float, renewable: bool) -> None:
        assert isinstance(self.in_flight, Renew)
        renewed = self.in_flight.grant
        lease = Lease(self.now, duration, renewable, renewed.lease.lease_id)
        self.ends[renewed.credentials.username] = lease.expires_at
        self.answer(Renewed(renewed.generation, lease))

    @precondition(lambda self: isinstance(self.in_flight, Revoke))
    @rule()
    def revocation_succeeds(self) -> None:
        assert isinstance(self.in_flight, Revoke)
        self.revoked(self.in_flight.grant)

    @precondition(lambda self: self.in_flight is not None)
    @rule(error=errors)
    def operation_fails(self, error: Exception) -> None:
        operation = self.in_flight
        assert operation is not None
        if isinstance(operation, Revoke):
            self.failed_revocations[operation.grant.credentials.username] += 1
        if isinstance(error, LeaseLost) and isinstance(operation, Renew):
            self.given_back.add(operation.grant.credentials.username)
        self.answer(Failed(operation, error))
        if isinstance(operation, Revoke) and not self.knows(operation.grant):
            self.gave_up(operation.grant, error)

    def knows(self, known: Grant) -> bool:
        return known.generation in self.machine._generations

    def gave_up(self, given: Grant, error: Exception) -> None:
        name = given.credentials.username
        assert (
            self.closing
            or self.ends[name] <= self.now
            or isinstance(error, AccessDenied | ConfigurationError)
            or self.failed_revocations[name] >= self.policy.revoke_attempts
        ), f"{name} is given up too soon"
        self.given_back.add(name)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def answer_comes_twice(self, data: st.DataObject) -> None:
        doubled = data.draw(st.sampled_from(self.answers))
        kind = {Granted: Fetch, Renewed: Renew, Revoked: Revoke}.get(type(doubled))
        if isinstance(doubled, Failed):
            kind = type(doubled.operation)
        # A doubled answer that fits what is in flight cannot be told from the real one.
        if kind is not type(self.in_flight):
            self.send(doubled)

    @precondition(lambda self: not isinstance(self.in_flight, Fetch))
    @rule(duration=durations, renewable=st.booleans())
    def unasked_grant(self, duration: float, renewable: bool) -> None:
        granted = self.new_grant(duration, renewable=renewable, sent_before=0.0)
        if self.machine.state in (State.NEW, State.CLOSED):
            # Not within the protocol: nothing has been, or will be, asked for.
            self.minted.discard(granted.grant.credentials.username)
        self.send(granted)

    # -- pools and people ------------------------------------------------------------------

    @rule()
    def pool_joins(self) -> None:
        self.pools.add(self.next_pool)
        self.machine.join(self.next_pool)
        self.next_pool += 1

    @precondition(lambda self: self.pools)
    @rule(data=st.data())
    def pool_leaves(self, data: st.DataObject) -> None:
        pool = data.draw(st.sampled_from(sorted(self.pools)))
        self.pools.discard(pool)
        self.send(Left(pool))

    @precondition(lambda self: self.proofs)
    @rule(accepted=st.booleans(), refused=st.booleans())
    def proof_ends(self, accepted: bool, refused: bool) -> None:
        proof = self.proofs.pop(0)
        if accepted:
            self.send(Accepted(proof.member, proof.grant.generation))
        else:
            self.send(Rejected(proof.member, proof.grant.generation, refused))

    @precondition(lambda self: self.retired)
    @rule(data=st.data())
    def pool_lets_go(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.retired))
        self.retired.remove(held)
        self.send(Released(*held))

    @rule(
        signal=st.sampled_from([SourceChanged(), RefreshRequested(), Tick()])
        | st.builds(Rejected, generations, generations, st.booleans())
        | st.builds(Accepted, generations, generations)
        | st.builds(Released, generations, generations)
    )
    def anything(self, signal: Signal) -> None:
        self.send(signal)

    @rule()
    def login_with_the_current_one_is_refused(self) -> None:
        if self.machine.current is not None:
            self.send(Rejected(1, self.machine.current.generation, True))

    @precondition(lambda self: len(self.fetched_at) > 2)
    @rule()
    def close(self) -> None:
        self.closing = True
        self.send(Close())

    # -- time ------------------------------------------------------------------------------

    @rule(seconds=pauses)
    def time_passes_with_the_keeper_awake(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(200):
            if self.machine.deadline > until:
                break
            self.now = max(self.now, self.machine.deadline)
            self.send(Tick())
        self.now = until
        if self.machine.deadline <= self.now:
            self.send(Tick())

    @rule(seconds=pauses)
    def suspend(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @rule(seconds=st.sampled_from([0.1, 5.0, 4000.0]))
    def clock_goes_back_for_one_look(self, seconds: float) -> None:
        right = self.now
        self.now -= seconds
        self.send(Tick())
        self.now = right
        self.send(Tick())

    # -- what must always hold -------------------------------------------------------------

    @invariant()
    def no_login_with_a_dead_generation(self) -> None:
        usable = self.machine.usable(self.now)
        alive = not self.closing and self.published and self.ends[self.published] > self.now
        if usable is not None:
            assert alive
            assert usable.credentials.username == self.published
        else:
            assert not alive, "a live one is not handed out"
        if usable is None and self.machine.state is State.ACQUIRING:
            assert self.machine._candidate is None, "a live one waits for its proof"

    @invariant()
    def no_more_mints_than_the_limiter_allows(self) -> None:
        if not self.mints or not self.fetched_at or not self.policy.mint_interval:
            return
        last = self.fetched_at[-1]
        for count, earlier in enumerate(reversed(self.fetched_at), start=1):
            allowed = self.policy.mint_burst + (last - earlier) / self.policy.mint_interval
            assert count <= allowed + 1e-6

    @invariant()
    def the_deadline_is_in_the_future(self) -> None:
        assert self.machine.deadline > self.now

    @invariant()
    def nothing_stalls(self) -> None:
        machine = self.machine
        if machine.state in (State.ACQUIRING, State.CLOSING) and self.in_flight is None:
            assert machine.deadline < math.inf

    @invariant()
    def every_mint_is_known_until_it_is_revoked_or_expired(self) -> None:
        if self.machine.state is State.CLOSED:
            return
        known = {g.grant.credentials.username for g in self.machine._generations.values()}
        for name in self.minted:
            if self.ends[name] > self.now:
                assert name in known or name in self.given_back, f"{name} is forgotten"

    def teardown(self) -> None:
        """In the end, whatever has happened, closing gives everything back and stops."""
        if not hasattr(self, "machine"):
            return
        self.closing = True
        self.send(Close())
        for _ in range(200):
            if self.stopped:
                break
            match self.in_flight:
                case Fetch():
                    self.answer(self.new_grant(3600.0, renewable=True, sent_before=0.0))
                case Renew(given):
                    self.answer(Renewed(given.generation, given.lease))
                case Revoke(given):
                    self.revoked(given)
                case None:
                    self.now = max(self.now, self.machine.deadline)
                    self.send(Tick())
        assert self.stopped
        assert self.machine.state is State.CLOSED
        for name in self.minted:
            assert name in self.given_back or self.ends[name] <= self.now, f"{name} lives on"


TestLifecycleMachine = LifecycleMachine.TestCase
TestLifecycleMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
