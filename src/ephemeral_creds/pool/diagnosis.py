"""Finding out why a login failed: libpq forgets what the server said, but its trace shows it."""

from __future__ import annotations

import math
import os
import re
import selectors
import socket
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, PGconn, PollingStatus, Trace

from ephemeral_creds.lifecycle.refusals import LoginFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import psycopg

    from ephemeral_creds._values import Credentials

__all__ = ["Diagnosis", "FailedLogin", "Verdict", "read_trace"]

_WHERE = ("host", "hostaddr", "port")

# How long a diagnosis continues after it was told to stop, at most.
_LOOK_UP = 0.1

# A server that says more than this says nothing that helps.
_LONGEST = 1 << 20

# Texts are as many as causes; one with a number that changes must not add up.
_REMEMBERED = 32

# What libpq does not forget, the likeliest to tell what to do first: with several hosts, or both
# ways of sslmode=prefer, one server may refuse a password and the other be down.
_WEIGHT = (
    LoginFailure.UNREACHABLE,
    LoginFailure.CLIENT,
    LoginFailure.PG_HBA,
    LoginFailure.SERVER,
    LoginFailure.CREDENTIALS,
)

# libpq 18 names what it sends, and shows what it receives before the login has succeeded. Before
# that it does neither, nor does it show an error of that time.
_STARTUP = re.compile(r"^F\t\d+\t(?:StartupMessage|Unknown message: length is).*$", re.MULTILINE)
_PASSWORD = re.compile(
    r"^(?:F\t\d+\t(?:PasswordMessage|SASL\w+|Unknown message: (?:70|112)$)"
    r"|B\t\d+\tAuthentication(?!Ok))",
    re.MULTILINE,
)
_ANSWERED = re.compile(r"^B\t\d+\t(?:Authentication|ParameterStatus|BackendKeyData)", re.MULTILINE)
_ERROR = re.compile(
    r'^B\t\d+\tErrorResponse\t S "[^"]*"(?: V "[A-Z]+")? C "(?P<sqlstate>[0-9A-Z]{5})"'
    r"(?P<rest>.*)",
    re.MULTILINE | re.DOTALL,
)
# However it calls a FATAL error: libpq writes two blanks after that for none of its own.
_SERVER_SAID = re.compile(r": \S+:  ")
# libpq's own words for a server that it turned away, and the parameter that has it do so. The trace
# shows no more than that it said nothing more. A program that sets LC_MESSAGES may have a libpq
# that speaks another language: there the server counts as unreachable.
_DEMANDS = {
    "require_auth": re.compile(r"authentication method requirement"),
    "channel_binding": re.compile(r"channel binding (?:is )?required"),
    "sslmode": re.compile(r"SSL was required"),
    "sslrootcert": re.compile(
        r"certificate verify failed|root certificate file|does not match host name"
    ),
}
# PostgreSQL's function that looks the role up, after `pg_hba.conf` has let it in.
_ROLE_LOOKED_UP = ' R "InitializeSessionUserId"'


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a login failed, the server's code where it is known, or the client's parameter."""

    reason: LoginFailure = LoginFailure.UNREACHABLE
    sqlstate: str | None = None
    parameter: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class FailedLogin:
    """What is needed to try a failed login once more. It holds the password.

    Attributes:
        error: what psycopg raised.
        conninfo: what the connect was given, and so `kwargs` and `credentials`.
    """

    error: psycopg.Error
    conninfo: str
    kwargs: Mapping[str, object]
    credentials: Credentials

    @property
    def used_password(self) -> bool:
        """Whether libpq says that the last attempt sent one."""
        return self.error.pgconn is not None and self.error.pgconn.used_password

    def attempts(self) -> list[dict[str, str]]:
        """Return the options of each connect that psycopg makes: for each host and address."""
        options = self._options()
        hosts, addresses, ports = (
            options.get(name, "").split(",") for name in ("host", "hostaddr", "port")
        )
        found: list[dict[str, str]] = []
        for number in range(max(len(hosts), len(addresses))):
            host, port = hosts[number % len(hosts)], ports[number % len(ports)]
            found += (
                {**options, "host": host, "hostaddr": address, "port": port}
                for address in _addresses(host, addresses[number % len(addresses)], port)
            )
        return found

    def _options(self) -> dict[str, str]:
        """Return what was tried.

        psycopg's exception knows, also where a connection class of the user's connects to
        something else than it was told; but it knows the last attempt only, and none that took
        too long.
        """
        defaults = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
        given = {name: _text(defaults[name]) for name in _WHERE if defaults.get(name)}
        for name, value in (conninfo_to_dict(self.conninfo) | dict(self.kwargs)).items():
            if name in defaults and value is not None:
                given[name] = str(value)
        if self.error.pgconn is None:
            password = self.credentials.password.reveal()
            return given | {"user": self.credentials.username, "password": password}
        info = self.error.pgconn.info
        tried = {o.keyword.decode(): _text(o.val) for o in info if o.val is not None}
        if tried.get("host") in given.get("host", "").split(","):
            tried = {name: value for name, value in tried.items() if name not in _WHERE}
            tried |= {name: given[name] for name in _WHERE if name in given}
        return tried


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="surrogateescape")


def _addresses(host: str, address: str, port: str) -> Iterable[str]:
    if address or not host or host.startswith(("/", "@")):
        return [address]
    try:
        found = socket.getaddrinfo(host, port or "5432", type=socket.SOCK_STREAM)
    except OSError:
        return []
    return dict.fromkeys(str(where[0]) for *_, where in found)


def read_trace(trace: str, said: str = "") -> Verdict:
    """Return what a trace of libpq's protocol says of a login that failed.

    All that is kept is a code and a kind of message: the text may have the password in clear.

    Args:
        trace: the text.
        said: libpq's own words.
    """
    spoke = _SERVER_SAID.search(said) is not None
    verdict = _weightiest(_verdict(attempt, spoke=spoke) for attempt in _STARTUP.split(trace)[1:])
    if verdict.reason is not LoginFailure.UNREACHABLE:
        return verdict
    return Verdict(LoginFailure.SERVER) if spoke else _of_client(said)


def _of_client(said: str) -> Verdict:
    """Return what libpq says of a server that refused nothing by itself."""
    for parameter, words in _DEMANDS.items():
        if words.search(said):
            return Verdict(LoginFailure.CLIENT, parameter=parameter)
    return Verdict()


def _weightiest(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: _WEIGHT.index(verdict.reason), default=Verdict())


def _verdict(attempt: str, *, spoke: bool) -> Verdict:
    """Return what one startup led to; `spoke` tells whether the server gave a reason at all."""
    asked = _PASSWORD.search(attempt) is not None
    error = _ERROR.search(attempt)
    if error is None:
        # Where the trace shows nothing of that time, no more than that is known.
        refused = asked and spoke and not _ANSWERED.search(attempt)
        return Verdict(LoginFailure.CREDENTIALS if refused else LoginFailure.UNREACHABLE)
    sqlstate, rest = error["sqlstate"], error["rest"]
    if sqlstate == "28000" and not asked and _ROLE_LOOKED_UP not in rest:
        return Verdict(LoginFailure.PG_HBA, sqlstate)
    return Verdict(LoginFailure.from_sqlstate(sqlstate, message=rest), sqlstate)


class Diagnosis:
    """Logs in once more after a login has failed, and listens to what the server says.

    One of these serves a whole pool: it makes one connect at a time, none for a failure that has
    been explained already, and so fewer than the pool itself.

    Args:
        timeout: how long each of its connects may take, in seconds.
        stopped: tells whether to give up.
    """

    def __init__(self, timeout: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._timeout = timeout
        self._stopped = stopped
        self._lock = threading.Lock()
        self._explained: dict[tuple[int, str], Verdict] = {}

    def explain(self, failed: FailedLogin, generation: int = 0) -> Verdict:
        """Return why a login with `generation` failed; may take as long as its connects do."""
        if failed.error.sqlstate is not None:
            # Of a query: a connection class of the user's does more than connect.
            return Verdict()
        failure = generation, str(failed.error)
        busy = not self._lock.acquire(blocking=False)
        if busy:
            # What it finds may be the answer for this one; if not, the next failure will ask.
            self._lock.acquire()
        try:
            verdict = self._explained.get(failure)
            if verdict is None:
                verdict = Verdict() if busy else self._ask(failed, failure)
        except Exception:  # noqa: BLE001 - no trace in this libpq or system; no descriptor left
            verdict = _of_client(str(failed.error))
            if failed.used_password:
                verdict = Verdict(LoginFailure.CREDENTIALS)
        except BaseException as error:
            error.__traceback__ = None  # its frames have the password
            raise
        finally:
            self._lock.release()
        return verdict

    def _ask(self, failed: FailedLogin, failure: tuple[int, str]) -> Verdict:
        attempts = failed.attempts()
        if len(attempts) == 1 and isinstance(failed.error, errors.ConnectionTimeout):
            return Verdict()
        verdicts, same = [], True
        for options in attempts:
            outcome = self._traced(options)
            if outcome is None:
                # It works again.
                return Verdict()
            trace, said = outcome
            verdicts.append(read_trace(trace, said))
            same &= bool(said) and said in failure[1]
        verdict = _weightiest(verdicts)
        if verdicts and same:
            # The same words, hence the same cause.
            if len(self._explained) == _REMEMBERED:
                self._explained.clear()
            self._explained[failure] = verdict
        return verdict

    def _traced(self, options: Mapping[str, str]) -> tuple[str, str] | None:
        """Connect; return the trace and libpq's words, or ``None`` if it succeeded.

        The words are empty if it took too long.
        """
        asked = float(options.get("connect_timeout") or 0.0)
        deadline = monotonic() + min(self._timeout, asked if asked > 0.0 else math.inf)
        conninfo = make_conninfo("", **options).encode(errors="surrogateescape")
        # In memory, and never full: what could not be written would be when the process ends.
        trace = os.memfd_create("libpq-trace")
        pgconn = PGconn.connect_start(conninfo)
        try:
            pgconn.trace(trace)
            pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
            state = pgconn.connect_poll()
            while state in (PollingStatus.READING, PollingStatus.WRITING):
                late = monotonic() >= deadline or os.fstat(trace).st_size > _LONGEST
                if late or self._stopped():
                    break
                if _ready(pgconn.socket, state, min(_LOOK_UP, deadline - monotonic())):
                    state = pgconn.connect_poll()
            pgconn.untrace()
            if state == PollingStatus.OK:
                return None
            failed = state == PollingStatus.FAILED
            text = os.pread(trace, _LONGEST, 0).decode("latin-1")
            return text, pgconn.get_error_message() if failed else ""
        finally:
            pgconn.untrace()
            pgconn.finish()
            os.close(trace)


def _ready(descriptor: int, state: int, timeout: float) -> bool:
    # Not select(), which knows no descriptor above 1023; libpq may change it at each step.
    with selectors.DefaultSelector() as selector:
        reading = state == PollingStatus.READING
        selector.register(descriptor, selectors.EVENT_READ if reading else selectors.EVENT_WRITE)
        return bool(selector.select(max(timeout, 0.0)))
