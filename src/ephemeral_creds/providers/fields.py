"""The fields of a secret to credentials, for stores that keep secrets whole; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from ephemeral_creds.exceptions import (
    ConfigurationError,
    EphemeralCredsError,
    MalformedResponse,
)
from ephemeral_creds.providers.base import value_of
from ephemeral_creds.providers.formats.conninfo import is_uri, read_uri
from ephemeral_creds.providers.formats.entry import Entry
from ephemeral_creds.providers.formats.json import kind_of, read_json
from ephemeral_creds.providers.formats.parse import read_password
from ephemeral_creds.providers.formats.pick import (
    CONNECTION_PAIRS,
    USUAL_KEYS,
    Keys,
    Wording,
    pairs_with,
    pick,
    validate_username,
)
from ephemeral_creds.providers.url import Key, one_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeral_creds._values import Credentials

__all__ = ["FIELD_KEYS", "TEXT_KEYS", "SecretFields", "SecretFormat"]

SecretFormat: TypeAlias = Literal["auto", "password"]

FIELD_KEYS = {
    "username_field": Key("username"),
    "password_field": Key("password"),
    "url_field": Key("url"),
}
"""The keys of a provider's URL for the argument ``fields``."""

TEXT_KEYS = {"username": Key("username"), "format": Key("format", one_of(get_args(SecretFormat)))}
"""The keys of a provider's URL for a secret that may be the password alone."""

_FIELDS = frozenset({"username", "password", "url"})
_CHOOSE = "fields={'username': …, 'password': …}, in a URL username_field= and password_field="
_WORDING = Wording(
    check="correct the secret",
    choose=_CHOOSE,
    alone="",
    quote="write it as text, in quotes",
    mistake="correct the secret",
)
# As for files: no secret is nested deeper.
_DEPTH = 8


class SecretFields:
    """Where a secret has its user name and password.

    The usual keys are found by themselves: ``username`` and ``password``, ``DB_USER`` and
    ``DB_PASSWORD``, ``DATABASE_URL`` with a connection URI … as in files. A nested value's key is
    the path to it, with dots. Two pairs are never mixed.

    Args:
        fields: the secret's names for ``username`` and ``password``, or for ``url``, a connection
            URI that has both; those that are not named are looked for under the usual names.
        username: the user name, if the secret need not have one. A secret with another user name
            is refused.
        format: ``password`` takes a text for the password itself, whatever it looks like; ``auto``
            only if it is neither a JSON object nor a connection URI.

    Raises:
        ConfigurationError: the arguments contradict each other, or cannot be right.
    """

    def __init__(
        self,
        fields: Mapping[str, str] | None = None,
        *,
        username: str | None = None,
        format: SecretFormat = "auto",  # noqa: A002 - what it is called everywhere
    ) -> None:
        if format not in get_args(SecretFormat):
            raise ConfigurationError(
                f"format={format!r}: must be one of {', '.join(get_args(SecretFormat))}"
            )
        if format == "password" and fields:
            raise ConfigurationError("format='password' leaves no keys to choose: remove fields")
        if format == "password" and username is None:
            raise ConfigurationError("format='password' has no user name: give it as username=")
        self._format = format
        self._keys = _keys(dict(fields or {}), username)

    def read(self, secret: Mapping[str, object] | str, where: str) -> Credentials:
        """Return the credentials in a secret: its fields, or its text.

        A text may be a JSON object, a connection URI or the password alone, of which one line end
        at its end is no part.

        Args:
            secret: as the store returned it, whole.
            where: which secret, to begin every message: ``secret 'app/db' at https://…``. The
                caller holds the secret in a frame that the traceback shows; `find` raises nothing.

        Raises:
            ConfigurationError: a key or its value is missing, or a value is a placeholder, not
                text, ambiguous, or impossible in PostgreSQL.
        """
        found = self.find(secret, where)
        del secret
        return value_of(found)

    def find(
        self, secret: Mapping[str, object] | str, where: str
    ) -> Credentials | EphemeralCredsError:
        """Return the same as `read`, or the error in its place, for `value_of` to raise."""
        try:
            if isinstance(secret, Mapping):
                return pick(_flatten(secret, "", _DEPTH), self._keys, whole=True).credentials
            return self._read_text(secret)
        except (ConfigurationError, MalformedResponse) as error:
            # A new one: the frames of this one hold the secret.
            return ConfigurationError(f"{where}: {error}")

    def _read_text(self, text: str) -> Credentials:
        if not text.strip():
            raise ConfigurationError("it is empty: write the credentials into it")
        keys = self._keys
        alone = keys._replace(pairs=CONNECTION_PAIRS, uris=())
        if self._format == "auto":
            if text.lstrip().startswith("{"):
                return pick(value_of(_json(text)), keys, whole=True).credentials
            if is_uri(text):
                return pick(read_uri(text), alone, whole=True).credentials
        if not keys.username:
            raise ConfigurationError(
                "it is neither a JSON object nor a connection URI of PostgreSQL: if it is the "
                "password alone, give the user name as username="
            )
        return pick(read_password(text), alone, whole=True).credentials


def _json(text: str) -> list[Entry] | EphemeralCredsError:
    try:
        return list(read_json(text))
    except (ConfigurationError, MalformedResponse):
        # Its own advice is about the templates of files.
        return ConfigurationError(
            "it begins with { and is not a JSON object: write it as one, or, if it is the password "
            "itself, say so with format='password'"
        )


def _flatten(secret: Mapping[str, object], prefix: str, depth: int) -> Iterator[Entry]:
    for key, value in secret.items():
        if isinstance(value, Mapping) and depth:
            yield from _flatten(value, f"{prefix}{key}.", depth - 1)
        elif isinstance(value, str):
            yield Entry(prefix + key, value, "the secret")
        else:
            yield Entry(prefix + key, "", "the secret", kind_of(value))


def _keys(fields: Mapping[str, str], username: str | None) -> Keys:
    if unknown := sorted(fields.keys() - _FIELDS):
        raise ConfigurationError(
            f"fields={{{unknown[0]!r}: …}}: its keys are 'username' and 'password', or 'url', its "
            "values the secret's names for them"
        )
    if not all(fields.values()):
        raise ConfigurationError("fields: the name of a field cannot be empty")
    if username is not None and "username" in fields:
        raise ConfigurationError("username and fields['username'] contradict each other: give one")
    constant = "" if username is None else validate_username(username)
    usual = USUAL_KEYS._replace(username=constant, wording=_WORDING)
    if "url" in fields:
        if len(fields) > 1:
            raise ConfigurationError(
                "fields['url'] names a URI with user name and password in it: remove the others"
            )
        return usual._replace(pairs=(), uris=(fields["url"],))
    if fields:
        pairs = pairs_with(fields.get("username"), fields.get("password"))
        return usual._replace(pairs=pairs, uris=())
    return usual
