"""The URL of a Vault provider: its role, how to log in, how to reach Vault."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.fields import FIELD_KEYS
from ephemeral_creds.providers.url import Key, Location
from ephemeral_creds.providers.vault.auth.approle import AppRoleAuth
from ephemeral_creds.providers.vault.auth.aws import AWSAuth
from ephemeral_creds.providers.vault.auth.cert import CertAuth
from ephemeral_creds.providers.vault.auth.jwt import JWTAuth, KubernetesAuth
from ephemeral_creds.providers.vault.auth.metadata import AzureAuth, GCPAuth
from ephemeral_creds.providers.vault.auth.password import LDAPAuth, UserpassAuth
from ephemeral_creds.providers.vault.auth.token import AgentAuth, TokenAuth
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.inputs import (
    validate_mount,
    validate_role,
    validate_secret_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ephemeral_creds.providers.vault.auth.base import AuthMethod

__all__ = ["role_arguments", "secret_arguments"]

# Keys with the value of an environment variable.
_ENVIRONMENT = {
    "address": Key("VAULT_ADDR"),
    "namespace": Key("VAULT_NAMESPACE"),
    "cacert": Key("VAULT_CACERT"),
    "capath": Key("VAULT_CAPATH"),
    "client_cert": Key("VAULT_CLIENT_CERT"),
    "client_key": Key("VAULT_CLIENT_KEY"),
    "skip_verify": Key("VAULT_SKIP_VERIFY", lambda location, key: str(location.flag(key)).lower()),
    "tls_server_name": Key("VAULT_TLS_SERVER_NAME"),
}
# Keys without a variable, or in another unit.
_CONFIG = {
    "auth_namespace": Key("auth_namespace"),
    "connect_timeout": Key("connect_timeout", Location.seconds),
    "read_timeout": Key("read_timeout", Location.seconds),
}
# A key of the URL replaces all of these variables.
_ALTERNATIVES = (
    ("address", ("ADDR", "AGENT_ADDR")),
    ("cacert", ("CACERT", "CACERT_BYTES", "CAPATH", "SKIP_VERIFY")),
    ("capath", ("CACERT", "CACERT_BYTES", "CAPATH", "SKIP_VERIFY")),
    ("skip_verify", ("SKIP_VERIFY",)),
    ("client_cert", ("CLIENT_CERT", "CLIENT_KEY")),
    ("client_key", ("CLIENT_CERT", "CLIENT_KEY")),
)
_FIELDS = {name: FIELD_KEYS[name] for name in ("username_field", "password_field")}
_SECRET = {
    # Not username=, which is whom auth=userpass logs in to Vault as.
    "db_username": Key("username"),
    "version": Key("version", Location.count),
    "engine_version": Key("engine_version", Location.count),
    "poll_interval": Key("poll_interval", Location.seconds),
}


def _secret(stem: str, value: str, path: str, *, needed: bool = False) -> dict[str, Key]:
    """Return the two keys that lead to a secret, for arguments of these names."""
    why = f"name a file, or a variable with {stem}_env="
    return {
        f"{stem}_file": Key(path, Location.absolute_path, why if needed else ""),
        f"{stem}_env": Key(value, Location.variable),
    }


def _no_mount(location: Location, key: str) -> NoReturn:
    why = f"auth={location.text('auth')} does not log in at a mount: leave it out"
    raise location.error(f"{key}=", why)


_MOUNT = {"auth_mount": Key("mount")}
_NO_MOUNT = {"auth_mount": Key("mount", _no_mount)}
_ROLE = {"auth_role": Key("role", needed="the role of the auth method to log in as")}
_USER = {
    "username": Key("username", needed="whom to log in to Vault as"),
    **_secret("password", "password", "password_file", needed=True),
}
_METHODS: Mapping[str, tuple[Callable[..., AuthMethod], Mapping[str, Key]]] = {
    "agent": (AgentAuth, _NO_MOUNT),
    "approle": (
        AppRoleAuth,
        {
            "role_id": Key("role_id", needed="the id of the AppRole to log in as"),
            **_secret("secret_id", "secret_id", "secret_id_file"),
            "wrapped": Key("wrapped", Location.flag),
            **_MOUNT,
        },
    ),
    "aws": (AWSAuth, _ROLE | _MOUNT | {"region": Key("region"), "server_id": Key("server_id")}),
    "azure": (
        AzureAuth,
        _ROLE | _MOUNT | {"client_id": Key("client_id"), "resource": Key("resource")},
    ),
    "cert": (CertAuth, _MOUNT | {"auth_role": Key("role")}),
    "gcp": (GCPAuth, _ROLE | _MOUNT | {"service_account": Key("service_account")}),
    "jwt": (JWTAuth, _ROLE | _MOUNT | _secret("jwt", "jwt", "path", needed=True)),
    "kubernetes": (
        KubernetesAuth,
        _ROLE | _MOUNT | {"jwt_file": Key("jwt_path", Location.absolute_path)},
    ),
    "ldap": (LDAPAuth, _USER | _MOUNT),
    "token": (TokenAuth, _NO_MOUNT | _secret("token", "token", "path")),
    "userpass": (UserpassAuth, _USER | _MOUNT),
}


def role_arguments(location: Location) -> dict[str, Any]:
    """Return the arguments of the provider of a role that a URL describes.

    Raises:
        ConfigurationError: a part of it is wrong, missing or unknown.
    """
    if not location.name:
        raise location.error("the role", f"is missing: {location.scheme}://ROLE?auth=…")
    if location.path.strip("/"):
        raise location.error(
            f"the path {location.path}",
            "the name of the role is all that comes before the ?; give the path of the engine "
            "as mount=",
        )

    def own() -> dict[str, Any]:
        return {
            "role": validate_role(location.name),
            "mount": _mount(location, "database"),
            "fields": location.arguments(_FIELDS),
        }

    return _arguments(location, _FIELDS, own)


def secret_arguments(location: Location) -> dict[str, Any]:
    """Return the arguments of the provider of a secret that a URL describes.

    Raises:
        ConfigurationError: a part of it is wrong, missing or unknown.
    """
    if not location.name:
        raise location.error("the path", f"is missing: {location.scheme}://PATH?auth=…")

    def own() -> dict[str, Any]:
        return {
            "path": validate_secret_path(location.name + location.path),
            "mount": _mount(location, "secret"),
            "fields": location.arguments(FIELD_KEYS),
            **location.arguments(_SECRET),
        }

    return _arguments(location, FIELD_KEYS | _SECRET, own)


def _mount(location: Location, usual: str) -> str:
    mount = location.text("mount") or usual
    return validate_mount(mount, "mount of a secrets engine (mount=)")


def _arguments(
    location: Location, own_keys: Iterable[str], own: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return what `own` reads and how to log in to and to reach Vault."""
    name = location.required("auth", f"say how to log in: {', '.join(_METHODS)}")
    if name not in _METHODS:
        # Not repeated: it may be a token.
        near = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {near[0]!r}? Known" if near else "known"
        raise location.error(
            "auth=", f"there is no such auth method; {hint}: {', '.join(_METHODS)}"
        )
    make, keys = _METHODS[name]
    known = ("auth", "mount", *own_keys, *_ENVIRONMENT, *_CONFIG, *keys)
    location.expect(known, f"with auth={name}")
    try:
        login = location.arguments(keys)
        if make is TokenAuth:
            login["environ"] = location.environ
        return {"auth": make(**login), **own(), "config": _config(location)}
    except ConfigurationError as error:
        text = str(error)
        if str(location) in text:
            raise
        raise ConfigurationError(f"the URL {location}?…: {text}") from None


def _config(location: Location) -> VaultConfig:
    for one, other in (("client_cert", "client_key"), ("client_key", "client_cert")):
        if location.text(one) is not None and location.text(other) is None:
            raise location.error(f"{other}= is missing", f"{one}= and {other}= go together")
    if location.text("cacert") is not None and location.text("capath") is not None:
        raise location.error("capath=", "there is cacert= as well: give one of them")
    overlay = dict(location.environ)
    for key, variables in _ALTERNATIVES:
        if location.text(key) is not None:
            for variable in variables:
                overlay.pop(f"VAULT_{variable}", None)
                overlay.pop(f"BAO_{variable}", None)
    config = VaultConfig.from_env(overlay | location.arguments(_ENVIRONMENT))
    return replace(config, **location.arguments(_CONFIG))
