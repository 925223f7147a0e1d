"""The consumers of one keeper, and telling them what the lifecycle has decided."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, assert_never

from ephemeral_creds.events import KeeperFailed
from ephemeral_creds.lifecycle import actions as a
from ephemeral_creds.observers import where_raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Grant
    from ephemeral_creds.events import Event
    from ephemeral_creds.keeper.consumer import Consumer

__all__ = ["Consumers"]

Instruction: TypeAlias = (
    a.Prove | a.Publish | a.Extend | a.Retire | a.Expire | a.Reclaim | a.Suspect | a.AskEnd
)


class Consumers:
    """All consumers of one keeper. One that fails does not stop the others.

    They are added and removed with the keeper's lock held, and told without it.
    """

    def __init__(self, report: Callable[[Event], None]) -> None:
        # Replaced as a whole: a thread may be telling those that were there before.
        self._by_number: dict[int, Consumer] = {}
        self._listeners: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count(1)
        self._report = report

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of those that have joined and not left."""
        return tuple(self._by_number)

    def add(self, consumer: Consumer) -> int:
        """Add a consumer, and return its number."""
        number = next(self._numbers)
        self._by_number = {**self._by_number, number: consumer}
        return number

    def remove(self, number: int) -> bool:
        """Remove a consumer; return whether it was there."""
        found = number in self._by_number
        self._by_number = {n: c for n, c in self._by_number.items() if n != number}
        return found

    def listen(self, callback: Callable[[], None]) -> int:
        """Add what is only called after changes; return the number to `ignore` it by."""
        number = next(self._numbers)
        self._listeners = {**self._listeners, number: callback}
        return number

    def ignore(self, number: int) -> None:
        """Remove a listener."""
        self._listeners = {n: call for n, call in self._listeners.items() if n != number}

    def tell_failed(self) -> None:
        """Tell all that there are no new credentials."""
        for consumer in self._by_number.values():
            self._call(consumer.failed)
        self._tell_listeners()

    def tell(self, action: Instruction) -> None:
        """Tell the one that `action` is for, or all of them."""
        for number, consumer in self._by_number.items():
            if not isinstance(action, a.Prove) or action.consumer == number:
                self._call(partial(_method(consumer, action), action.grant))
        if isinstance(action, a.Publish):
            self._tell_listeners()

    def _tell_listeners(self) -> None:
        for callback in self._listeners.values():
            self._call(callback)

    def _call(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - the others have to be told
            self._report(KeeperFailed(error=where_raised(error)))


def _method(consumer: Consumer, action: Instruction) -> Callable[[Grant], None]:
    match action:
        case a.Prove():
            return consumer.prove
        case a.Publish():
            return consumer.publish
        case a.Extend():
            return consumer.extend
        case a.Retire():
            return consumer.retire
        case a.Expire():
            return consumer.expire
        case a.Reclaim():
            return consumer.reclaim
        case a.Suspect():
            return consumer.suspect
        case a.AskEnd():
            return consumer.ask_end
        case _:
            assert_never(action)
