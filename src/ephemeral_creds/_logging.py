"""The observer that everybody gets: events to the logger ``ephemeral_creds``."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from ephemeral_creds.events import Problem, ProviderRequest

if TYPE_CHECKING:
    from ephemeral_creds.events import Event

__all__ = ["log_event", "logger"]

logger = logging.getLogger("ephemeral_creds")


def log_event(event: Event) -> None:
    """Log `event`: a `Problem` as a warning, everything else as information.

    A `ProviderRequest` is for debugging only: what comes of it is an event of its own.
    """
    level = logging.WARNING if isinstance(event, Problem) else logging.INFO
    if isinstance(event, ProviderRequest):
        level = logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    values = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    keeper = values.pop("keeper")
    text = " ".join(
        f"{name}={value:.1f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
    logger.log(level, "%s: %s %s", keeper, type(event).__name__, text, extra={"event": event})
