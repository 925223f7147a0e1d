"""A file that has a keeper's current credentials."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from keepers import PATIENCE, Recorder, World

from ephemeral_creds import (
    AsyncCredentialKeeper,
    ConfigurationError,
    CredentialKeeper,
    Credentials,
    CredentialsFile,
    FileProvider,
    Grant,
    Lease,
    LoginFailure,
    NotReady,
    ProviderUnavailable,
    RefreshPolicy,
    Secret,
    Sessions,
    TokenProvider,
)
from ephemeral_creds.events import (
    CredentialsPublished,
    FetchFailed,
    FileWriteFailed,
    KeeperFailed,
    LeaseRenewed,
    LeaseRevoked,
    LoginRejected,
    PasswordChanged,
)
from ephemeral_creds.keeper.recipient import Recipient
from ephemeral_creds.testing import ScriptedProvider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from canary import Canary
    from ephemeral_creds import Event, Session


@pytest.fixture
def path(tmp_path: Path, canary: Canary) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    canary.allow_secret_file(folder)
    return folder / "credentials.json"


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    assert condition()


def user(path: Path) -> str:
    return str(json.loads(path.read_text())["username"])


def test_a_file_provider_reads_it(world: World, path: Path) -> None:
    with CredentialsFile(world.started(), path) as file:
        assert file.path == path
        assert path.stat().st_mode & 0o777 == 0o600
        grant = FileProvider(path).fetch()
        assert grant.credentials == Credentials("user-1", Secret("scripted-password-1"))
        assert 3590 < grant.lease.announced_duration <= 3600
        assert repr(file) == f"CredentialsFile({str(path)!r})"
        file.open()
    assert not path.exists()
    file.close()


def test_a_deadline_that_moves_is_written(world: World, path: Path) -> None:
    with CredentialsFile(world.started(), path):
        before = json.loads(path.read_text())
        world.provider.duration = 7200.0
        world.clock.advance(2400.0)
        world.recorder.wait_for(LeaseRenewed)
        wait_until(lambda: json.loads(path.read_text()) != before)
        after = json.loads(path.read_text())
        assert after["username"] == before["username"]
        assert after["expires_at"] > before["expires_at"]


def test_credentials_without_a_deadline_have_none_in_the_file(world: World, path: Path) -> None:
    world.provider.duration = math.inf
    with CredentialsFile(world.started(), path):
        assert list(json.loads(path.read_text())) == ["username", "password"]


def test_a_reader_keeps_its_connections_when_the_token_of_a_role_changes(path: Path) -> None:
    tokens, seen = itertools.count(1), Recorder()
    provider = TokenProvider("app", lambda: f"token-{next(tokens)}")
    with CredentialKeeper(provider, observers=[]) as writer, CredentialsFile(writer, path):
        traits = {"role_stays": True, "requires_tls": True}
        assert json.loads(path.read_text())["ephemeral_creds"] == traits
        with CredentialKeeper(FileProvider(path), observers=[seen]) as reader:
            credentials = reader.wait(PATIENCE).credentials
            assert credentials == Credentials("app", Secret("token-1"), requires_tls=True)
            writer.refresh()
            seen.wait_for(PasswordChanged)
            assert reader.current().credentials.password == Secret("token-2")
        assert seen.count(CredentialsPublished) == 1


class OfTwoServers(ScriptedProvider):
    """Each of two servers takes a password of its own."""

    def fetch(self) -> Grant:
        grant = super().fetch()
        word = grant.credentials.password
        each = (("one:5432", word), ("two:5432", Secret(f"{word.reveal()}-of-two")))
        return replace(grant, credentials=replace(grant.credentials, passwords=each))


def test_passwords_of_several_servers_are_refused(world: World, path: Path) -> None:
    """Readers would send the first one's to all of them."""
    world.provider = OfTwoServers(world.clock)
    keeper = world.started()
    said = rf"{path} has room for one password, but each of one:5432, two:5432 takes .* a file for"
    with pytest.raises(ConfigurationError, match=said):
        CredentialsFile(keeper, path).open()
    assert not path.exists()
    keeper.refresh()
    world.recorder.wait_for(LeaseRevoked)  # nothing holds what the file has not got


def test_old_credentials_are_held_while_readers_move(world: World, path: Path) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path, drain=60.0) as file:
        keeper.refresh()
        wait_until(lambda: list(file._drained_at) == [1])
        assert user(path) == "user-2"
        world.clock.advance(59.0)
        keeper.refresh()
        wait_until(lambda: list(file._drained_at) == [1, 2])
        assert user(path) == "user-3"
        assert world.provider.live == {"user-1", "user-2", "user-3"}
        world.clock.advance(1.0)
        world.recorder.wait_for(LeaseRevoked)
        assert world.provider.live == {"user-2", "user-3"}
        world.clock.advance(59.0)
        world.recorder.wait_for(LeaseRevoked, 2)
        assert world.provider.live == {"user-3"}


def test_old_credentials_are_renewed_while_they_are_held(world: World, path: Path) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path, drain=math.inf) as file:
        keeper.refresh()
        wait_until(lambda: list(file._drained_at) == [1])
        world.clock.advance(2400.0)
        world.recorder.wait_for(LeaseRenewed, 2)
        assert world.provider.live == {"user-1", "user-2"}
    world.recorder.wait_for(LeaseRevoked)


def test_new_credentials_are_written_when_pools_have_proven_them(world: World, path: Path) -> None:
    keeper = world.started()
    refuses = True

    def prove(session: Session) -> None:
        if refuses:
            session.rejected(LoginFailure.CREDENTIALS)
        else:
            session.accepted()

    with Sessions(keeper, prove) as sessions, CredentialsFile(keeper, path):
        sessions.begin().accepted()
        with pytest.raises(NotReady):
            keeper.refresh(0.0)
        world.recorder.wait_for(LoginRejected)
        assert user(path) == "user-1"
        refuses = False
        wait_until(lambda: keeper._machine.deadline < math.inf)
        world.clock.advance(2.0)
        world.recorder.wait_for(CredentialsPublished, 2)
        wait_until(lambda: user(path) == "user-2")


def test_a_file_that_cannot_be_written_is_tried_again_and_its_credentials_are_held(
    world: World, path: Path
) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path, drain=10.0) as file:
        shutil.rmtree(path.parent)
        keeper.refresh()
        world.recorder.wait_for(FileWriteFailed)
        [event] = [e for e in world.recorder.events if isinstance(e, FileWriteFailed)]
        assert event.path == str(path)
        assert "No such file or directory" in event.error
        assert event.retry_in == 1.0
        world.clock.advance(20.0)
        world.recorder.wait_for(FileWriteFailed, 2)
        assert world.provider.live == {"user-1", "user-2"}
        path.parent.mkdir()
        world.clock.advance(60.0)
        wait_until(lambda: list(file._drained_at) == [1])
        assert user(path) == "user-2"
        world.clock.advance(10.0)
        world.recorder.wait_for(LeaseRevoked)
        assert world.provider.live == {"user-2"}


def test_a_keeper_that_is_closed_removes_the_file_first(world: World, path: Path) -> None:
    keeper = world.started()
    file = CredentialsFile(keeper, path)
    file.open()
    world.provider.gate.clear()
    closing = world.in_thread(lambda: keeper.close(PATIENCE))
    wait_until(lambda: not path.exists())
    assert world.provider.live == {"user-1"}
    world.provider.gate.set()
    closing.get()
    assert world.provider.live == set()
    file.close()


def test_a_successor_s_file_is_left_alone(
    world: World, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path, drain=10.0) as file:
        path.write_text('{"username": "theirs"}')
        keeper.refresh()
        wait_until(lambda: list(file._drained_at) == [1])
        assert "has other credentials than" in caplog.text
        world.clock.advance(10.0)
        world.recorder.wait_for(LeaseRevoked)
        assert user(path) == "theirs"
        keeper.refresh()
    assert user(path) == "theirs"


def test_a_file_that_was_removed_comes_back_with_the_next_credentials(
    world: World, path: Path
) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path):
        path.unlink()
        keeper.refresh()
        wait_until(path.exists)


def test_open_says_why_it_cannot(world: World, path: Path) -> None:
    keeper = world.started()
    missing = CredentialsFile(keeper, path.parent / "none" / "file")
    with pytest.raises(ConfigurationError, match="cannot be written: No such file or directory"):
        missing.open()
    world.provider.failures["fetch"] = [ProviderUnavailable("sealed")]
    other = world.keeper()
    other.start()
    with pytest.raises(NotReady):
        CredentialsFile(other, path).open(0.0)
    assert not path.exists()
    world.recorder.wait_for(FetchFailed)
    # Neither has stayed a consumer that would hold the old lease.
    keeper.refresh()
    world.recorder.wait_for(LeaseRevoked)


@pytest.mark.parametrize("mode", [0, 0o644, 0o660, 0o777, 0o200, 0o4600])
def test_modes_that_are_too_wide_are_refused(world: World, path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}"):
        CredentialsFile(world.keeper(), path, mode=mode)


def test_other_arguments_are_validated(world: World, path: Path) -> None:
    keeper = world.keeper()
    with pytest.raises(ConfigurationError, match="no group 'none-such'"):
        CredentialsFile(keeper, path, group="none-such")
    for drain in (-1.0, math.nan):
        with pytest.raises(ConfigurationError, match="drain="):
            CredentialsFile(keeper, path, drain=drain)


def test_group_and_mode(world: World, path: Path) -> None:
    with CredentialsFile(world.started(), path, mode=0o640, group=str(os.getegid())):
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_gid) == (0o640, os.getegid())


def test_an_asyncio_keeper_will_do(world: World, path: Path) -> None:
    async def work() -> None:
        keeper = AsyncCredentialKeeper(world.provider, clock=world.clock, observers=())
        await keeper.start()
        await keeper.wait()
        with CredentialsFile(keeper, path):
            assert user(path) == "user-1"
        await keeper.close()

    asyncio.run(work())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_leaves_the_file_to_its_parent(world: World, path: Path) -> None:
    keeper = world.started()
    file = CredentialsFile(keeper, path)
    file.open()
    child = os.fork()
    if not child:
        try:
            keeper.close()
            file.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    keeper.refresh()
    wait_until(lambda: user(path) == "user-2")
    file.close()
    assert not path.exists()


def test_a_defect_is_reported_and_tried_again(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = world.started()
    with CredentialsFile(keeper, path) as file:
        real, calls = file._file.write, list[int]()

        def write(text: str) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("secret text")
            real(text)

        monkeypatch.setattr(file._file, "write", write)
        keeper.refresh()
        wait_until(lambda: len(calls) == 1)
        wait_until(lambda: "ValueError" in str(world.recorder.events))
        assert "secret text" not in str(world.recorder.events)
        world.clock.advance(60.0)
        wait_until(lambda: user(path) == "user-2")


def test_the_minute_after_a_defect_does_not_begin_when_observers_have_heard_of_it(
    world: World, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(event: Event) -> None:
        if isinstance(event, KeeperFailed):
            monkeypatch.undo()
            world.clock.advance(60.0)

    def write(text: str) -> None:
        raise ValueError

    keeper = world.started(observers=[slow])
    with CredentialsFile(keeper, path) as file:
        monkeypatch.setattr(file._file, "write", write)
        keeper.refresh()
        wait_until(lambda: user(path) == "user-2")


# -- the consumer beneath it -------------------------------------------------------------------


def recipient(keeper: CredentialKeeper) -> Recipient:
    return Recipient(keeper, lambda: None)


def test_a_recipient_forgets_old_grants_at_their_deadline(world: World) -> None:
    keeper = world.started(refresh=RefreshPolicy(jitter=0.0))
    world.provider.maximum = 3600.0
    found = recipient(keeper)
    keeper.refresh()
    wait_until(lambda: [grant.generation for grant in found.old] == [1])
    world.clock.suspend(3600.0)
    assert found.old == ()
    assert found.current is not None
    assert found.current.generation == 2


def test_a_recipient_keeps_the_later_of_two_answers(world: World) -> None:
    keeper = world.started()
    found = recipient(keeper)
    grant = found.current
    assert grant is not None
    later = Lease(grant.lease.requested_at + 5.0, 3600.0)
    found.extend(Grant(grant.credentials, later, generation=1))
    found.publish(grant)
    assert found.current is not None
    assert found.current.lease == later
    found.extend(Grant(grant.credentials, later, generation=7))
    assert found.current.generation == 1


def test_a_recipient_knows_that_its_keeper_is_closed(world: World) -> None:
    keeper = world.started()
    found = recipient(keeper)
    assert found.end is None
    keeper.close()
    assert "is closed" in str(found.end)
    found.close()
    found.close()
