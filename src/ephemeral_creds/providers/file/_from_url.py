"""What the URL of a file provider says."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds.providers.file.parse import parse_env

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers._location import Location

__all__ = ["FileSettings", "settings_from"]


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What a URL says, made into the arguments of a provider."""

    path: str
    parse: Callable[[str], Credentials]
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
    location.expect(("format", "notify", "password_key", "poll_interval", "username_key"))
    return FileSettings(
        location.path,
        _parser(location),
        poll_interval=location.seconds("poll_interval", 1.0),
        notify=location.flag("notify", default=True),
    )


def _parser(location: Location) -> Callable[[str], Credentials]:
    name = location.text("format")
    if name not in {None, "env"}:
        raise location.error(f"format={name}", "there is no such format; known: env")
    username, password = location.text("username_key"), location.text("password_key")
    if username is None and password is None:
        return parse_env
    if username is None or password is None:
        missing = "password_key" if password is None else "username_key"
        raise location.error(f"{missing}= is missing", "the two keys go together")
    return functools.partial(parse_env, keys=[(username, password)])
