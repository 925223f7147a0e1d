"""Reading credentials from a path, be it a file or a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ephemeral_creds._values import Credentials
from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.file.read.directory import (
    SWAPPED,
    entries_of_files,
    read_directory,
)
from ephemeral_creds.providers.file.read.file import read_text
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.json import kind_of
from ephemeral_creds.providers.formats.parse import FORMATS, Format, parse
from ephemeral_creds.providers.formats.pick import (
    CONNECTION_PAIRS,
    USUAL_KEYS,
    Found,
    Keys,
    pairs_with,
    pick,
    validate_username,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds.providers.file.policy import Inspection

__all__ = ["Content", "FileSource", "ParseFunction", "Parsed", "keys_from"]

Parsed: TypeAlias = "Credentials | tuple[str, str] | Mapping[str, str]"
ParseFunction: TypeAlias = Callable[[str], "Parsed"]


@dataclass(frozen=True, slots=True)
class Content:
    """The credentials at the path, and when they were written, in seconds since 1970."""

    found: Found
    written_at: float

    def differs(self, other: Content | None) -> bool:
        """Tell whether a `fetch` has to read again after `other` was read.

        Bytes are not compared: an agent writes the same secret again with another duration in it.
        """
        if other is None:
            return True
        mine, others = self.found, other.found
        return (mine.credentials, mine.end.at) != (others.credentials, others.end.at)

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the announced end of the credentials, at `now` since 1970."""
        end = self.found.end
        return min(end.at, self.written_at + end.after) - now


class FileSource:
    """A file, or a directory with one file per key, and how to read it."""

    def __init__(
        self,
        path: Path,
        *,
        format: Format,  # noqa: A002 - what it is called everywhere
        keys: Keys,
        parse: ParseFunction | None,
        inspection: Inspection,
    ) -> None:
        self._path = path
        self._format: Format = format
        self._keys = keys
        self._parse = parse
        self._inspection = inspection

    def read(self) -> Content:
        """Read the credentials; raises what `FileProvider.fetch` does."""
        directory = self._format == "directory" or (self._format == "auto" and self._path.is_dir())
        if directory and self._parse is None:
            return self._read_directory()
        file = read_text(self._path, max_size=self._inspection.policy.max_size)
        self._inspection.inspect(self._path, file)
        found = self._located(lambda: self._find(file.text))
        return Content(found, file.status.st_mtime)

    def _read_directory(self) -> Content:
        max_size = self._inspection.policy.max_size
        names = [key for pair in self._keys.pairs for key in pair]
        files = read_directory(self._path, [*names, *self._keys.uris], max_size=max_size)
        for name, file in files.items():
            path = self._path / name
            self._inspection.inspect(path, file, folders=(self._path, self._path / SWAPPED))
        found = self._located(lambda: pick(entries_of_files(files), self._keys))
        return Content(found, max(file.status.st_mtime for file in files.values()))

    def _find(self, text: str) -> Found:
        if self._parse is None:
            return parse(text, format=self._format, keys=self._keys)
        parsed = self._parse(text)
        if isinstance(parsed, Credentials):
            if self._keys.username not in ("", parsed.username):
                raise ConfigurationError("parse returned a user name that differs from username=")
            return Found(parsed)
        if isinstance(parsed, Mapping):
            return pick([_entry(key, value) for key, value in parsed.items()], self._keys)
        username, password = parsed
        pair = [Entry("user", username, "parse"), Entry("password", password, "parse")]
        return pick(pair, Keys(CONNECTION_PAIRS, (), self._keys.username))

    def _located(self, find: Callable[[], Found]) -> Found:
        """Return the result of `find`, or raise its error with the path in front."""
        return value_of(self._attempt(find))

    def _attempt(self, find: Callable[[], Found]) -> Found | EphemeralCredsError:
        try:
            return find()
        except ConfigurationError as error:
            return ConfigurationError(f"{self._path}: {error}")
        except MalformedResponse as error:
            return MalformedResponse(f"{self._path}: {error}")
        except Exception as error:  # noqa: BLE001  a caller's function may raise anything
            return MalformedResponse(
                f"{self._path}: the parse function failed with {type(error).__name__}"
            )


def _entry(key: str, value: object) -> Entry:
    """Return an entry of a caller's function, which may be a number if it reads YAML."""
    if isinstance(value, str):
        return Entry(key, value, "parse")
    return Entry(key, "", "parse", kind_of(value))


def keys_from(
    format: Format,  # noqa: A002 - what it is called everywhere
    username_key: str | None,
    password_key: str | None,
    url_key: str | None,
    parse: ParseFunction | None,
    username: str | None,
) -> Keys:
    """Return the keys to look for, or raise if the options contradict each other."""
    if format not in FORMATS:
        raise ConfigurationError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
    if parse is not None and format != "auto":
        raise ConfigurationError(f"format={format!r} and parse contradict each other: give one")
    given = {"username_key": username_key, "password_key": password_key, "url_key": url_key}
    named = {name: key for name, key in given.items() if key is not None}
    if username is not None and username_key is not None:
        raise ConfigurationError("username and username_key contradict each other: give one")
    if username is None and format == "password":
        raise ConfigurationError("format='password' has no user name: give it as username=")
    constant = "" if username is None else validate_username(username)
    if not named:
        return USUAL_KEYS._replace(username=constant)
    if format in ("uri", "conninfo", "password"):
        raise ConfigurationError(
            f"format={format!r} leaves no keys to choose: remove {', '.join(named)}"
        )
    if "" in named.values():
        raise ConfigurationError(f"{next(name for name, key in named.items() if not key)} is empty")
    if url_key is not None:
        if len(named) > 1:
            raise ConfigurationError(
                "url_key names a URI with both in it: remove username_key and password_key, or it"
            )
        return Keys((), (url_key,), constant)
    return Keys(pairs_with(username_key, password_key), (), constant)
