"""What the commands that keep credentials alive have in common."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from ephemeral_creds import CredentialsExpired, NotReady
from ephemeral_creds.cli._signals import ENDING
from ephemeral_creds.cli._statuses import of_signal

if TYPE_CHECKING:
    import signal

    from ephemeral_creds import CredentialKeeper, Grant
    from ephemeral_creds.cli._signals import Signals

__all__ = ["EndAsked", "log_to_stderr", "wait_for_credentials"]

_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


class EndAsked(Exception):
    """A signal has asked for the end before there was anything to pass it on to."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.status = of_signal(number)


class _Line(logging.Formatter):
    def __init__(self, command: str) -> None:
        super().__init__(f"ephemeral-creds {command}: %(prefix)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.prefix = _PREFIXES.get(record.levelno, "")
        return super().format(record)


def log_to_stderr(command: str, *, verbose: bool, debug: bool) -> None:
    """Print problems on stderr, with `verbose` all events, and with `debug` requests as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(command))
    logger = logging.getLogger("ephemeral_creds")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    logger.propagate = False


def wait_for_credentials(keeper: CredentialKeeper, signals: Signals, timeout: float) -> Grant:
    """Return what to log in with, as soon as there is something.

    `keeper` has to wake `signals` at each change.

    Raises:
        EphemeralCredsError: there is nothing after `timeout` seconds, or waiting does not help.
        EndAsked: a signal has asked for the end.
    """
    give_up_at = keeper.clock.now() + timeout
    while True:
        left = give_up_at - keeper.clock.now()
        try:
            return keeper.wait(0.0)
        except (NotReady, CredentialsExpired):
            if left <= 0:
                raise
        keeper.require_running()
        arrived = signals.wait(left)
        if arrived is not None and arrived.number in ENDING:
            raise EndAsked(arrived.number)
