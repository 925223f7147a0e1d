"""What the URL of a file provider says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

from ephemeral_creds.providers.file.formats.parse import FORMATS
from ephemeral_creds.providers.file.policy import VERDICTS, FilePolicy, Verdict

if TYPE_CHECKING:
    from ephemeral_creds.providers.file.formats.parse import Format
    from ephemeral_creds.providers.location import Location

__all__ = ["FileSettings", "settings_from"]

_KEYS = (
    "format", "max_size", "notify", "password_key", "poll_interval", "url_key", "username",
    "username_key",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """What a URL says, made into the arguments of a provider."""

    path: str
    format: Format
    username: str | None
    username_key: str | None
    password_key: str | None
    url_key: str | None
    policy: FilePolicy
    poll_interval: float
    notify: bool


def settings_from(location: Location) -> FileSettings:
    """Return what a URL says.

    Raises:
        ConfigurationError: a part of it is wrong or unknown.
    """
    if location.name not in {"", "localhost"} or not location.path.strip("/"):
        raise location.error(
            "the path", "must be absolute, as in file:///vault/secrets/db-creds.txt"
        )
    location.expect((*_KEYS, *VERDICTS))
    return FileSettings(
        path=location.path,
        format=cast("Format", location.one_of("format", FORMATS, "auto")),
        username=location.text("username"),
        username_key=location.text("username_key"),
        password_key=location.text("password_key"),
        url_key=location.text("url_key"),
        policy=_policy(location),
        poll_interval=location.seconds("poll_interval", 1.0),
        notify=location.flag("notify", default=True),
    )


def _policy(location: Location) -> FilePolicy:
    def verdict(name: str) -> Verdict:
        return cast("Verdict", location.one_of(name, get_args(Verdict), getattr(default, name)))

    default = FilePolicy()
    return FilePolicy(
        world_readable=verdict("world_readable"),
        foreign_owner=verdict("foreign_owner"),
        outside_link=verdict("outside_link"),
        mounted_alone=verdict("mounted_alone"),
        max_size=location.count("max_size", default.max_size),
    )
