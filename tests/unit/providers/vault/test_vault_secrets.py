"""R27: no token, secret id or password gets out by an error, a repr or a local variable."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest
from stub_vault import (
    CREDS,
    DENIED,
    LOGIN,
    LOOKUP,
    PASSWORD,
    RENEW,
    RENEW_TOKEN,
    REVOKE,
    SECRET_ID,
    TOKEN,
    Fault,
    Reply,
    errors,
)

from ephemeral_creds._values import Secret
from ephemeral_creds.providers.vault import AppRoleAuth, KubernetesAuth, TokenAuth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from stub_vault import StubVault

    from ephemeral_creds.providers.vault import VaultConfig, VaultDynamicProvider
    from ephemeral_creds.testing import FakeClock

CANARIES = (TOKEN[:-1], SECRET_ID, PASSWORD)


def holds_canary(text: str) -> bool:
    return any(canary in text for canary in CANARIES)


def reachable(thing: object, depth: int = 6) -> Iterator[object]:
    """Yield what an error reporter that digs into objects would come across."""
    yield thing
    if depth == 0 or isinstance(thing, str | bytes | int | float | type | Secret):
        return
    inside: list[object] = []
    if isinstance(thing, dict):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = list(thing)
    elif type(thing).__module__.startswith(("ephemeral_creds", "hvac", "requests", "urllib3")):
        inside = list(getattr(thing, "__dict__", {}).values())
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            inside += [getattr(thing, name, None) for name in slots if isinstance(name, str)]
    for item in inside:
        yield from reachable(item, depth - 1)


def frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of our own code below the test's."""
    walk = error.__traceback__
    while walk is not None:
        if "ephemeral_creds" in walk.tb_frame.f_code.co_filename or (
            "site-packages" in walk.tb_frame.f_code.co_filename
        ):
            yield walk.tb_frame
        walk = walk.tb_next


def assert_clean(error: BaseException) -> None:
    seen: list[BaseException] = [error]
    for item in seen:
        seen += [e for e in (item.__cause__, item.__context__) if e and e not in seen]
    for item in seen:
        assert type(item).__module__ == "ephemeral_creds.exceptions"
        assert not holds_canary(f"{item!r} {item} {vars(item)!r}")
        assert not holds_canary("".join(traceback.format_exception(item)))
        assert list(frames(item))
        for frame in frames(item):
            for name, value in frame.f_locals.items():
                for thing in reachable(value):
                    text = thing if isinstance(thing, str) else repr(thing)
                    assert not holds_canary(text), f"{name} in {frame.f_code.co_name}"


FAILURES: dict[str, tuple[str, Reply | Fault]] = {
    "login refused": (LOGIN, errors(400, f"invalid secret id {SECRET_ID}")),
    "login html": (LOGIN, Reply(200, f"<p>{TOKEN}</p>", kind="text/html")),
    "login text": (LOGIN, Reply(200, f"{TOKEN}", kind="text/plain")),
    "login malformed": (LOGIN, Reply(body={"auth": {"client_token": TOKEN}})),
    "login reset": (LOGIN, Fault("reset")),
    "login echo": (LOGIN, errors(500, f"you sent {SECRET_ID}")),
    "mint denied": (CREDS, DENIED),
    "mint echo": (CREDS, errors(500, f"you sent {TOKEN}")),
    "mint malformed": (CREDS, Reply(body={"lease_id": "x", "data": {"password": PASSWORD}})),
    "mint other": (CREDS, Reply(body={"data": PASSWORD})),
    "mint reset": (CREDS, Fault("reset")),
    "renew echo": (RENEW, errors(400, f"you sent {TOKEN}")),
    "renew denied": (RENEW, DENIED),
    "renew reset": (RENEW, Fault("reset")),
    "token echo": (RENEW_TOKEN, errors(503, f"you sent {TOKEN}")),
    "token reset": (RENEW_TOKEN, Fault("reset")),
    "revoke echo": (REVOKE, errors(400, f"you sent {TOKEN}")),
    "revoke reset": (REVOKE, Fault("reset")),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES)
def test_r27_an_error_leads_to_no_secret(
    stub: StubVault,
    provider: VaultDynamicProvider,
    clock: FakeClock,
    case: tuple[str, Reply | Fault],
) -> None:
    what, reply = case
    stub.script(what, reply)
    if what in {LOGIN, CREDS}:
        act: Callable[[], object] = provider.fetch
    else:
        grant = provider.fetch()
        clock.advance(2400)
        act = lambda: (provider.revoke if what == REVOKE else provider.renew)(grant)  # noqa: E731
    caught = None
    try:
        act()
    except Exception as error:
        caught = error
    assert caught is not None
    assert_clean(caught)


def test_r27_a_dead_tokens_error_leads_to_no_secret(
    stub: StubVault, provider: VaultDynamicProvider
) -> None:
    provider.fetch()
    stub.script(CREDS, DENIED)
    stub.script(LOOKUP, DENIED)
    stub.script(LOGIN, errors(400, f"bad {SECRET_ID}"))
    with pytest.raises(Exception, match="bad") as caught:
        provider.fetch()
    assert_clean(caught.value)


def test_r27_a_token_that_no_header_can_hold(config: VaultConfig, clock: FakeClock) -> None:
    from ephemeral_creds.providers.vault import VaultDynamicProvider

    for odd in ("\nX-Other: 1", "☠"):
        auth = TokenAuth(Secret(TOKEN + odd))
        provider = VaultDynamicProvider("app", auth=auth, config=config, clock=clock)
        with pytest.raises(Exception, match="characters that HTTP cannot carry") as caught:
            provider.fetch()
        assert_clean(caught.value)
        provider.close()


def test_r27_a_file_that_is_no_text(config: VaultConfig, tmp_path: Path) -> None:
    from ephemeral_creds.providers.vault import VaultDynamicProvider

    path = tmp_path / "secret-id"
    path.write_bytes(SECRET_ID.encode() + b"\xff")
    auth = AppRoleAuth("role-id", secret_id_file=path)
    provider = VaultDynamicProvider("app", auth=auth, config=config)
    with pytest.raises(Exception, match="is not text") as caught:
        provider.fetch()
    assert_clean(caught.value)
    provider.close()
    path.unlink()


def test_r27_nothing_at_rest_shows_a_secret(provider: VaultDynamicProvider) -> None:
    grant = provider.fetch()
    for thing in reachable([provider, grant, vars(provider)], depth=9):
        assert not holds_canary(thing if isinstance(thing, str) else repr(thing))
    assert repr(provider) == f"<VaultDynamicProvider {provider.description}>"


def test_r27_auth_methods_are_masked() -> None:
    for method in (
        TokenAuth(TOKEN),
        AppRoleAuth("role-id", SECRET_ID),
        KubernetesAuth("my-app"),
    ):
        assert not holds_canary(f"{method!r} {vars(method)!r}")
    assert "role-id" not in repr(AppRoleAuth("role-id"))
    assert "my-app" in repr(KubernetesAuth("my-app"))


def test_r27_a_failing_close_logs_no_secret(
    stub: StubVault, provider: VaultDynamicProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.fetch()
    stub.script("POST /v1/auth/token/revoke-self", errors(500, f"you sent {TOKEN}"))
    with caplog.at_level(logging.DEBUG, logger="ephemeral_creds"):
        provider.close()
    assert "not revoked" in caplog.text
    assert not holds_canary(caplog.text)
