"""The ends that a process may come to in order, and what is closed before each."""

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from ephemeral_creds.keeper.thread import KeeperThread

__all__ = ["call_at_process_end", "close_all", "close_on_sigterm"]

# How long what runs waits for its end, in seconds. It may hold a lock that the closing needs, of a
# logging handler for example: then it has to go on.
_PATIENCE = 1.0

_functions: dict[Callable[[], None], None] = {}
_finalized_in = 0
_previous: Callable[[int, FrameType | None], Any] | int | None = None


def call_at_process_end(function: Callable[[], None]) -> None:
    """Have `function` called when the process ends in order; it has to bear being called twice.

    Call this whenever there is something new to close: what a framework needs for it is looked
    for each time, and nothing is imported for it.
    """
    global _finalized_in  # noqa: PLW0603 - a process is global
    _functions[function] = None
    # Once more, so that it comes before whatever was registered before this call: the end of the
    # server that a test brought up, for example.
    atexit.unregister(_call_all)
    atexit.register(_call_all)
    multiprocessing: Any = sys.modules.get("multiprocessing")
    util: Any = sys.modules.get("multiprocessing.util")
    if util and multiprocessing.parent_process() and _finalized_in != os.getpid():
        # Its children end by os._exit(), before Python 3.13 without atexit.
        util.Finalize(None, _call_all, exitpriority=-1)
        _finalized_in = os.getpid()
    celery: Any = sys.modules.get("celery.signals")
    if celery:
        # So do those of Celery's prefork pool, whatever the version; only this signal tells.
        celery.worker_process_shutdown.connect(_call_all, weak=False, dispatch_uid=__name__)


def close_on_sigterm() -> None:
    """Give leases back when SIGTERM comes, and end the process then as SIGTERM does.

    For programs that have no handler of their own: without one, SIGTERM ends Python at once, and
    roles stay until their leases end. Takes up to 5 seconds where Vault hangs; a second SIGTERM
    ends the process at once. What runs when the signal comes ends with the process, and may go on
    until then where that takes more than a second.

    A handler that was there is called after the closing. Where SIGTERM is ignored, it stays so.

    Do not use it under a server that handles SIGTERM itself and finishes its requests first, as
    gunicorn, uvicorn and Celery do: those need their connections until then.

    Raises:
        RuntimeError: this is not the main thread.
    """
    global _previous  # noqa: PLW0603 - so is the handler of a signal
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "close_on_sigterm() works in the main thread only, as all of Python's signal handlers "
            "do: call it where the program starts"
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
        # The system allows no further thread, or the process has come to its end already.
        _close_and_end(number)
    else:
        closing.join(_PATIENCE)


def _close_and_end(number: int) -> None:
    _call_all()
    os.kill(os.getpid(), number)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Leave out that pools which are still open try to connect until the very end."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(argument, KeeperClosed) for argument in arguments)


def _call_all(**_: object) -> None:
    # Does nothing if it is there already.
    logging.getLogger("psycopg.pool").addFilter(_is_worth_telling)
    for function in list(_functions):
        function()


def close_all(threads: Sequence[KeeperThread], timeout: float) -> None:
    """Close keepers side by side, in `timeout` seconds all in all."""
    deadline = monotonic() + timeout
    for thread in threads:
        thread.ask_to_close()
    for thread in threads:
        thread.wait_until_stopped(max(deadline - monotonic(), 0.0))
