"""Events as entries of structlog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.contrib._missing import missing
from ephemeral_creds.observers import fields_of, level_of

try:
    import structlog
except ModuleNotFoundError as error:
    raise missing(error, "structlog") from None

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ephemeral_creds.events import Event

__all__ = ["StructlogObserver"]


class StructlogObserver:
    """Logs each event: its class is structlog's event, its fields are key-value pairs.

    A `Problem` is a warning, everything else information. As in `JSONLogObserver`, an infinite
    duration is ``None``, and fields that are not in the reference are left out.

    Args:
        logger: where to log; by default ``structlog.get_logger("ephemeral_creds")``.
    """

    def __init__(self, logger: FilteringBoundLogger | None = None) -> None:
        self._logger: FilteringBoundLogger = logger or structlog.get_logger("ephemeral_creds")

    def __call__(self, event: Event, /) -> None:
        """Log `event`."""
        log = self._logger.warning if level_of(event) == "warning" else self._logger.info
        log(type(event).__name__, **fields_of(event))
