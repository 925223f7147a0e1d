"""What ``ephemeral-creds agent`` does."""

from __future__ import annotations

import math
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from ephemeral_creds import (
    ConfigurationError,
    CredentialKeeper,
    CredentialsFile,
    EphemeralCredsError,
    provider_from_url,
)
from ephemeral_creds.cli._credentials import (
    EndAsked,
    log_to_stderr,
    wait_for_credentials,
)
from ephemeral_creds.cli._messages import print_error
from ephemeral_creds.cli._signals import ENDING, Signals
from ephemeral_creds.cli._statuses import ExitStatus
from ephemeral_creds.lifecycle.signals import RefreshRequested
from ephemeral_creds.observers import logger

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds import RefreshPolicy
    from ephemeral_creds.cli._agent_options import AgentOptions

__all__ = ["require_folder", "run_agent"]


def run_agent(options: AgentOptions, *, refresh: RefreshPolicy | None = None) -> int:
    """Keep the file until a signal comes, and return the exit status."""
    log_to_stderr("agent", verbose=options.verbose, debug=options.debug)
    is_serving = False
    try:
        require_folder(options.file)
        with ExitStack() as stack:
            provider = provider_from_url(options.url)
            signals = stack.enter_context(Signals({*ENDING, signal.SIGUSR1}))
            keeper = CredentialKeeper(provider, refresh=refresh)
            file = CredentialsFile(
                keeper, options.file, mode=options.mode, group=options.group, drain=options.drain
            )
            keeper.on_change(signals.wake)
            stack.enter_context(keeper)
            wait_for_credentials(keeper, signals, options.timeout)
            if options.conninfo is not None:
                # Only now: it needs libpq, and nothing else here does.
                from ephemeral_creds.cli._login_test import LoginTest

                stack.enter_context(LoginTest(keeper, options.conninfo))
            stack.enter_context(file)
            is_serving = True
            logger.info("%s has the credentials of %s", file.path, keeper.status().username)
            _serve(keeper, signals)
    except EndAsked:
        return ExitStatus.DONE
    except (EphemeralCredsError, OSError, ImportError) as error:
        print_error("agent", error, debug=options.debug)
        return ExitStatus.WARNED if is_serving else ExitStatus.UNAVAILABLE


def require_folder(file: Path) -> None:
    """Look at the file's directory before a role is minted: a supervisor may try again and again.

    Raises:
        ConfigurationError: it does not exist, or may not be written.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder} is not a directory: make it, or correct the path {file}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{folder} may not be written by user {os.geteuid()}: change its owner or its "
            f"permissions, or the path {file}"
        )


def _serve(keeper: CredentialKeeper, signals: Signals) -> NoReturn:
    """Wait for the signal that ends the command.

    Raises:
        EndAsked: it has come.
        NotReady: the keeper's thread has crashed.
    """
    while True:
        keeper.require_running()
        arrived = signals.wait(math.inf)
        if arrived is None:
            continue
        if arrived.number in ENDING:
            raise EndAsked(arrived.number)
        keeper.signal(RefreshRequested())
