"""The phases of a keeper: which follow which, and what brings them about."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from keepers import PATIENCE, BrokenClock

from ephemeral_creds import CredentialKeeper, KeeperClosed
from ephemeral_creds.events import KeeperFailed
from ephemeral_creds.keeper.phase import MOVES, Phase
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepers import World


def made(world: World) -> CredentialKeeper:
    return world.keeper()


def running(world: World) -> CredentialKeeper:
    return world.started()


def closing(world: World) -> CredentialKeeper:
    keeper = hanging(world)
    closer = threading.Thread(target=keeper.close, args=(PATIENCE,), daemon=True)
    closer.start()
    while keeper._thread.phase is Phase.RUNNING:
        pass
    return keeper


def hung(world: World) -> CredentialKeeper:
    keeper = hanging(world)
    keeper.close(0.0)
    return keeper


def hanging(world: World) -> CredentialKeeper:
    keeper = world.started()
    world.provider.gate.clear()
    world.provider.change()
    return keeper


def stopped(world: World) -> CredentialKeeper:
    keeper = world.started()
    keeper.close(PATIENCE)
    return keeper


def crashed(world: World) -> CredentialKeeper:
    world.clock = clock = BrokenClock()
    world.provider = ScriptedProvider(clock)
    keeper = world.started()
    clock.advance(1.0)
    world.recorder.wait_for(KeeperFailed)
    return keeper


IN_PHASE: dict[Phase, Callable[[World], CredentialKeeper]] = {
    Phase.NEW: made,
    Phase.RUNNING: running,
    Phase.CLOSING: closing,
    Phase.HUNG: hung,
    Phase.STOPPED: stopped,
    Phase.CRASHED: crashed,
}


def test_each_phase_is_a_row_and_can_be_reached() -> None:
    assert set(MOVES) == set(Phase)
    assert set().union(*MOVES.values()) == set(Phase)


@pytest.mark.parametrize("phase", IN_PHASE)
def test_a_keeper_comes_to_each(world: World, phase: Phase) -> None:
    keeper = IN_PHASE[phase](world)
    assert keeper._thread.phase is phase


@pytest.mark.parametrize("phase", Phase)
def test_no_move_is_made_that_is_not_in_the_table(world: World, phase: Phase) -> None:
    thread = world.keeper()._thread
    for other in set(Phase) - MOVES[phase]:
        thread.phase = phase
        with thread.changed, pytest.raises(RuntimeError, match=f"from {phase.value} to"):
            thread._move(other)
        assert thread.phase is phase
    thread.phase = Phase.NEW


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.RUNNING, Phase.CRASHED])
def test_a_close_stops_it_and_closes_the_provider(world: World, phase: Phase) -> None:
    keeper = IN_PHASE[phase](world)
    keeper.close(PATIENCE)
    assert keeper._thread.phase is Phase.STOPPED
    assert keeper.status().state == "closed"
    assert world.provider.closed
    for use in (keeper.current, keeper.start, keeper.refresh):
        with pytest.raises(KeeperClosed, match="is closed"):
            use()


def test_a_hung_keeper_stops_when_the_provider_answers(world: World) -> None:
    keeper = hung(world)
    world.provider.gate.set()
    keeper.close(PATIENCE)
    assert keeper._thread.phase is Phase.STOPPED
    assert world.provider.closed


def test_a_crash_while_closing_stops_it_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = hung(world)

    def crash(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(keeper._machine, "handle", crash)
    world.provider.gate.set()
    keeper.close(PATIENCE)
    assert keeper._thread.phase is Phase.STOPPED
    assert world.provider.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("phase", IN_PHASE)
def test_a_child_inherits_an_active_keeper(world: World, phase: Phase) -> None:
    keeper = IN_PHASE[phase](world)
    child = os.fork()
    if child == 0:
        succeeded = False
        try:
            nothing_of_the_parents = phase in {Phase.NEW, Phase.STOPPED}
            expected = phase if nothing_of_the_parents else Phase.INHERITED
            succeeded = keeper._thread.phase is expected
            if not nothing_of_the_parents:
                succeeded = succeeded and keeper.status().state == "closed"
        finally:
            os._exit(0 if succeeded else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keeper._thread.phase is phase
