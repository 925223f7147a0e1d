"""What ``ephemeral-creds exec`` does."""

from __future__ import annotations

import math
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeral_creds import (
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
from ephemeral_creds.cli._exec_files import ProgramFiles
from ephemeral_creds.cli._messages import print_error
from ephemeral_creds.cli._program import Program, why_not_runnable
from ephemeral_creds.cli._signals import Signals
from ephemeral_creds.cli._statuses import ExitStatus
from ephemeral_creds.keeper.recipient import Recipient
from ephemeral_creds.observers import logger

if TYPE_CHECKING:
    from ephemeral_creds import Grant, RefreshPolicy
    from ephemeral_creds.cli._exec_options import ExecOptions
    from ephemeral_creds.cli._signals import Arrived

__all__ = ["PASSED_ON", "run_exec"]

PASSED_ON = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT,
)  # fmt: skip

# These ask a program to end.
_FINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def run_exec(options: ExecOptions, *, refresh: RefreshPolicy | None = None) -> int:
    """Run the program to its end, and return the exit status."""
    log_to_stderr("exec", verbose=options.verbose, debug=options.debug)
    if (reason := why_not_runnable(options.command[0])) is not None:
        status, why = reason
        print_error("exec", why)
        return status
    try:
        with ExitStack() as stack:
            provider = provider_from_url(options.url)
            signals = stack.enter_context(Signals(PASSED_ON))
            keeper = stack.enter_context(CredentialKeeper(provider, refresh=refresh))
            files = stack.enter_context(ProgramFiles(options, os.environ))
            execution = _Execution(options, keeper, signals, files)
            stack.callback(execution.close)
            return execution.run()
    except EndAsked as end:
        return end.status
    except (EphemeralCredsError, OSError, ImportError) as error:
        print_error("exec", error, debug=options.debug)
        return ExitStatus.UNAVAILABLE


class _Execution:
    """One program, as often as it has to be started, and the credentials that it uses."""

    def __init__(
        self,
        options: ExecOptions,
        keeper: CredentialKeeper,
        signals: Signals,
        files: ProgramFiles,
    ) -> None:
        self._options = options
        self._keeper = keeper
        self._signals = signals
        self._files = files
        self._recipient = Recipient(keeper, signals.wake)
        self._shared: CredentialsFile | None = None
        if options.share:
            self._shared = CredentialsFile(keeper, files.shared, drain=options.drain)
        self._name = Path(options.command[0]).name
        self._is_ending = self._is_rotating = False
        self._kill_at = math.inf
        self._started: Grant | None = None
        self._handled: Grant | None = None
        self._trouble = ""

    def close(self) -> None:
        """Let go of all credentials."""
        if self._shared is not None:
            self._shared.close()
        self._recipient.close()

    def run(self) -> int:
        while True:
            grant = wait_for_credentials(self._keeper, self._signals, self._options.timeout)
            self._files.write(self._grants(grant))
            if self._shared is not None:
                self._shared.open(0.0)
            try:
                program = Program(
                    self._options.command, self._files.environment(grant), self._signals.before
                )
            except OSError as error:
                print_error("exec", f"{self._name} cannot be run: {error.strerror}")
                missing = isinstance(error, FileNotFoundError)
                return ExitStatus.NOT_FOUND if missing else ExitStatus.CANNOT_RUN
            self._started = self._handled = grant
            self._is_rotating, self._kill_at = False, math.inf
            status = self._accompany(program)
            if self._is_ending or not self._is_rotating:
                return status
            if self._options.on_rotation.action == "stop":
                return ExitStatus.TRY_AGAIN

    def _accompany(self, program: Program) -> int:
        """Pass signals on and follow the credentials until the program's end."""
        while True:
            program.look()
            if program.status is not None:
                return program.status
            now = self._keeper.clock.now()
            if now >= self._kill_at:
                self._kill_at = math.inf
                program.send(signal.SIGKILL)
            self._follow(program)
            arrived = self._signals.wait(self._kill_at - now)
            if arrived is not None:
                self._pass_on(arrived, program)

    def _pass_on(self, arrived: Arrived, program: Program) -> None:
        # Not each program ends at Ctrl-C; one that is about to be started again does not start.
        if arrived.number is signal.SIGTERM or (self._is_rotating and arrived.number in _FINAL):
            self._is_ending = True
        # The terminal has sent it to the program as well.
        if not arrived.by_terminal:
            program.send(arrived.number)

    def _grants(self, current: Grant) -> list[Grant]:
        return [current, *reversed(self._recipient.old)]

    def _follow(self, program: Program) -> None:
        """Bring the files up to date, and the program if its environment is not."""
        grant, started, handled = self._recipient.current, self._started, self._handled
        if grant is None or started is None or handled is None:
            return
        if grant.generation < handled.generation:
            # The keeper is about to publish the one that the program was started with.
            return
        # A shared file holds the leases for those that read it.
        used = grant if self._shared is not None else started
        for old in self._recipient.old:
            if old.generation < used.generation:
                self._recipient.release(old.generation)
        try:
            self._files.write(self._grants(grant))
        except (OSError, EphemeralCredsError) as error:
            # It is tried again within seconds; the old credentials are still there.
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.warning("the credentials of %s are not up to date: %s", self._name, error)
            return
        self._trouble = ""
        if self._is_rotating or grant.credentials == handled.credentials:
            return
        self._handled = grant
        if self._files.environment(grant) != program.environment:
            self._rotate(program, grant)

    def _rotate(self, program: Program, grant: Grant) -> None:
        """Do what was asked for: the program's environment has old credentials."""
        asked = self._options.on_rotation
        old, new = program.environment["PGUSER"], grant.credentials.username
        match asked.action:
            case "restart" | "stop":
                logger.info("SIGTERM for %s: new credentials, %s", self._name, new)
                self._is_rotating = True
                self._kill_at = self._keeper.clock.now() + self._options.grace
                program.send(signal.SIGTERM)
            case "signal" if asked.signal is not None:
                logger.info("%s for %s: new credentials, %s", asked.signal.name, self._name, new)
                program.send(asked.signal)
            case _ if not (self._options.pg_service or self._options.share):
                logger.warning(
                    "%s still logs in as %s, which works until the end of its lease; --on-rotation "
                    "or --pg-service can have it log in as %s, which is in use now",
                    *(self._name, old, new),
                )
            case _:
                pass
