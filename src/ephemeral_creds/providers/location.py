"""One URL that says where credentials come from, taken apart and checked.

Every error points at the part that is wrong, and repeats nothing that might be a secret: of what
is not expected only the name.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["URL_VARIABLE", "Location", "url_from_env"]

URL_VARIABLE = "EPHEMERAL_CREDS_URL"
"""The environment variable that holds the URL where no other one is given."""

_SECRETS = {
    "token": "token",
    "client_token": "token",
    "secret_id": "secret_id",
    "wrapping_token": "secret_id",
    "password": "password",
    "jwt": "jwt",
}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def url_from_env(environ: Mapping[str, str]) -> str:
    """Return the URL that the environment names.

    Raises:
        ConfigurationError: it names none.
    """
    url = environ.get(URL_VARIABLE, "").strip()
    if not url:
        raise ConfigurationError(
            f"{URL_VARIABLE} is not set: it says where credentials come from, for example "
            "vault://my-app-role?auth=kubernetes&auth_role=my-app or "
            "file:///vault/secrets/db-creds.txt"
        )
    return url


class Location:
    """A provider's URL: ``scheme://name/path?key=value&key=value``.

    Percent-encoding works in every part; a plus sign is a plus sign. A key may occur once.

    Args:
        url: the URL.
        environ: where keys that end in ``_env`` look.
        scheme: what it has to begin with.

    Raises:
        ConfigurationError: it is no such URL, or holds a secret.
    """

    def __init__(self, url: str, environ: Mapping[str, str], *, scheme: str | None = None) -> None:
        self._environ = environ
        try:
            parts = urlsplit(url.strip())
        except ValueError:
            parts = urlsplit("")
        self.scheme = parts.scheme
        name = parts.netloc
        if not parts.scheme or "://" not in url:
            wrong = "this one has none"
            if parts.scheme:
                wrong = f"this one has {parts.scheme}: without the two slashes"
            elif "://" in url:
                wrong = "what this one has before :// is none (letters, digits, + - and .)"
            raise ConfigurationError(
                "a provider's URL begins with a scheme, such as vault://my-app-role or "
                f"file:///vault/secrets/db-creds.txt; {wrong}"
            )
        if scheme not in {None, self.scheme}:
            raise ConfigurationError(
                f"{self.scheme}:// in the URL: what is made of it here begins with {scheme}://"
            )
        if "@" in name:
            raise ConfigurationError(
                f"the {self.scheme} URL has an @ before its query, as if a user name and password "
                "were in front: neither belongs in a URL, which ends up in logs; write %40 where "
                "a name has an @"
            )
        if parts.fragment:
            raise ConfigurationError(f"the {self.scheme} URL has a #: write %23 where one is meant")
        self.name = unquote(name)
        self.path = unquote(parts.path)
        self._query = self._parsed(parts.query)

    def __str__(self) -> str:
        """The URL without its query, in which secrets may have ended up."""
        return f"{self.scheme}://{self.name}{self.path}"

    def error(self, part: str, why: str) -> ConfigurationError:
        """Return the error that points at a part."""
        return ConfigurationError(f"{part} in the URL {self}?…: {why}")

    def expect(self, keys: Iterable[str], given: str = "") -> None:
        """Refuse keys other than these.

        Args:
            keys: what is known.
            given: what makes just these known: ``with auth=kubernetes``.

        Raises:
            ConfigurationError: there is another; the message names the known ones.
        """
        known = sorted(keys)
        for key in self._query:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? Known" if near else "known"
            where = f" {given}" if given else ""
            raise self.error(repr(key), f"there is no such key; {hint}{where}: {', '.join(known)}")

    def text(self, key: str) -> str | None:
        """Return a key's value, if the key is there."""
        return self._query.get(key)

    def required(self, key: str, why: str) -> str:
        """Return a key's value.

        Raises:
            ConfigurationError: the key is not there; `why` says what it is for.
        """
        value = self.text(key)
        if value is None:
            raise self.error(f"{key}= is missing", why)
        return value

    def one_of(self, key: str, known: Sequence[str], default: str) -> str:
        """Return a key's value, which has to be among the known ones."""
        value = self.text(key)
        if value is None:
            return default
        if value not in known:
            raise self.error(f"{key}={value}", f"there is no such {key}; known: {', '.join(known)}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return what a key says, ``true`` or ``false``."""
        value = self.text(key)
        if value is None:
            return default
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise self.error(f"{key}={value}", "must be true or false")

    def seconds(self, key: str, default: float) -> float:
        """Return a key's number of seconds."""
        value = self.text(key)
        if value is None:
            return default
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise self.error(f"{key}={value}", "must be a positive number of seconds")
        return seconds

    def count(self, key: str, default: int) -> int:
        """Return a key's whole number, of 1 or more."""
        value = self.text(key)
        if value is None:
            return default
        if not (re.fullmatch(r"[0-9]{1,18}", value) and int(value)):
            raise self.error(f"{key}={value}", "must be a whole number, of 1 or more")
        return int(value)

    def secret(self, stem: str) -> tuple[Secret | None, str | None]:
        """Return the secret that ``STEM_env`` leads to, or the path that ``STEM_file`` names.

        What either holds is only repeated where it looks like what it should be: somebody may have
        put the secret itself there.

        Raises:
            ConfigurationError: both are given, or one is of no use.
        """
        path, variable = self.path_of(f"{stem}_file"), self.text(f"{stem}_env")
        if path is not None and variable is not None:
            raise self.error(f"{stem}_env=", f"there is {stem}_file= as well: give one of them")
        if variable is None:
            return None, path
        if not _VARIABLE.fullmatch(variable):
            raise self.error(
                f"{stem}_env=", "must be the name of an environment variable, in capitals"
            )
        value = self._environ.get(variable, "").strip()
        if not value:
            raise self.error(
                f"{stem}_env={variable}", "this environment variable is not set, or empty"
            )
        return Secret(value), None

    def path_of(self, key: str) -> str | None:
        """Return the absolute path that a key holds.

        Raises:
            ConfigurationError: it is relative, to a directory that a setting cannot know.
        """
        path = self.text(key)
        if path is not None and not path.startswith(("/", "~")):
            raise self.error(f"{key}=", "must be an absolute path")
        return path

    def _parsed(self, query: str) -> dict[str, str]:
        values: dict[str, str] = {}
        for number, part in enumerate(filter(None, query.split("&")), start=1):
            key, separator, value = part.partition("=")
            if key in _SECRETS:
                stem = _SECRETS[key]
                raise self.error(
                    f"{key}=",
                    "a secret does not belong in a URL, which ends up in logs and process lists: "
                    f"name a file with {stem}_file=…, or an environment variable with "
                    f"{stem}_env=…",
                )
            if not separator:
                # Not repeated: a secret with an & in it looks like this.
                raise self.error(f"part {number} of the query", "it is not key=value")
            if not value:
                raise self.error(f"{key}=", "it has no value")
            if key in values:
                raise self.error(f"{key}=", "it is there twice")
            values[key] = unquote(value)
        return values
