"""Why a login failed, read from traces that libpq 15 and 18 wrote."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from ephemeral_creds import Credentials, Secret
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.diagnosis import Diagnosis, FailedLogin, Verdict, read_trace
from ephemeral_creds.pool.remedies import advice

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS = "F\t8\tSSLRequest\t 1234 5679\nB\t1\tSSLResponse\t S\n"
STARTUP = 'F\t35\tStartupMessage\t 3 0 "user" "app" "database" "db"\n'
SCRAM = (
    'B\t42\tAuthenticationSASL\t "SCRAM-SHA-256-PLUS" "SCRAM-SHA-256" ""\n'
    "F\t80\tSASLInitialResponse\t \"SCRAM-SHA-256-PLUS\" 53 'p=tls-server-end-point,,n=,r=5zS'\n"
    "B\t92\tAuthenticationSASLContinue\t 'r=5zS,s=qfBVfRV1XCY78v2EQyY2Mg==,i=4096'\n"
    "F\t180\tSASLResponse\t 'c=cD10,r=5zS,p=aWAUXmYw'\n"
)
CLEAR = 'B\t8\tAuthenticationCleartextPassword\nF\t43\tPasswordMessage\t "in-clear"\n'
PROVEN = "B\t54\tAuthenticationSASLFinal\t 'v=0lUxs7XR'\n"
LET_IN = 'B\t8\tAuthenticationOk\nB\t22\tParameterStatus\t "application_name" ""\n'

OLD_STARTUP = "F\t35\tUnknown message: length is 35\n"
OLD_SCRAM = (
    "F\t80\tUnknown message: 70\nmismatched message length: consumed 4, expected 80\n"
    "F\t180\tUnknown message: 70\nmismatched message length: consumed 4, expected 180\n"
)


def error(sqlstate: str, text: str = "…", routine: str = "errfinish", said: str = "FATAL") -> str:
    return (
        f'B\t98\tErrorResponse\t S "{said}" V "FATAL" C "{sqlstate}" M "{text}" F "auth.c" L "334" '
        f'R "{routine}" \\x00\n'
    )


def pooler(text: str) -> str:
    return f'B\t47\tErrorResponse\t S "FATAL" C "08P01" M "{text}" \\x00\n'


NO_ENTRY = error("28000", 'no pg_hba.conf entry for user "app"', "ClientAuthentication")
WRONG = error("28P01", 'password authentication failed for user "app"', "auth_failed")
NO_LOGIN = error("28000", 'role "app" is not permitted to log in', "InitializeSessionUserId")
NO_SLOT = error("53300", "remaining connection slots are reserved", "InitPostgres")

CREDENTIALS, PG_HBA, SERVER, CLIENT, UNREACHABLE = LoginFailure


@pytest.mark.parametrize(
    ("trace", "reason", "sqlstate"),
    [
        ("", UNREACHABLE, None),
        ("not a trace at all", UNREACHABLE, None),
        (TLS, UNREACHABLE, None),
        (TLS + STARTUP, UNREACHABLE, None),
        (STARTUP + SCRAM, UNREACHABLE, None),
        # What the session is like was not what target_session_attrs asks for.
        (STARTUP + SCRAM + PROVEN + LET_IN, UNREACHABLE, None),
        (STARTUP + SCRAM + WRONG, CREDENTIALS, "28P01"),
        (STARTUP + CLEAR + WRONG, CREDENTIALS, "28P01"),
        (STARTUP + CLEAR + error("28000", "LDAP authentication failed"), CREDENTIALS, "28000"),
        (STARTUP + SCRAM + PROVEN + NO_LOGIN, CREDENTIALS, "28000"),
        # With the methods trust and peer no password is asked for; the role is missing.
        (STARTUP + NO_LOGIN, CREDENTIALS, "28000"),
        (STARTUP + NO_ENTRY, PG_HBA, "28000"),
        (STARTUP + error("28000", "Peer authentication failed", "auth_failed"), PG_HBA, "28000"),
        (STARTUP + SCRAM + PROVEN + NO_SLOT, SERVER, "53300"),
        (STARTUP + SCRAM + PROVEN + error("3D000"), SERVER, "3D000"),
        (STARTUP + SCRAM + PROVEN + error("42501"), SERVER, "42501"),
        (STARTUP + error("57P03", "the database system is starting up"), SERVER, "57P03"),
        (STARTUP + error("57P03", "система баз данных", said="ВАЖНО"), SERVER, "57P03"),
        (STARTUP + pooler("unsupported startup parameter: options"), SERVER, "08P01"),
        (STARTUP + SCRAM + PROVEN + pooler('database "db" does not exist'), SERVER, "08P01"),
        (STARTUP + SCRAM + pooler("SASL authentication failed"), CREDENTIALS, "08P01"),
        (STARTUP + pooler("no such user"), CREDENTIALS, "08P01"),
        # sslmode=prefer and a server that takes TLS only; sslmode=allow and the same.
        (TLS + STARTUP + SCRAM + WRONG + STARTUP + NO_ENTRY, CREDENTIALS, "28P01"),
        (STARTUP + NO_ENTRY + TLS + STARTUP + SCRAM + WRONG, CREDENTIALS, "28P01"),
        (TLS + STARTUP + error("57P03") + STARTUP + NO_ENTRY, SERVER, "57P03"),
        # A password is whatever it is.
        (STARTUP + CLEAR.replace("in-clear", 'a"\nB\t1\t"b') + WRONG, CREDENTIALS, "28P01"),
        # libpq 15 shows nothing that comes before the login has succeeded, and names little.
        (OLD_STARTUP, UNREACHABLE, None),
        (OLD_STARTUP + OLD_SCRAM, UNREACHABLE, None),
        (OLD_STARTUP + OLD_SCRAM + NO_SLOT, SERVER, "53300"),
        (OLD_STARTUP + OLD_SCRAM + NO_LOGIN, CREDENTIALS, "28000"),
        (OLD_STARTUP + OLD_SCRAM + LET_IN, UNREACHABLE, None),
    ],
)
def test_a_trace_is_read(trace: str, reason: LoginFailure, sqlstate: str | None) -> None:
    assert read_trace(trace) == Verdict(reason, sqlstate)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (": FATAL:  password authentication failed", CREDENTIALS),
        (": server closed the connection unexpectedly", UNREACHABLE),
        # It took too long.
        ("", UNREACHABLE),
    ],
)
@pytest.mark.parametrize("repeated", ["", OLD_STARTUP])
def test_a_server_that_falls_silent_after_the_password_has_not_refused_it(
    said: str, reason: LoginFailure, repeated: str
) -> None:
    assert read_trace(OLD_STARTUP + OLD_SCRAM + repeated, said) == Verdict(reason)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('connection to server at "db", port 5432 failed: FATAL:  no pg_hba.conf entry', SERVER),
        ('connection to server at "db", port 5432 failed: ВАЖНО:  в pg_hba.conf нет', SERVER),
        (
            'connection to server at "db", port 5432 failed: Connection refused\n\tIs it',
            UNREACHABLE,
        ),
        ('connection to server at "db", port 5432 failed: SSL error: unknown ca', UNREACHABLE),
        ("", UNREACHABLE),
    ],
)
def test_where_the_trace_is_silent_the_server_is_heard(said: str, reason: LoginFailure) -> None:
    assert read_trace(OLD_STARTUP, said) == Verdict(reason)
    assert read_trace(STARTUP + NO_ENTRY, said) == Verdict(PG_HBA, "28000")


@pytest.mark.parametrize(
    ("said", "parameter"),
    [
        ('authentication method requirement "md5" failed: server requested SASL', "require_auth"),
        ("channel binding required, but SSL not in use", "channel_binding"),
        ("channel binding is required, but server did not offer an auth", "channel_binding"),
        ("server does not support SSL, but SSL was required", "sslmode"),
        ("SSL error: certificate verify failed: self-signed certificate", "sslrootcert"),
        ('server certificate for "db" does not match host name "10.0.0.1"', "sslrootcert"),
        ('root certificate file "/root.crt" does not exist\nEither provide', "sslrootcert"),
    ],
)
def test_a_server_that_libpq_turns_away_is_not_unreachable(said: str, parameter: str) -> None:
    """The trace shows no more of that than of a server that breaks the connection off."""
    said = f'connection to server at "db", port 5432 failed: {said}'
    assert read_trace(STARTUP, said) == Verdict(CLIENT, parameter=parameter)
    assert read_trace(STARTUP + NO_ENTRY, said) == Verdict(PG_HBA, "28000")
    assert parameter in advice(CLIENT, None, parameter)


def failed(error: psycopg.Error, conninfo: str, **kwargs: object) -> FailedLogin:
    return FailedLogin(error, conninfo, kwargs, Credentials("app", Secret("in-clear")))


def places(conninfo: str, **kwargs: object) -> list[tuple[str, str, str]]:
    attempts = failed(psycopg.OperationalError("…"), conninfo, **kwargs).attempts()
    return [(one["host"], one["hostaddr"], one["port"]) for one in attempts]


def test_each_host_and_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    assert places("host=/tmp,127.0.0.2 port=1,2") == [
        ("/tmp", "", "1"),
        ("127.0.0.2", "127.0.0.2", "2"),
    ]
    assert places("hostaddr=127.0.0.2,127.0.0.3", port=3) == [
        ("", "127.0.0.2", "3"),
        ("", "127.0.0.3", "3"),
    ]
    assert places("host=nobody.invalid,127.0.0.2 port=1") == [("127.0.0.2", "127.0.0.2", "1")]
    monkeypatch.setenv("PGHOST", "127.0.0.4,127.0.0.5")
    assert [host for host, *_ in places("dbname=db")] == ["127.0.0.4", "127.0.0.5"]


def test_the_address_that_psycopg_tried_comes_before_the_given_one() -> None:
    """A connection class of the user's connects through a tunnel of its own, say."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("host=127.0.0.1 port=1 sslmode=disable user=app")
    (attempt,) = failed(caught.value, "host=db.invalid port=5432").attempts()
    assert (attempt["host"], attempt["port"], attempt["sslmode"]) == ("127.0.0.1", "1", "disable")
    first, second = failed(caught.value, "host=127.0.0.9,127.0.0.1 port=5432").attempts()
    assert (first["host"], second["host"], second["port"]) == ("127.0.0.9", "127.0.0.1", "5432")


def test_no_password_is_shown() -> None:
    assert "in-clear" not in repr(failed(psycopg.OperationalError("…"), "host=127.0.0.1"))


def test_a_failed_query_is_no_failed_login() -> None:
    error = psycopg.errors.InsufficientPrivilege("permission denied for table settings")
    assert Diagnosis(0.0).explain(failed(error, "host=127.0.0.1 port=1")) == Verdict()


def test_without_a_trace_the_password_that_was_used_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before libpq 14, and where the system is not Linux."""

    used: Any = psycopg.errors.FinishedPGconn(used_password=True)

    def unknown(_: str) -> int:
        raise psycopg.NotSupportedError("currently only supported on Linux")

    monkeypatch.setattr("os.memfd_create", unknown)
    diagnosis = Diagnosis(10.0)
    refused = failed(psycopg.OperationalError("refused", pgconn=used), "host=127.0.0.1 port=1")
    silent = failed(psycopg.OperationalError("silent"), "host=127.0.0.1 port=1")
    words = "server does not support SSL, but SSL was required"
    plain = failed(psycopg.OperationalError(words), "host=127.0.0.1 port=1")
    assert diagnosis.explain(plain) == Verdict(CLIENT, parameter="sslmode")
    assert diagnosis.explain(refused) == Verdict(CREDENTIALS)
    assert diagnosis.explain(silent) == Verdict()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_it_takes_no_longer_than_it_may(silent: socket.socket) -> None:
    port = silent.getsockname()[1]
    silent_one = failed(psycopg.OperationalError("…"), f"host=127.0.0.1 port={port}")
    assert Diagnosis(0.05).explain(silent_one) == Verdict()


def test_it_ends_with_its_pool(silent: socket.socket) -> None:
    port, stopped, verdicts = silent.getsockname()[1], threading.Event(), list[Verdict]()
    diagnosis = Diagnosis(3600.0, stopped.is_set)
    silent_one = failed(psycopg.OperationalError("…"), f"host=127.0.0.1 port={port}")
    asking = threading.Thread(target=lambda: verdicts.append(diagnosis.explain(silent_one)))
    asking.start()
    line, _ = silent.accept()
    with line:
        stopped.set()
        asking.join(60.0)
    assert verdicts == [Verdict()]


def test_a_server_that_took_too_long_is_not_asked_again(silent: socket.socket) -> None:
    """Its one address would take as long once more; of several, another one may answer."""
    port = silent.getsockname()[1]
    late = psycopg.errors.ConnectionTimeout("connection timeout expired")
    assert Diagnosis(3600.0).explain(failed(late, f"host=127.0.0.1 port={port}")) == Verdict()
