"""What a credential file may be like, and what `FilePolicy` does about the rest."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from watched_file import text

from ephemeral_creds._values import Credentials, Secret
from ephemeral_creds.exceptions import ConfigurationError, MalformedResponse
from ephemeral_creds.providers.file import FilePolicy, FileProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


@pytest.fixture
def path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """A private file in a directory that all users may search."""
    caplog.set_level(logging.INFO, logger="ephemeral_creds")
    tmp_path.chmod(0o755)
    path = tmp_path / "creds"
    path.write_text(text("one"))
    path.chmod(0o600)
    return path


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder in another mount."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no second file system at hand")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    own = [record for record in caplog.records if record.name == "ephemeral_creds"]
    assert all(record.levelno == logging.WARNING for record in own)
    return [record.getMessage() for record in own]


def test_a_private_file_is_nothing_to_tell(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FileProvider(path).fetch()
    assert told(caplog) == []


def test_world_readable_is_reported_once_with_its_cure(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = FileProvider(path)
    path.chmod(0o644)
    for _ in range(3):
        provider.fetch()
    (message,) = told(caplog)
    assert "mode 0644" in message
    assert 'perms = "0400"' in message
    assert 'vault.hashicorp.com/agent-inject-perms-creds: "0400"' in message
    assert "defaultMode" in message


def test_a_directory_that_is_closed_to_others_protects_its_files(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(0o644)
    path.parent.chmod(0o700)
    FileProvider(path, policy=FilePolicy(world_readable="refuse")).fetch()
    assert told(caplog) == []


def test_each_can_be_allowed_or_refused(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.chmod(0o644)
    FileProvider(path, policy=FilePolicy(world_readable="allow")).fetch()
    assert told(caplog) == []
    strict = FileProvider(path, policy=FilePolicy(world_readable="refuse"))
    with pytest.raises(ConfigurationError, match=r"refused by FilePolicy\.world_readable") as error:
        strict.fetch()
    assert str(path) in str(error.value)
    path.chmod(0o400)
    strict.fetch()


@root_only
def test_a_foreign_owner(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chown(path, 100, 1000)
    FileProvider(path).fetch()
    assert told(caplog) == []
    warning = FileProvider(path, policy=FilePolicy(foreign_owner="warn"))
    warning.fetch()
    warning.fetch()
    (message,) = told(caplog)
    assert "belongs to uid 100" in message
    with pytest.raises(ConfigurationError, match="neither this process's user"):
        FileProvider(path, policy=FilePolicy(foreign_owner="refuse")).fetch()


def test_a_link_within_its_mount(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = path.with_name("link")
    link.symlink_to(path.name)
    FileProvider(link, policy=FilePolicy(outside_link="refuse")).fetch()
    assert told(caplog) == []


def test_a_link_that_leads_out_of_its_mount(
    path: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = elsewhere / "link"
    link.symlink_to(path)
    provider = FileProvider(link)
    provider.fetch()
    provider.fetch()
    (message,) = told(caplog)
    assert "leads out of its mount" in message
    with pytest.raises(ConfigurationError, match="outside_link"):
        FileProvider(link, policy=FilePolicy(outside_link="refuse")).fetch()


@pytest.mark.parametrize("linked", ["the directory", "its ..data", "one of its files"])
def test_a_directory_that_is_reached_by_such_a_link(
    tmp_path: Path, elsewhere: Path, linked: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "creds"
    for name in ("username", "password"):
        (elsewhere / name).write_text(name)
        (elsewhere / name).chmod(0o600)
    if linked == "the directory":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        link = "..data" if linked == "its ..data" else "password"
        (folder / link).symlink_to(elsewhere if link == "..data" else elsewhere / link)
        if link == "password":
            (folder / "username").write_text("app")
            (folder / "username").chmod(0o600)
    FileProvider(folder).fetch()
    assert len([message for message in told(caplog) if "leads out of its mount" in message]) == 1
    with pytest.raises(ConfigurationError, match=r"refused by FilePolicy\.outside_link"):
        FileProvider(folder, policy=FilePolicy(outside_link="refuse")).fetch()


def test_a_directory_that_is_reached_by_a_link_within_its_mount(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("username", "password"):
        (tmp_path / "real" / name).write_text(name)
        (tmp_path / "real" / name).chmod(0o600)
    FileProvider(tmp_path / "link", policy=FilePolicy(outside_link="refuse")).fetch()
    assert told(caplog) == []


def test_a_file_in_a_directory_is_inspected_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    for name in ("username", "password"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o644)
    FileProvider(tmp_path).fetch()
    assert len(told(caplog)) == 1


def test_a_limit_costs_no_memory(path: Path) -> None:
    policy = FilePolicy(max_size=2**60)
    assert FileProvider(path, policy=policy).fetch().credentials.username == "app"


def test_megabytes_are_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 1024 + 1)
    with pytest.raises(ConfigurationError, match=r"65537 bytes, more than the 65536 of FilePolicy"):
        FileProvider(path).fetch()
    path.write_text(text("x" * 1000))
    with pytest.raises(ConfigurationError, match="more than the 100"):
        FileProvider(path, policy=FilePolicy(max_size=100)).fetch()


@pytest.mark.parametrize(
    ("target", "kind"), [("/dev/zero", "device"), ("/dev/tty", "device"), ("fifo", "FIFO")]
)
def test_devices_and_fifos_are_refused_at_once(tmp_path: Path, target: str, kind: str) -> None:
    if target == "fifo":
        os.mkfifo(tmp_path / target)
    link = tmp_path / "creds"
    link.symlink_to(target)
    with pytest.raises(ConfigurationError, match=f"creds is a {kind}, not a regular file: is this"):
        FileProvider(link).fetch()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world_readable": "maybe"}, "world_readable='maybe'"),
        ({"outside_link": True}, "outside_link=True"),
        ({"max_size": 0}, "max_size=0"),
    ],
)
def test_a_policy_checks_its_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FilePolicy(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "yaml"}, "format='yaml': must be one of auto, directory, env, json"),
        ({"format": "json", "parse": str}, "contradict each other"),
        ({"format": "uri", "username_key": "x"}, "leaves no keys to choose: remove username_key"),
        ({"password_key": ""}, "password_key is empty"),
        ({"username": ""}, "username has no value"),
        ({"username": " app"}, "username begins or ends with a space"),
        ({"username": "${DB_USER}"}, "username is a variable"),
        ({"username": "app", "username_key": "X"}, "username and username_key contradict"),
        ({"format": "password"}, "give it as username="),
        ({"format": "password", "username": "app", "password_key": "X"}, "remove password_key"),
        ({"url_key": "X", "username_key": "Y"}, "url_key names a URI with both in it"),
        ({"format": "uri", "url_key": "X"}, "remove url_key"),
    ],
)
def test_options_that_cannot_be(path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FileProvider(path, **options)


def test_a_uri_under_a_custom_key(path: Path) -> None:
    path.write_text(
        "DB_USERNAME=other\nDB_PASSWORD=x\nREPORTS_DB=postgresql://app:one@db/reports\n"
    )
    grant = FileProvider(path, url_key="reports_db").fetch()
    assert grant.credentials == Credentials("app", Secret("one"))
    with pytest.raises(MalformedResponse, match="expected a URI of PostgreSQL in OTHER_DB"):
        FileProvider(path, url_key="OTHER_DB").fetch()


def test_a_uri_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("postgresql://app:one@db/app\n")
    (tmp_path / "host").write_text("db")
    assert FileProvider(tmp_path).fetch().credentials == Credentials("app", Secret("one"))
    (tmp_path / "username").write_text("other")
    (tmp_path / "password").write_text("two")
    with pytest.raises(ConfigurationError, match="and the URI in uri: remove"):
        FileProvider(tmp_path).fetch()
    (tmp_path / "username").rename(tmp_path / "db_user")
    (tmp_path / "password").rename(tmp_path / "db_password")
    assert FileProvider(tmp_path).fetch().credentials == Credentials("other", Secret("two"))


def test_its_repr_says_where_and_what_and_no_secret(path: Path) -> None:
    provider = FileProvider(path, format="env")
    provider.fetch()
    assert repr(provider) == f"FileProvider('{path}', format='env')"


def test_yaml_is_read_by_a_reader_of_yaml(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    path.write_text("""db: {host: h}\nusername: app\npassword: "a\\tb"  # of the app\n""")
    with pytest.raises(ConfigurationError, match="may be YAML"):
        FileProvider(path).fetch()
    grant = FileProvider(path, parse=yaml.safe_load).fetch()
    assert grant.credentials == Credentials("app", Secret("a\tb"))


def test_a_number_from_a_parse_function_is_an_error(path: Path) -> None:
    def parse(_: str) -> Any:
        return {"username": "app", "password": 12345678}

    with pytest.raises(ConfigurationError, match="PASSWORD is a number, not text"):
        FileProvider(path, parse=parse).fetch()


def test_custom_keys(path: Path) -> None:
    path.write_text("LOGIN=app\nDB_PASSWORD=one")
    assert FileProvider(path, username_key="login").fetch().credentials.username == "app"
    path.write_text("LOGIN=app\nPASS=one")
    provider = FileProvider(path, format="env", username_key="LOGIN", password_key="PASS")
    assert provider.fetch().credentials.password.reveal() == "one"
