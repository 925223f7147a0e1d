"""The count of open connections by generation; the rest is tested with a server."""

from __future__ import annotations

from ephemeral_creds._pool_connect import Ledger


class Session:
    """What the ledger looks at of a connection."""

    def __init__(self, generation: int) -> None:
        self.lease_generation = generation
        self.closed = False


def test_what_is_being_opened_counts_as_open() -> None:
    ledger: Ledger[Session] = Ledger()
    session = Session(1)
    ledger.opening(1)
    ledger.opened(session, 1)
    ledger.opening(2)
    assert ledger.by_generation() == {1: 1, 2: 1}
    assert ledger.size == ledger.peak == 2
    assert ledger.has_before(2)
    assert not ledger.has_before(1)
    ledger.failed(2)
    assert ledger.by_generation() == {1: 1}


def test_nothing_is_kept_of_generations_that_are_gone() -> None:
    ledger: Ledger[Session] = Ledger()
    for generation in range(1, 101):
        session = Session(generation)
        ledger.opening(generation)
        ledger.opened(session, generation)
        session.closed = True
        ledger.opening(generation)
        ledger.failed(generation)
    assert ledger.by_generation() == {}
    assert not ledger.has_before(200)
    assert ledger._opening == {}
