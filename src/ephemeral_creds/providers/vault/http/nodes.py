"""Several addresses of one cluster, and which of them to ask first.

A request that may have been done is never sent to another node. What a node that fails changes is
where the next request begins.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from ephemeral_creds._backoff import backoff
from ephemeral_creds.providers.vault.http.reply import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ephemeral_creds._clock import Clock
    from ephemeral_creds.providers.vault.http.reply import Origin

__all__ = ["Node", "Nodes"]

logger = logging.getLogger("ephemeral_creds")

# Seconds for which a node that failed is left alone, before it is asked whether it is well. Most
# restarts take less than the first; the last is what one more question costs next to nothing in.
_FIRST_REST = 30.0
_LONGEST_REST = 600.0


@dataclass(slots=True, eq=False)
class Node:
    """One address.

    Attributes:
        address: as it was configured.
        base: the same as requests takes it.
        well: whether it has answered since it was last in doubt.
        failures: how often it has failed since it last served.
        place: where it stands among those that are asked last.
        rests_until: when it may be asked again whether it is well.
    """

    address: str
    base: str = field(init=False)
    well: bool = False
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
    """The nodes in the order in which they are configured, and what became of each.

    Args:
        addresses: in the order in which to ask where all are well.
        clock: where to read time from.
    """

    def __init__(self, addresses: Sequence[str], clock: Clock) -> None:
        self._clock = clock
        self._all = [Node(address) for address in addresses]
        self._are_several = len(self._all) > 1
        self._last_place = 0

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all)

    def in_order(self) -> list[Node]:
        """Return the nodes as they are to be asked: last those that failed, longest ago first."""
        return sorted(self._all, key=lambda node: node.place)

    def in_doubt(self) -> Node | None:
        """Return a node that would be asked first if one knew it to be well.

        One whose rest is over, or, where there are several, one that has not been asked anything
        yet. It is to be asked something harmless, with `passed` or `failed` to follow.
        """
        for node in self._all:
            if node.well or not self._are_several:
                return None
            if self._clock.now() >= node.rests_until:
                return node
        return None

    def passed(self, node: Node) -> None:
        """Note that a node says that it is well."""
        if node.place and self._are_several:
            logger.info("Vault at %s answers again, and is asked in its turn", node.address)
        node.well, node.place = True, 0

    def served(self, node: Node) -> None:
        """Note that a node has done its work."""
        self.passed(node)
        node.failures = 0

    def failed(self, node: Node, why: str) -> None:
        """Have a node asked last for a while, twice as long each time."""
        if self._are_several and not node.place:
            logger.warning("Vault at %s is asked last for now: %s", node.address, why)
        self._last_place += 1
        node.well, node.place = False, self._last_place
        node.failures += 1
        rest = backoff(node.failures, _FIRST_REST, _LONGEST_REST)
        node.rests_until = self._clock.now() + rest
