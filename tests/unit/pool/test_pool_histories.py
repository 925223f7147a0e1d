"""Whatever happens in whatever order, the machine of a pool keeps its promises."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from rotations import AWAY, REFUSED, Session, grant, opened, rotation_of

from ephemeral_creds.lifecycle.signals import ConsumerReleased
from ephemeral_creds.pool.jobs import (
    AskEnd,
    CloseUnwanted,
    CutOff,
    Job,
    Preconnect,
    Prove,
    ReplaceIdle,
    Retry,
    Tell,
)

SIZE = 4


class World:
    """A pool of a few connections, its clients, its keeper and a server, by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.overshoot = self.random.randint(1, 3)
        self.rotation = rotation_of(1, overshoot=self.overshoot, retry_initial=1.0, park=2.0)
        self.now = 0.0
        self.generation = 1
        self.idle = [opened(self.rotation, 1) for _ in range(SIZE)]
        self.borrowed: list[Session] = []
        self.spare: list[Session] = []
        self.connecting: list[Prove | Preconnect | AskEnd] = []
        self.released: list[int] = []
        self.retired: list[int] = []

    def step(self) -> None:
        steps = (
            self.borrow, self.give_back, self.break_one, self.change, self.answer, self.answer,
            self.wait,
        )  # fmt: skip
        self.random.choice(steps)()
        self.work()
        self.check()

    def borrow(self) -> None:
        if self.idle:
            self.borrowed.append(self.idle.pop(0))

    def give_back(self) -> None:
        if self.borrowed:
            self.put(self.borrowed.pop())

    def put(self, session: Session) -> None:
        rotation = self.rotation
        spare: Any = None
        if not session.closed and rotation.is_stale(session):
            rotation.stale_returned()
            spare = rotation.take_spare()
        if spare is not None:
            session.closed = True
            self.spare.remove(spare)
            self.idle.append(spare)
            rotation.replaced(spare)
        elif session.closed:
            # psycopg_pool opens another one.
            self.idle.append(opened(rotation, rotation.serving))
            rotation.look_again()
        else:
            self.idle.append(session)
            rotation.look_again()

    def break_one(self) -> None:
        """A borrowed one breaks, and no caller reports it."""
        if self.borrowed:
            self.random.choice(self.borrowed).closed = True

    def change(self) -> None:
        if self.generation - len(self.released) < 4:
            self.generation += 1
            if self.random.random() < 0.5:
                self.rotation.prove(grant(self.generation))
                self.work()
            self.rotation.publish(grant(self.generation))
            self.rotation.retire(grant(self.generation - 1))
            self.retired.append(self.generation - 1)

    def answer(self, *, well: bool = False) -> None:
        if not self.connecting:
            return
        job = self.connecting.pop(self.random.randrange(len(self.connecting)))
        if not well and self.random.random() < 0.3:
            self.rotation.done(job, self.random.choice((AWAY, REFUSED, None)), self.now)
            return
        session = Session(job.grant.generation)
        self.spare.append(session)
        self.rotation.logged_in(job.opening, session)
        self.rotation.done(job, session, self.now)

    def wait(self) -> None:
        self.now = min(self.rotation.deadline, self.now + self.random.choice((0.1, 1.0, 10.0)))

    def work(self) -> None:
        for _ in range(100):
            found = self.rotation.jobs(self.now)
            if not found:
                break
            for job in found:
                self.do(job)
        else:
            raise AssertionError("it never comes to rest")
        assert self.rotation.deadline > self.now

    def do(self, job: Job) -> None:
        rotation = self.rotation
        match job:
            case Prove() | Preconnect() | AskEnd():
                self.connecting.append(job)
            case ReplaceIdle():
                while (spare := rotation.take_spare()) is not None:
                    old = next((s for s in self.idle if rotation.is_stale(s)), None)
                    if old is None:
                        rotation.put_back(spare)
                        break
                    self.idle[self.idle.index(old)] = spare
                    self.spare.remove(spare)
                    old.closed = True
                    rotation.replaced(spare)
                rotation.done(job, any(rotation.is_stale(s) for s in self.idle), self.now)
            case CloseUnwanted(connections):
                for session in connections:
                    session.closed = True
                    self.spare.remove(session)
                rotation.done(job, None, self.now)
            case Tell(ConsumerReleased(generation=generation)):
                self.released.append(generation)
            case Retry() | CutOff():
                raise AssertionError(job)

    def check(self) -> None:
        rotation = self.rotation
        assert len(self.spare) + len(self.connecting) <= self.overshoot
        assert rotation.overview.peak <= SIZE + self.overshoot
        # New before old: what psycopg_pool has is never fewer.
        assert len(self.idle) + len(self.borrowed) == SIZE
        sessions = (*self.idle, *self.borrowed, *self.spare)
        held = {s._lease.generation for s in sessions if not s.closed}
        held |= {job.grant.generation for job in self.connecting}
        assert not held & set(self.released)
        assert len(self.released) == len(set(self.released))


@pytest.mark.parametrize("seed", range(100))
def test_a_pool_moves_within_bounds_and_comes_to_rest(seed: int) -> None:
    world = World(seed)
    for _ in range(80):
        world.step()
    # Then all is well again, and everything is returned.
    while world.borrowed:
        world.give_back()
    for _ in range(60):
        world.work()
        while world.connecting:
            world.answer(well=True)
            world.work()
        if world.rotation.deadline == math.inf:
            break
        world.now = world.rotation.deadline
    assert world.rotation.deadline == math.inf
    assert {s._lease.generation for s in world.idle} == {world.generation}
    assert sorted(world.released) == world.retired
    assert world.spare == []
