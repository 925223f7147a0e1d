"""The table of a generation's moves, and the one function that makes them."""

from __future__ import annotations

import itertools
import math

import pytest
from lifecycle_driver import Driver, grant

from ephemeral_creds.exceptions import AccessDenied, LeaseLost
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.lifecycle import signals as s
from ephemeral_creds.lifecycle.core import Core, State
from ephemeral_creds.lifecycle.generation import MOVES, Generation, Stage, Turn
from ephemeral_creds.lifecycle.policy import RefreshPolicy

ILLEGAL = [pair for pair in itertools.product(Stage, Turn) if pair not in MOVES]


def core_with(stage: Stage) -> tuple[Core, Generation]:
    """A core with one generation, brought to `stage` by moves."""
    core = Core(RefreshPolicy(), lambda: 0.0, mints=True)
    core.now = 1000.0
    core.consumers = {1}
    generation = core.add(grant(1, core.now))
    way = {
        Stage.CANDIDATE: (),
        Stage.CURRENT: (Turn.PROVEN,),
        Stage.RETIRED: (Turn.DISCARDED,),
        Stage.RETURNING: (Turn.UNWANTED,),
        Stage.GONE: (Turn.UNWANTED, Turn.REVOKED),
    }
    for turn in way[stage]:
        core.move(generation, turn)
    core.actions.clear()
    return core, generation


@pytest.mark.parametrize(("pair", "after"), MOVES.items())
def test_a_move_leads_where_the_table_says(pair: tuple[Stage, Turn], after: Stage) -> None:
    before, turn = pair
    core, generation = core_with(before)
    core.move(generation, turn)
    assert generation.stage is after
    assert (core.current is generation) is (after is Stage.CURRENT)
    assert (core.generations == {}) is (after is Stage.GONE)
    first = {Stage.CURRENT: a.Publish, Stage.RETIRED: a.Retire}.get(after)
    assert [type(action) for action in core.actions[:1]] == ([first] if first else [])


@pytest.mark.parametrize(("stage", "turn"), ILLEGAL)
def test_another_move_is_a_defect_and_changes_nothing(stage: Stage, turn: Turn) -> None:
    core, generation = core_with(stage)
    known = dict(core.generations)
    with pytest.raises(
        RuntimeError, match=rf"generation 1: no move from {stage.name} by {turn.name}"
    ):
        core.move(generation, turn)
    assert (generation.stage, core.generations, core.actions) == (stage, known, [])


def test_every_stage_is_left_but_the_last() -> None:
    assert {before for before, _ in MOVES} == set(Stage) - {Stage.GONE}


def test_a_generation_without_a_lease_is_gone_at_once() -> None:
    core = Core(RefreshPolicy(), lambda: 0.0, mints=False)
    generation = core.add(grant(1, 0.0, math.inf))
    core.move(generation, Turn.UNWANTED)
    assert generation.stage is Stage.GONE
    assert core.generations == {}


def state(driver: Driver) -> State:
    return driver.machine.state


class TestState:
    """That of the whole follows from what there is."""

    def test_it_serves_while_the_current_one_has_not_expired(self) -> None:
        driver = Driver()
        assert state(driver) is State.NEW
        driver.send(s.Start())
        assert state(driver) is State.ACQUIRING
        driver.send(s.Granted(grant(1, driver.now, 60.0)))
        assert state(driver) is State.SERVING
        driver.after(61.0)
        assert state(driver) is State.ACQUIRING
        driver.renewed(1, 120.0)
        assert state(driver) is State.SERVING

    def test_it_is_closed_when_everything_is_revoked(self) -> None:
        driver = Driver().serving()
        driver.send(s.Close())
        assert state(driver) is State.CLOSING
        driver.send(s.Revoked(1))
        assert state(driver) is State.CLOSED
        assert driver.machine.deadline == math.inf

    def test_a_fetch_in_flight_keeps_it_from_being_closed(self) -> None:
        driver = Driver()
        driver.send(s.Start())
        driver.send(s.Close())
        assert state(driver) is State.CLOSING
        assert driver.failed(AccessDenied("403")) == [a.Stop()]
        assert driver.machine.deadline == math.inf
        assert driver.after(100.0) == []

    def test_closing_again_does_not_revoke_again(self) -> None:
        driver = Driver().serving()
        assert len(driver.send(s.Close())) == 1
        assert driver.send(s.Close()) == []

    def test_a_second_start_means_nothing(self) -> None:
        driver = Driver().serving()
        assert driver.send(s.Start()) == []
        assert driver.machine.settled

    @pytest.mark.parametrize(
        "signal", [s.Granted(grant(1, 1000.0)), s.RefreshRequested(), s.SourceChanged()]
    )
    def test_before_the_start_nothing_is_asked_for(self, signal: s.Signal) -> None:
        driver = Driver()
        assert driver.send(signal) == []
        assert state(driver) is State.NEW
        assert driver.machine.deadline == math.inf

    @pytest.mark.parametrize("signal", [s.RefreshRequested(), s.SourceChanged()])
    def test_after_close_nothing_is_asked_for(self, signal: s.Signal) -> None:
        driver = Driver().serving()
        driver.send(s.Close())
        driver.send(signal)
        assert driver.send(s.Revoked(1)) == [a.Stop()]


class TestEnds:
    def candidate(self, duration: float) -> Driver:
        driver = Driver().serving()
        driver.send(s.RefreshRequested())
        driver.send(s.Granted(grant(2, driver.now, duration, renewable=False)))
        return driver

    def test_a_candidate_that_expires_is_given_up_and_another_is_fetched(self) -> None:
        driver = self.candidate(60.0)
        wanted = driver.after(60.0)
        assert [type(action) for action in wanted] == [a.Retire, a.Reclaim, a.Fetch]
        assert not driver.machine.proving
        assert driver.machine.retired == ()

    def test_a_candidate_whose_lease_is_lost_is_given_up_and_another_is_fetched(self) -> None:
        driver = Driver().serving(86400.0)
        driver.send(s.RefreshRequested())
        driver.send(s.Granted(grant(2, driver.now, 60.0)))
        driver.after(30.0)
        wanted = driver.failed(LeaseLost("lease not found"))
        assert [type(action) for action in wanted] == [a.Suspect, a.Retire, a.Fetch]
        assert not driver.machine.proving
        assert driver.machine.retired == ()

    def test_an_end_that_moves_away_is_announced_again_when_it_comes(self) -> None:
        driver = self.candidate(7200.0)
        driver.send(s.LoginAccepted(1, 2))

        def is_reclaimed(at: float) -> bool:
            return a.Reclaim in [type(action) for action in driver.at(1000.0 + at)]

        assert is_reclaimed(3595.0)
        driver.renewed(1, 100.0)
        assert not is_reclaimed(3689.9)
        assert is_reclaimed(3690.0)

    @pytest.mark.parametrize(("duration", "grace"), [(3600.0, 5.0), (20.0, 2.0)])
    def test_borrowed_connections_are_reclaimed_before_the_end(
        self, duration: float, grace: float
    ) -> None:
        driver = Driver(RefreshPolicy(grace=5.0)).serving(duration, renewable=False)
        driver.send(s.RefreshRequested())
        driver.send(s.Granted(grant(2, driver.now, 7200.0)))
        driver.send(s.LoginAccepted(1, 2))
        assert driver.at(1000.0 + duration - grace - 0.1) == []
        (reclaim,) = driver.at(1000.0 + duration - grace)
        assert isinstance(reclaim, a.Reclaim)

    def test_a_late_grant_is_revoked_unless_it_is_known(self) -> None:
        for known in (False, True):
            driver = Driver().serving()
            driver.send(s.RefreshRequested())
            driver.send(s.Close())
            late = grant(1 if known else 2, driver.now)
            (revoke,) = driver.send(s.Granted(late))
            assert revoke == a.Revoke(driver.machine._core.generations[1].grant)
            assert driver.machine.retired == ((1,) if known else (1, 2))
            assert driver.machine.counts.grants == (1 if known else 2)


def retired(duration: float = 3600.0, *, renewable: bool = True) -> Driver:
    """A machine whose first generation is replaced, and still borrowed by its one consumer."""
    driver = Driver().serving(duration, renewable=renewable)
    driver.send(s.RefreshRequested())
    driver.send(s.Granted(grant(2, driver.now, 86400.0)))
    driver.send(s.LoginAccepted(1, 2))
    return driver


def test_each_move_of_the_table_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[tuple[Stage, Turn]] = set()
    move = Core.move

    def noted(core: Core, generation: Generation, turn: Turn) -> None:
        made.add((generation.stage, turn))
        move(core, generation, turn)

    monkeypatch.setattr(Core, "move", noted)

    # Drained and revoked; then what is revoked again, since it is known no more.
    driver = retired()
    driver.send(s.ConsumerReleased(1, 1))
    driver.send(s.Revoked(1))
    driver.send(s.Granted(grant(1, driver.now)))

    # It expires while it is borrowed, and while it is to be revoked; revoking it is given up.
    retired(60.0, renewable=False).at(1060.0)
    driver = retired(60.0)
    driver.send(s.ConsumerReleased(1, 1))
    driver.at(1060.0)
    driver = retired()
    driver.send(s.ConsumerReleased(1, 1))
    driver.failed(AccessDenied("no sys/leases/revoke"))

    # Its lease is lost while it is borrowed, and while it is to be revoked.
    driver = retired()
    driver.at(3400.0)
    driver.failed(LeaseLost("lease not found"))
    driver = retired()
    driver.at(3400.0)
    driver.send(s.ConsumerReleased(1, 1))
    driver.failed(LeaseLost("lease not found"))

    # Superseded, and closed at each stage.
    driver = retired()
    driver.send(s.ConsumerReleased(1, 1))
    driver.send(s.Revoked(1))
    for number in (3, 4):
        driver.at(driver.now + 10.0, s.RefreshRequested())
        driver.send(s.SourceChanged())
        driver.at(driver.now + 10.0)
        driver.send(s.Granted(grant(number, driver.now)))
    driver.send(s.Close())
    driver = retired()
    driver.send(s.Close())
    driver = retired()
    driver.send(s.ConsumerReleased(1, 1))
    driver.send(s.Close())

    # A file has no lease.
    Driver(mints=False).serving(math.inf).send(s.Close())

    assert made == set(MOVES)
