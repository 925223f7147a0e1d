"""Closing keepers, one or all of them before the process ends."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from ephemeral_creds.exceptions import KeeperClosed
from ephemeral_creds.keeper.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from ephemeral_creds.keeper.thread import KeeperThread

__all__ = ["close_all", "close_at_process_end", "close_on_sigterm"]

# How long, in seconds, the main thread waits after a SIGTERM. It may hold a lock that the closing
# needs, of a logging handler for example: then it has to continue.
_PATIENCE = 1.0

# At the end of the process, for all keepers together.
_EXIT_TIMEOUT = 5.0

# Not one that is hung: `close` has waited for it without success.
_TO_CLOSE = (Phase.RUNNING, Phase.CLOSING, Phase.CRASHED)

_sources: dict[Callable[[], list[KeeperThread]], None] = {}
_finalized_in = 0
_previous: Callable[[int, FrameType | None], Any] | int | None = None


def close_all(threads: Sequence[KeeperThread], timeout: float) -> None:
    """Close keepers side by side, in `timeout` seconds all in all."""
    deadline = monotonic() + timeout
    for thread in threads:
        thread.ask_to_close()
    for thread in threads:
        thread.wait_until_stopped(max(deadline - monotonic(), 0.0))


def close_at_process_end(threads: Callable[[], list[KeeperThread]]) -> None:
    """Have what `threads` returns closed when the process ends, unless a signal kills it.

    Call this with each keeper that is started: it may be the first after a framework was imported
    that ends processes in its own way. Nothing is imported here.
    """
    global _finalized_in  # noqa: PLW0603 - a process is global
    _sources[threads] = None
    # Once more, so that it comes before whatever was registered before this call: the end of the
    # server that a test brought up, for example.
    atexit.unregister(_close_running)
    atexit.register(_close_running)
    multiprocessing: Any = sys.modules.get("multiprocessing")
    util: Any = sys.modules.get("multiprocessing.util")
    if util and multiprocessing.parent_process() and _finalized_in != os.getpid():
        # Its children end by os._exit(), before Python 3.13 without atexit.
        util.Finalize(None, _close_running, exitpriority=-1)
        _finalized_in = os.getpid()
    celery: Any = sys.modules.get("celery.signals")
    if celery:
        # So do those of Celery's prefork pool, whatever the version; only this signal tells.
        celery.worker_process_shutdown.connect(_close_running, weak=False, dispatch_uid=__name__)


def close_on_sigterm() -> None:
    """On SIGTERM, close all keepers, which revokes their leases, and then end the process.

    For programs without a handler of their own: SIGTERM ends those at once, and roles stay until
    their leases expire. Takes up to 5 seconds if Vault hangs; a second SIGTERM ends the process at
    once. The main thread waits for up to a second of that, and then continues until the end.

    A handler that was installed before is called after the closing. If SIGTERM is ignored, it stays
    so.

    Do not use it under a server that handles SIGTERM itself and finishes its requests first, as
    gunicorn, uvicorn and Celery do: those need their connections until then.

    Raises:
        RuntimeError: this is not the main thread.
    """
    global _previous  # noqa: PLW0603 - so is the handler of a signal
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "close_on_sigterm() has to be called in the main thread, as Python's signal handlers "
            "have to be installed there"
        )
    found = signal.getsignal(signal.SIGTERM)
    if found not in (_on_sigterm, signal.SIG_IGN, None):
        _previous = found
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _: FrameType | None) -> None:
    signal.signal(number, _previous)
    closing = threading.Thread(target=_close_and_end, args=(number,), name="close-on-sigterm")
    try:
        closing.start()
    except RuntimeError:
        # The system allows no further thread, or the process is already ending.
        _close_and_end(number)
    else:
        closing.join(_PATIENCE)


def _close_and_end(number: int) -> None:
    _close_running()
    os.kill(os.getpid(), number)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Leave out that pools which are still open cannot connect any more."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(argument, KeeperClosed) for argument in arguments)


def _close_running(**_: object) -> None:
    # Does nothing if it is there already.
    logging.getLogger("psycopg.pool").addFilter(_is_worth_telling)
    threads = [thread for source in list(_sources) for thread in source()]
    close_all([thread for thread in threads if thread.phase in _TO_CLOSE], _EXIT_TIMEOUT)
