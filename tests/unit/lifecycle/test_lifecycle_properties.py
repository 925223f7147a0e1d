"""The machine through random faults, clock jumps, suspends, late answers and doubled ones.

``EPHEMERAL_CREDS_EXAMPLES`` sets how many examples are run; a thorough run has 100,000.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace

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

from ephemeral_creds import events
from ephemeral_creds._values import Credentials, Grant, Lease, Secret
from ephemeral_creds.exceptions import (
    AccessDenied,
    ConfigurationError,
    LeaseLost,
    MalformedResponse,
    ProviderUnavailable,
)
from ephemeral_creds.lifecycle.actions import (
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
)
from ephemeral_creds.lifecycle.generation import Generation, Stage
from ephemeral_creds.lifecycle.machine import Lifecycle, State
from ephemeral_creds.lifecycle.policy import RETRY_AFTER_MAX, RefreshPolicy, Tuning
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.lifecycle.signals import (
    Close,
    ConsumerLeft,
    ConsumerReleased,
    EndLearned,
    Failed,
    Granted,
    LoginAccepted,
    LoginRejected,
    RefreshRequested,
    Renewed,
    Revoked,
    Signal,
    SourceChanged,
    SourceSeen,
    Start,
    Tick,
)
from ephemeral_creds.lifecycle.timers import timers
from ephemeral_creds.lifecycle.wishes import Reason

EXAMPLES = int(os.environ.get("EPHEMERAL_CREDS_EXAMPLES", "300"))

durations = st.sampled_from([0.0, 0.5, 2.0, 4.0, 60.0, 3600.0, 86400.0])
pauses = st.sampled_from([0.0, 0.001, 0.5, 1.0, 3.0, 10.0, 45.0, 1000.0, 50000.0])
generations = st.integers(0, 12)
reasons = st.sampled_from(LoginFailure)
errors = st.sampled_from(
    [
        ProviderUnavailable("away"),
        ProviderUnavailable("quota", retry_after=33.0),
        ProviderUnavailable("a proxy's mistake", retry_after=86400.0),
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
        self.asked: set[tuple[int, int]] = set()
        self.refusals: Counter[tuple[int, int]] = Counter()
        self.accepted: set[tuple[int, int]] = set()
        self.let_in: set[int] = set()
        self.left_on_arrival: dict[int, float] = {}
        self.held: set[tuple[int, int]] = set()
        self.retired: list[tuple[int, int]] = []
        self.passwords: Counter[str] = Counter()
        self.fetched_at: list[float] = []
        self.answers: list[Signal] = []
        self.ends: dict[str, float] = {}
        self.minted: set[str] = set()
        self.given_back: set[str] = set()
        self.failed_revocations: Counter[str] = Counter()
        self.published: str | None = None
        self.in_use = 0
        self.to_log_in_with: Credentials | None = None
        self.deadlines: dict[int, float] = {}
        self.lapsed: set[int] = set()
        self.reclaimed: set[int] = set()
        self.closing = self.stopped = False

    @initialize(
        mints=st.booleans(),
        draw=st.floats(0, 1),
        burst=st.integers(1, 3),
        interval=st.sampled_from([0.0, 1.0, 10.0]),
        attempts=st.integers(1, 5),
        pools=st.integers(0, 5),
        serving=st.booleans(),
    )
    def build(
        self,
        mints: bool,
        draw: float,
        burst: int,
        interval: float,
        attempts: int,
        pools: int,
        serving: bool,
    ) -> None:
        self.policy = RefreshPolicy(
            mint_burst=burst,
            mint_interval=interval,
            _tuning=Tuning(proof_attempts=attempts, revoke_attempts=attempts),
        )
        self.mints = mints
        self.machine = Lifecycle(self.policy, mints=mints, draw=lambda: draw)
        for _ in range(pools):
            self.pool_joins()
        if serving:
            self.send(Start())
            self.answer(self.new_grant(60.0, renewable=True, sent_before=0.0))

    def send(self, signal: Signal) -> None:
        self.note(signal)
        for action in self.machine.handle(signal, self.now):
            match action:
                case Fetch() | Renew() | Revoke():
                    assert self.in_flight is None, "two operations in flight"
                    self.in_flight = action
                    if isinstance(action, Fetch):
                        self.fetched_at.append(self.now)
                        assert not self.is_no_fault_of_the_credentials(signal), "fetched in vain"
                    if isinstance(action, Revoke):
                        number = action.grant.generation
                        borrowed = any(held == number for _, held in self.held)
                        assert self.closing or not borrowed, "revoked while it is borrowed"
                case Prove(proven, pool):
                    self.proofs.append(action)
                    demand = (pool, proven.generation)
                    assert demand not in self.asked, "asked again before it has answered"
                    self.asked.add(demand)
                    self.held.add(demand)
                case Publish(published):
                    assert not self.closing, "published while closing"
                    if self.may_lose_by(published):
                        logged_in = any(g == published.generation for _, g in self.accepted)
                        refused = isinstance(signal, LoginRejected) and (
                            signal.reason is LoginFailure.CREDENTIALS
                        )
                        works = any(number == self.in_use for _, number in self.accepted)
                        assert logged_in or (refused and not works), "no login has proven it"
                    self.published = published.credentials.username
                    self.in_use = published.generation
                    self.to_log_in_with = published.credentials
                    self.deadlines[published.generation] = published.lease.expires_at
                    assert self.ends[self.published] > self.now, "published a dead one"
                    self.held |= {(pool, published.generation) for pool in self.pools}
                case Extend(extended):
                    # One that was given up before it was used has connections, too.
                    known = {*self.deadlines, *(number for _, number in self.retired)}
                    assert extended.generation in known, "extended what no pool has"
                    self.deadlines[extended.generation] = extended.lease.expires_at
                case Retire(old):
                    current = self.machine.current
                    assert current is None or current.generation != old.generation
                    self.retired += [(pool, old.generation) for pool in self.pools]
                case Expire(expired):
                    assert expired.generation == self.in_use, "expired what is not in use"
                    assert expired.lease.expires_at <= self.now, "expired a live one"
                case Reclaim(old):
                    assert old.generation != self.in_use, "reclaimed what is in use"
                    left = old.lease.expires_at - self.now
                    assert left <= self.policy.grace, "reclaimed too soon"
                    self.reclaimed.add(old.generation)
                case AskEnd(asked):
                    assert asked.lease.duration == math.inf, "asked about what has a deadline"
                    assert self.pools, "no pool was asked"
                case Report(events.LeaseExpired(generation=number)):
                    self.lapsed.add(number)
                case Report(events.CandidateDiscarded(generation=number, reason="logins refused")):
                    worst = max(n for (_, g), n in self.refusals.items() if g == number)
                    assert worst >= self.policy.tuning.proof_attempts, "condemned too soon"
                    assert self.published is not None
                    left, at_first = (
                        self.ends[self.published] - self.now,
                        self.left_on_arrival[number],
                    )
                    assert at_first >= 2 * self.policy.margin, "another would be no sooner there"
                    assert 0 < left <= max(self.policy.margin, at_first / 10), "time is left"
                case Report(events.CredentialsIssued(generation=number)):
                    if self.published is not None:
                        self.left_on_arrival[number] = self.ends[self.published] - self.now
                case Report():
                    pass
                case Stop():
                    assert not self.stopped, "stopped twice"
                    self.stopped = True

    def note(self, signal: Signal) -> None:
        """Take note of what a pool says, as far as it has been asked."""
        match signal:
            case LoginAccepted(pool, number):
                self.asked.discard((pool, number))
                if pool in self.pools and self.machine.state in (State.ACQUIRING, State.SERVING):
                    self.let_in.add(pool)
                    if number in self.machine._core.generations:
                        self.accepted.add((pool, number))
            case LoginRejected(pool, number, reason):
                hba = reason is LoginFailure.PG_HBA and pool in self.let_in
                refused = hba or reason is LoginFailure.CREDENTIALS
                self.refusals[pool, number] += refused and (pool, number) in self.asked
                self.asked.discard((pool, number))
                if refused and number == self.in_use:
                    self.accepted.discard((pool, number))
            case ConsumerReleased(pool, number) if (pool, number) in self.retired:
                self.retired = [held for held in self.retired if held != (pool, number)]
                self.held.discard((pool, number))
            case ConsumerLeft(pool):
                self.pools.discard(pool)
                self.let_in.discard(pool)
                self.accepted = {held for held in self.accepted if held[0] != pool}
                self.retired = [held for held in self.retired if held[0] != pool]
                self.held = {held for held in self.held if held[0] != pool}
                self.asked = {asked for asked in self.asked if asked[0] != pool}

    @staticmethod
    def is_no_fault_of_the_credentials(signal: Signal) -> bool:
        return isinstance(signal, LoginRejected) and (
            signal.reason in (LoginFailure.SERVER, LoginFailure.UNREACHABLE)
        )

    def may_lose_by(self, published: Grant) -> bool:
        """Tell whether pools log in with something that is valid, and this would replace it."""
        valid = self.published is not None and self.ends[self.published] > self.now
        return bool(self.pools) and valid and self.in_use != published.generation

    def answer(self, signal: Signal) -> None:
        self.in_flight = None
        self.answers.append(signal)
        self.send(signal)

    def new_grant(self, duration: float, *, renewable: bool, sent_before: float) -> Granted:
        granted = grant(self.next_user, self.now - sent_before, duration, renewable=renewable)
        if duration == math.inf and renewable:
            announced = replace(granted.lease, announced_duration=100.0)
            granted = replace(granted, lease=announced)
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
        if current.lease.rotates_in is not None:
            lease = replace(current.lease, requested_at=self.now)
        elif duration:
            self.ends[current.credentials.username] = lease.expires_at
            self.lapsed.discard(current.generation)
        self.answer(Granted(Grant(current.credentials, lease)))

    @precondition(lambda self: isinstance(self.in_flight, Fetch))
    @rule(
        user=st.sampled_from(["static-a", "static-b"]),
        changed=st.booleans(),
        rotates_in=st.sampled_from([0.0, 1.0, 60.0, 86400.0, math.inf]),
        ask_again_in=st.sampled_from([10.0, math.inf]),
    )
    def fetch_brings_a_role_that_stays(
        self, user: str, changed: bool, rotates_in: float, ask_again_in: float
    ) -> None:
        self.passwords[user] += changed
        password = Secret(f"static-password-{self.passwords[user]}")
        lease = Lease(self.now, rotates_in=rotates_in, ask_again_in=ask_again_in)
        brought = Grant(Credentials(user, password), lease)
        self.ends[user] = math.inf
        before, retired = self.machine.current, self.machine.retired
        self.answer(Granted(brought))
        after = self.machine.current
        if before is None or after is None or before.lease.rotates_in is None:
            return
        if before.credentials.username == user:
            assert after.generation == before.generation
            assert after.credentials == brought.credentials
            assert not self.machine.proving, "the source has gone back to this one"
            assert before.generation not in self.machine.retired
            assert len(self.machine.retired) <= len(retired) + 1

    @precondition(lambda self: isinstance(self.in_flight, Renew))
    @rule(duration=durations, renewable=st.booleans())
    def renewal_succeeds(self, duration: float, renewable: bool) -> None:
        assert isinstance(self.in_flight, Renew)
        renewed = self.in_flight.grant
        lease = Lease(self.now, duration, renewable, renewed.lease.lease_id)
        self.ends[renewed.credentials.username] = lease.expires_at
        if lease.expires_at > self.now:
            self.lapsed.discard(renewed.generation)
        self.answer(Renewed(renewed.generation, lease))

    @precondition(lambda self: isinstance(self.in_flight, Renew))
    @rule()
    def renewal_succeeds_after_the_deadline(self) -> None:
        assert isinstance(self.in_flight, Renew)
        self.now = max(self.now, self.in_flight.grant.lease.expires_at + 0.5)
        self.send(Tick())
        self.renewal_succeeds(60.0, renewable=True)

    @precondition(lambda self: self.machine.state is State.SERVING and self.in_flight is None)
    @rule()
    def rotation_goes_well(self) -> None:
        self.send(RefreshRequested())
        if isinstance(self.in_flight, Fetch):
            self.answer(self.new_grant(60.0, renewable=True, sent_before=0.0))
        while self.proofs:
            self.proof_ends(accepted=True, reason=LoginFailure.UNREACHABLE)

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
        wishes = self.machine._core.wishes
        changed = isinstance(operation, Fetch) and Reason.SOURCE_CHANGED in wishes
        self.answer(Failed(operation, error))
        if changed and not self.closing and self.in_flight is None:
            follow_at = max(self.now, wishes._changes.available_at(self.now))
            follow_at = wishes._mints.available_at(follow_at)
            assert self.machine.deadline <= follow_at, "a change is not followed"
        if isinstance(operation, Revoke) and not self.knows(operation.grant):
            self.gave_up(operation.grant, error)

    def knows(self, known: Grant) -> bool:
        return known.generation in self.machine._core.generations

    def gave_up(self, given: Grant, error: Exception) -> None:
        name = given.credentials.username
        assert (
            self.closing
            or self.ends[name] <= self.now
            or isinstance(error, AccessDenied | ConfigurationError)
            or self.failed_revocations[name] >= self.policy.tuning.revoke_attempts
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
        given = self.machine.join(self.next_pool)
        if given is not None:
            self.held.add((self.next_pool, given.generation))
        self.next_pool += 1

    @precondition(lambda self: self.pools)
    @rule(data=st.data())
    def pool_leaves(self, data: st.DataObject) -> None:
        self.send(ConsumerLeft(data.draw(st.sampled_from(sorted(self.pools)))))

    @precondition(lambda self: self.proofs)
    @rule(accepted=st.booleans(), reason=reasons)
    def proof_ends(self, accepted: bool, reason: LoginFailure) -> None:
        proof = self.proofs.pop(0)
        if accepted:
            self.send(LoginAccepted(proof.consumer, proof.grant.generation))
        else:
            self.send(LoginRejected(proof.consumer, proof.grant.generation, reason))

    @precondition(lambda self: self.proofs)
    @rule(accepted=st.booleans())
    def all_proofs_end_alike(self, accepted: bool) -> None:
        """As with a replica that lags behind, or does not any more."""
        for _ in range(len(self.proofs)):
            self.proof_ends(accepted, LoginFailure.CREDENTIALS)

    @precondition(lambda self: self.retired)
    @rule(data=st.data())
    def pool_lets_go(self, data: st.DataObject) -> None:
        self.send(ConsumerReleased(*data.draw(st.sampled_from(self.retired))))

    @rule(
        signal=st.sampled_from([SourceChanged(), RefreshRequested(), Tick()])
        | st.builds(SourceSeen, st.sampled_from(["", "gone", "garbage"]))
        | st.builds(LoginRejected, generations, generations, reasons)
        | st.builds(LoginAccepted, generations, generations)
        | st.builds(ConsumerReleased, generations, generations)
        | st.builds(EndLearned, generations, st.sampled_from([-5.0, 0.0, 3.0, 4000.0, math.inf]))
    )
    def anything(self, signal: Signal) -> None:
        self.send(signal)

    @rule()
    def login_with_the_current_one_is_refused(self) -> None:
        machine = self.machine
        if machine.current is None:
            return
        number = machine.current.generation
        worked = (1, number) in self.accepted and 1 in self.pools
        # Where others wait to be proven, they are used at once.
        answered = machine._core.wishes.failures or machine.proving
        allowed_at = machine._core.wishes._mints.available_at(self.now)
        self.send(LoginRejected(1, number, LoginFailure.CREDENTIALS))
        if worked and not answered and self.in_flight is None:
            assert not machine.proving
            assert machine.deadline <= allowed_at, "what has worked waits for its remedy"

    @precondition(lambda self: len(self.fetched_at) > 1 or isinstance(self.in_flight, Renew))
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

    @rule()
    def time_passes_until_something_is_due(self) -> None:
        if self.machine.deadline < math.inf:
            self.now = max(self.now, self.machine.deadline)
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
    def pools_know_the_deadlines(self) -> None:
        known = [g for g in self.machine._core.generations.values() if g.number in self.deadlines]
        for generation in known:
            if generation.stage is not Stage.RETURNING:
                told = self.deadlines[generation.number]
                assert told == generation.expires_at, "pools go by another deadline"

    @invariant()
    def no_login_with_a_dead_generation(self) -> None:
        usable = self.machine.usable(self.now)
        alive = not self.closing and self.published and self.ends[self.published] > self.now
        if usable is not None:
            assert alive
            assert usable.credentials == self.to_log_in_with
        else:
            assert not alive, "a live one is not handed out"
        if usable is None and self.machine.state is State.ACQUIRING:
            assert not self.machine.proving, "a live one waits for its proof"

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
    def the_deadline_is_the_first_instant_of_all_timers(self) -> None:
        instants = [at for at, _ in timers(self.machine._core)]
        assert self.machine.deadline == min(instants, default=math.inf)

    @invariant()
    def each_generation_is_where_its_stage_says(self) -> None:
        core = self.machine._core
        stages: dict[Stage, list[Generation]] = {stage: [] for stage in Stage}
        for generation in core.generations.values():
            stages[generation.stage].append(generation)
        assert not stages[Stage.GONE]
        assert stages[Stage.CURRENT] == ([core.current] if core.current else [])
        assert stages[Stage.CANDIDATE] == ([core.candidate] if core.candidate else [])
        if self.closing:
            assert stages[Stage.RETURNING] == list(core.generations.values())

    @invariant()
    def nothing_stalls(self) -> None:
        machine = self.machine
        if machine.state in (State.ACQUIRING, State.CLOSING) and self.in_flight is None:
            longest = max(RETRY_AFTER_MAX, self.policy.mint_interval)
            # The deadline is a sum of floats.
            assert machine.deadline - self.now <= longest + 1e-6, "nothing is asked any more"

    @invariant()
    def every_mint_is_known_until_it_is_revoked_or_expired(self) -> None:
        if self.machine.state is State.CLOSED:
            return
        known = {g.grant.credentials.username for g in self.machine._core.generations.values()}
        for name in self.minted:
            if self.ends[name] > self.now:
                assert name in known or name in self.given_back, f"{name} is forgotten"

    @invariant()
    def closing_never_waits(self) -> None:
        if self.closing and not self.stopped:
            assert self.in_flight is not None, "a revocation is put off"

    @invariant()
    def nothing_is_kept_that_has_no_use(self) -> None:
        waiting = {number for _, number in self.retired}
        for generation in self.machine._core.generations.values():
            if generation.stage is not Stage.RETIRED:
                continue
            lease = generation.grant.lease
            assert lease.lease_id or generation.number in waiting, "no pool says when it is free"
            renewing = isinstance(self.in_flight, Renew) and (
                self.in_flight.grant.generation == generation.number
            )
            assert not generation.is_expired or renewing, "it has ended"

    @invariant()
    def what_is_borrowed_of_one_that_lapsed_is_seen_to(self) -> None:
        if self.closing:
            return
        for number in self.lapsed - set(self.machine._core.generations):
            assert number in self.reclaimed, "forgotten without a word to the pools"

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
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
