"""Providers from one string in a setting: a URL, parsed and checked.

Every error names the wrong part, and repeats nothing that might be a secret: of an unknown key only
its name.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ephemeral_creds._values import Secret
from ephemeral_creds.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import ClassVar, Self

    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["FromURL", "Key", "Location", "one_of", "provider_from_url", "url_schemes"]

_URL_VARIABLE = "EPHEMERAL_CREDS_URL"
# By name, and imported only when asked for: a service with a sidecar needs no hvac, and one with
# Vault no watchdog.
_PROVIDERS = {
    "alloydb-iam": ("tokens.google", "AlloyDBIAMProvider"),
    "aws-secret": ("secrets.aws", "SecretsManagerProvider"),
    "azure-secret": ("secrets.azure", "AzureKeyVaultProvider"),
    "cloudsql-iam": ("tokens.google", "CloudSQLIAMProvider"),
    "dsql": ("tokens.dsql", "AuroraDSQLProvider"),
    "entra": ("tokens.entra", "EntraProvider"),
    "file": ("file", "FileProvider"),
    "google-secret": ("secrets.google", "GoogleSecretManagerProvider"),
    "infisical": ("infisical", "InfisicalProvider"),
    "lakebase": ("tokens.lakebase", "LakebaseProvider"),
    "rds-iam": ("tokens.rds", "RDSIAMProvider"),
    "vault": ("vault", "VaultDynamicProvider"),
    "vault-kv": ("vault", "VaultKVProvider"),
    "vault-static": ("vault", "VaultStaticProvider"),
}

_SECRETS = {
    "token": "token",
    "client_token": "token",
    "client_secret": "client_secret",
    "secret_id": "secret_id",
    "wrapping_token": "secret_id",
    "password": "password",
    "jwt": "jwt",
}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Location:
    """A provider's URL: ``scheme://name/path?key=value&key=value``.

    Percent-encoding works in every part; a plus sign is a plus sign. A key may occur once.

    Args:
        url: the URL.
        environ: the environment; keys that end in ``_env`` name a variable of it.
        scheme: the scheme that it must have.

    Raises:
        ConfigurationError: it is not such a URL, or holds a secret.
    """

    def __init__(self, url: str, environ: Mapping[str, str], *, scheme: str | None = None) -> None:
        self.environ = environ
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
                wrong = "this one has no valid scheme before :// (letters, digits, + - and .)"
            raise ConfigurationError(
                "a provider's URL begins with a scheme, such as vault://my-app-role or "
                f"file:///vault/secrets/db-creds.txt; {wrong}"
            )
        if scheme not in {None, self.scheme}:
            raise ConfigurationError(
                f"{self.scheme}:// in the URL: this provider's begins with {scheme}://"
            )
        if "@" in name:
            raise ConfigurationError(
                f"the {self.scheme} URL has an @ before its query, as if a user name and password "
                "were in front: neither belongs in a URL, which ends up in logs; write %40 if "
                "a name has an @"
            )
        if parts.fragment:
            raise ConfigurationError(f"the {self.scheme} URL has a #: write %23 for a literal one")
        self.name = unquote(name)
        self.path = unquote(parts.path)
        self._query = self._parse(parts.query)

    def __str__(self) -> str:
        """The URL without its query, in which secrets may have ended up."""
        return f"{self.scheme}://{self.name}{self.path}"

    def error(self, part: str, why: str) -> ConfigurationError:
        """Return the error that points at a part."""
        return ConfigurationError(f"{part} in the URL {self}?…: {why}")

    def expect(self, keys: Iterable[str], given: str = "") -> None:
        """Refuse keys other than these.

        Args:
            keys: the known keys.
            given: why these are the known ones: ``with auth=kubernetes``.

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
        """Return a key's value; ``None`` without the key."""
        return self._query.get(key)

    def required(self, key: str, why: str) -> str:
        """Return a key's value.

        Raises:
            ConfigurationError: the key is missing; `why` says what it is for.
        """
        value = self.text(key)
        if value is None:
            raise self.error(f"{key}= is missing", why)
        return value

    def arguments(self, keys: Mapping[str, Key]) -> dict[str, Any]:
        """Return the arguments for the keys that the URL has.

        Raises:
            ConfigurationError: a needed key is missing, or a value cannot be right.
        """
        arguments = {}
        for name, key in keys.items():
            if name in self._query:
                arguments[key.argument] = key.read(self, name)
            # A variable stands in for the file.
            elif key.needed and name.removesuffix("_file") + "_env" not in self._query:
                raise self.error(f"{name}= is missing", key.needed)
        return arguments

    def flag(self, key: str) -> bool:
        """Return what a key says, ``true`` or ``false``."""
        value = self._query[key]
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise self.error(f"{key}={value}", "must be true or false")

    def seconds(self, key: str) -> float:
        """Return a key's number of seconds."""
        value = self._query[key]
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise self.error(f"{key}={value}", "must be a positive number of seconds")
        return seconds

    def count(self, key: str) -> int:
        """Return a key's whole number, of 1 or more."""
        value = self._query[key]
        if not (re.fullmatch(r"[0-9]{1,18}", value) and int(value)):
            raise self.error(f"{key}={value}", "must be a whole number, of 1 or more")
        return int(value)

    def absolute_path(self, key: str) -> str:
        """Return a key's path, which must be absolute: a setting has no current directory."""
        path = self._query[key]
        if not path.startswith(("/", "~")):
            # Not repeated, as in `variable`: it may be the secret itself.
            raise self.error(f"{key}=", "must be an absolute path")
        return path

    def variable(self, key: str) -> Secret:
        """Return the secret in the environment variable that ``STEM_env`` names."""
        variable, file = self._query[key], key.removesuffix("_env") + "_file"
        if file in self._query:
            raise self.error(f"{key}=", f"there is {file}= as well: give one of them")
        if not _VARIABLE.fullmatch(variable):
            raise self.error(f"{key}=", "must be the name of an environment variable, in capitals")
        value = self.environ.get(variable, "").strip()
        if not value:
            raise self.error(f"{key}={variable}", "this environment variable is not set, or empty")
        return Secret(value)

    def _parse(self, query: str) -> dict[str, str]:
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
                raise self.error(f"{key}=", "it occurs twice")
            values[key] = unquote(value)
        return values


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a URL.

    Attributes:
        argument: the name of the constructor's argument.
        read: makes the argument of the key's value.
        needed: what it is for, if the key is required.
    """

    argument: str
    read: Callable[[Location, str], object] = Location.text
    needed: str = ""


def one_of(known: Sequence[str]) -> Callable[[Location, str], str]:
    """Return a reader for a key whose value has to be one of the known ones."""

    def read(location: Location, key: str) -> str:
        value = location.required(key, "")
        if value not in known:
            why = f"there is no such {key}; known: {', '.join(known)}"
            raise location.error(f"{key}={value}", why)
        return value

    return read


class FromURL:
    """A provider that a URL can describe."""

    URL_SCHEME: ClassVar[str]
    """The scheme of its URL."""

    @classmethod
    def from_url(cls, url: str, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Make a provider of a URL; `provider_from_url` has examples.

        Args:
            url: the URL.
            environ: where ``VAULT_ADDR`` and the like are read from, unless the URL says it.

        Raises:
            ConfigurationError: the URL cannot be right; the message names the wrong part.
        """
        return cls(**cls._arguments(Location(url, environ, scheme=cls.URL_SCHEME)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Make a provider of the URL in ``EPHEMERAL_CREDS_URL``; see `from_url`."""
        return cls.from_url(_url_from_env(environ), environ=environ)

    @classmethod
    @abstractmethod
    def _arguments(cls, location: Location) -> dict[str, Any]:
        """Return the arguments of the constructor."""


def provider_from_url(
    url: str | None = None, *, environ: Mapping[str, str] | None = None
) -> CredentialProvider:
    """Make the provider that a URL describes, so that one string in a setting is enough.

    ::

        vault://my-app-role?auth=kubernetes&auth_role=my-app
        vault-static://reporting?auth=approle&role_id=…&secret_id_file=/run/secrets/secret-id
        vault-kv://app/db?auth=kubernetes&auth_role=my-app
        file:///vault/secrets/db-creds.txt
        rds-iam://app_user?host=mydb.abc.eu-central-1.rds.amazonaws.com
        aws-secret://prod/my-app?region=eu-central-1
        azure-secret://my-vault/my-app
        google-secret://my-app?project=my-project

    What the URL does not say about Vault is read from ``VAULT_ADDR``, ``VAULT_NAMESPACE`` and the
    other variables of the vault command. Secrets do not belong in it: ``…_file`` names a file,
    and ``…_env`` an environment variable.

    Args:
        url: the URL; ``None`` means the environment variable ``EPHEMERAL_CREDS_URL``.
        environ: the environment to read; ``None`` means `os.environ`.

    Raises:
        ConfigurationError: the URL cannot be right; the message names the wrong part.
    """
    environ = os.environ if environ is None else environ
    if url is None:
        url = _url_from_env(environ)
    scheme = Location(url, environ).scheme
    if scheme not in _PROVIDERS:
        raise ConfigurationError(
            f"{scheme}:// in the provider's URL: there is no such scheme; known: "
            f"{', '.join(f'{known}://' for known in _PROVIDERS)}"
        )
    module, name = _PROVIDERS[scheme]
    kind = getattr(importlib.import_module(f"ephemeral_creds.providers.{module}"), name)
    provider: CredentialProvider = kind.from_url(url, environ=environ)
    return provider


def url_schemes() -> tuple[str, ...]:
    """Return the schemes of all providers' URLs."""
    return tuple(_PROVIDERS)


def _url_from_env(environ: Mapping[str, str]) -> str:
    url = environ.get(_URL_VARIABLE, "").strip()
    if not url:
        raise ConfigurationError(
            f"{_URL_VARIABLE} is not set: it says where credentials come from, for example "
            "vault://my-app-role?auth=kubernetes&auth_role=my-app or "
            "file:///vault/secrets/db-creds.txt"
        )
    return url
