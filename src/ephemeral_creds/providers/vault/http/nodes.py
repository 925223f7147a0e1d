"""The nodes of one cluster, and the order in which to ask them.

A request that may have been carried out is never sent to another node. A node that fails only
changes where the next request begins.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from ephemeral_creds._backoff import backoff
from ephemeral_creds.providers.http.reply import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.http.reply import Origin

__all__ = ["Node", "Nodes"]

logger = logging.getLogger("ephemeral_creds")

# Seconds for which a failed node is not asked for its health: longer than most restarts at first;
# at the maximum one more request costs next to nothing.
_FIRST_REST = 30.0
_LONGEST_REST = 600.0


@dataclass(slots=True, eq=False)
class Node:
    """One address.

    Attributes:
        address: as it was configured.
        base: the same as requests takes it.
        healthy: whether it has answered since it was last in doubt.
        failures: how often it has failed since it last served.
        place: its place among those that are asked last; 0 for the others.
        rests_until: when it may be asked for its health again.
    """

    address: str
    base: str = field(init=False)
    healthy: bool = False
    failures: int = 0
    place: int = 0
    rests_until: float = 0.0

    def __post_init__(self) -> None:
        self.base = self.address
        if self.address.startswith("unix://"):
            # A host of its own: connections are kept by host, and its name has 63 letters at most.
            self.base = f"http://{sha256(self.address.encode()).hexdigest()[:40]}.localhost"

    @property
    def origin(self) -> Origin | None:
        """Scheme, host and port."""
        return origin_of(self.base)


class Nodes:
    """The nodes in the order in which they are configured, with the health of each."""

    def __init__(self, addresses: Sequence[str], clock: Clock) -> None:
        self._clock = clock
        self._all = [Node(address) for address in addresses]
        self._are_several = len(self._all) > 1
        self._last_place = 0

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all)

    def in_order(self) -> list[Node]:
        """Return the nodes in the order to ask them: failed ones last, the longest ago first."""
        return sorted(self._all, key=lambda node: node.place)

    def in_doubt(self) -> Node | None:
        """Return a node that comes first if it is healthy, which has to be asked.

        It has rested, or, if there are several, has not been asked anything yet. Ask it for its
        health and call `passed` or `failed`.
        """
        for node in self._all:
            if node.healthy or not self._are_several:
                return None
            if self._clock.now() >= node.rests_until:
                return node
        return None

    def passed(self, node: Node) -> None:
        """Note that a node says that it is healthy."""
        if node.place and self._are_several:
            logger.info("Vault at %s answers again, and is asked in its turn", node.address)
        node.healthy, node.place = True, 0

    def served(self, node: Node) -> None:
        """Note that a node has served a request."""
        self.passed(node)
        node.failures = 0

    def failed(self, node: Node, why: str) -> None:
        """Have a node asked last for a while, twice as long each time."""
        if self._are_several and not node.place:
            logger.warning("Vault at %s is asked last for now: %s", node.address, why)
        self._last_place += 1
        node.healthy, node.place = False, self._last_place
        node.failures += 1
        rest = backoff(node.failures, _FIRST_REST, _LONGEST_REST)
        node.rests_until = self._clock.now() + rest
