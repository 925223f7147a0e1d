"""What the URL of a Vault provider says: which role, how to log in, how to reach Vault."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.vault.auth.approle import AppRoleAuth
from ephemeral_creds.providers.vault.auth.aws import AWSAuth
from ephemeral_creds.providers.vault.auth.azure import AzureAuth
from ephemeral_creds.providers.vault.auth.base import AgentAuth, KubernetesAuth, TokenAuth
from ephemeral_creds.providers.vault.auth.cert import CertAuth
from ephemeral_creds.providers.vault.auth.gcp import GCPAuth
from ephemeral_creds.providers.vault.auth.jwt import JWTAuth
from ephemeral_creds.providers.vault.auth.password import LDAPAuth, UserpassAuth
from ephemeral_creds.providers.vault.config import VaultConfig
from ephemeral_creds.providers.vault.inputs import checked_path, checked_role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds.providers.location import Location
    from ephemeral_creds.providers.vault.auth.base import AuthMethod

__all__ = ["VaultSettings", "settings_from"]

# The environment variable that each key of the URL stands in for.
_CONFIG_KEYS = {
    "address": "VAULT_ADDR",
    "namespace": "VAULT_NAMESPACE",
    "cacert": "VAULT_CACERT",
    "capath": "VAULT_CAPATH",
    "client_cert": "VAULT_CLIENT_CERT",
    "client_key": "VAULT_CLIENT_KEY",
    "skip_verify": "VAULT_SKIP_VERIFY",
    "tls_server_name": "VAULT_TLS_SERVER_NAME",
}
# What goes by one of these in the URL does not go by another of them in the environment.
_ALTERNATIVES = (
    ("address", ("ADDR", "AGENT_ADDR")),
    ("cacert", ("CACERT", "CACERT_BYTES", "CAPATH", "SKIP_VERIFY")),
    ("capath", ("CACERT", "CACERT_BYTES", "CAPATH", "SKIP_VERIFY")),
    ("skip_verify", ("SKIP_VERIFY",)),
    ("client_cert", ("CLIENT_CERT", "CLIENT_KEY")),
    ("client_key", ("CLIENT_CERT", "CLIENT_KEY")),
)
_COMMON_KEYS = (
    *_CONFIG_KEYS,
    "connect_timeout",
    "read_timeout",
    "auth",
    "auth_mount",
    "auth_namespace",
    "mount",
    "password_field",
    "username_field",
)


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """What a URL says, made into the arguments of a provider."""

    role: str
    auth: AuthMethod
    mount: str
    fields: Mapping[str, str]
    config: VaultConfig


@dataclass(frozen=True, slots=True)
class _Method:
    """An auth method: the keys of its own, and what makes it of them."""

    keys: tuple[str, ...]
    make: Callable[[Location, Mapping[str, str]], AuthMethod]


def settings_from(location: Location, environ: Mapping[str, str]) -> VaultSettings:
    """Return what a URL says.

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
    name = location.required("auth", f"say how to log in: {', '.join(sorted(_METHODS))}")
    if name not in _METHODS:
        # Not repeated: it may be a token.
        near = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"did you mean {near[0]!r}? Known" if near else "known"
        raise location.error(
            "auth=", f"there is no such auth method; {hint}: {', '.join(sorted(_METHODS))}"
        )
    method = _METHODS[name]
    location.expect((*_COMMON_KEYS, *method.keys), f"with auth={name}")
    try:
        return VaultSettings(
            role=checked_role(location.name),
            auth=method.make(location, environ),
            mount=checked_path(
                location.text("mount") or "database", "mount of a secrets engine (mount=)"
            ),
            fields={
                name: field
                for name in ("username", "password")
                if (field := location.text(f"{name}_field")) is not None
            },
            config=_config(location, environ),
        )
    except ConfigurationError as error:
        raise _placed(location, error) from None


def _placed(location: Location, error: ConfigurationError) -> ConfigurationError:
    """Return an error that also says that it is about a URL."""
    text = str(error)
    return error if str(location) in text else ConfigurationError(f"the URL {location}?…: {text}")


def _config(location: Location, environ: Mapping[str, str]) -> VaultConfig:
    for one, other in (("client_cert", "client_key"), ("client_key", "client_cert")):
        if location.text(one) is not None and location.text(other) is None:
            raise location.error(f"{other}= is missing", f"{one}= and {other}= go together")
    if location.text("cacert") is not None and location.text("capath") is not None:
        raise location.error("capath=", "there is cacert= as well: give one of them")
    overlay = dict(environ)
    for key, variables in _ALTERNATIVES:
        if location.text(key) is not None:
            for variable in variables:
                overlay.pop(f"VAULT_{variable}", None)
                overlay.pop(f"BAO_{variable}", None)
    for key, variable in _CONFIG_KEYS.items():
        value = location.text(key)
        if value is not None:
            overlay[variable] = value
    if location.text("skip_verify") is not None:
        skipped = location.flag("skip_verify", default=False)
        overlay["VAULT_SKIP_VERIFY"] = "true" if skipped else "false"
    config = VaultConfig.from_env(overlay)
    return replace(
        config,
        auth_namespace=location.text("auth_namespace"),
        connect_timeout=location.seconds("connect_timeout", config.connect_timeout),
        read_timeout=location.seconds("read_timeout", config.read_timeout),
    )


def _mount(location: Location, default: str) -> str:
    return location.text("auth_mount") or default


def _role(location: Location) -> str:
    return location.required("auth_role", "the role of the auth method to log in as")


def _token(location: Location, environ: Mapping[str, str]) -> AuthMethod:
    if location.text("auth_mount") is not None:
        raise location.error("auth_mount=", "a token is not logged in with: leave it out")
    token, path = location.secret("token")
    return TokenAuth(token, path=path, environ=environ)


def _agent(location: Location) -> AuthMethod:
    if location.text("auth_mount") is not None:
        raise location.error("auth_mount=", "the agent logs in, not we: leave it out")
    return AgentAuth()


def _approle(location: Location, _: Mapping[str, str]) -> AuthMethod:
    role_id = location.required("role_id", "the id of the AppRole to log in as")
    secret_id, path = location.secret("secret_id")
    return AppRoleAuth(
        role_id,
        secret_id,
        secret_id_file=path,
        wrapped=location.flag("wrapped", default=False),
        mount=_mount(location, "approle"),
    )


def _kubernetes(location: Location, _: Mapping[str, str]) -> AuthMethod:
    role, mount = _role(location), _mount(location, "kubernetes")
    path = location.path_of("jwt_file")
    if path is None:
        return KubernetesAuth(role, mount=mount)
    return KubernetesAuth(role, jwt_path=path, mount=mount)


def _jwt(location: Location, _: Mapping[str, str]) -> AuthMethod:
    jwt, path = location.secret("jwt")
    if jwt is None and path is None:
        raise location.error("jwt_file= is missing", "name a file, or a variable with jwt_env=")
    return JWTAuth(_role(location), jwt, path=path, mount=_mount(location, "jwt"))


def _password(location: Location, kind: type[UserpassAuth | LDAPAuth]) -> AuthMethod:
    username = location.required("username", "whom to log in to Vault as")
    password, path = location.secret("password")
    if password is None and path is None:
        raise location.error(
            "password_file= is missing", "name a file, or a variable with password_env="
        )
    mount = location.text("auth_mount")
    return kind(username, password, password_file=path, mount=mount)


def _aws(location: Location, _: Mapping[str, str]) -> AuthMethod:
    return AWSAuth(
        _role(location),
        region=location.text("region"),
        server_id=location.text("server_id"),
        mount=_mount(location, "aws"),
    )


def _gcp(location: Location, _: Mapping[str, str]) -> AuthMethod:
    account = location.text("service_account") or "default"
    return GCPAuth(_role(location), service_account=account, mount=_mount(location, "gcp"))


def _azure(location: Location, _: Mapping[str, str]) -> AuthMethod:
    role, client_id = _role(location), location.text("client_id")
    mount, resource = _mount(location, "azure"), location.text("resource")
    if resource is None:
        return AzureAuth(role, client_id=client_id, mount=mount)
    return AzureAuth(role, resource=resource, client_id=client_id, mount=mount)


_METHODS = {
    "agent": _Method((), lambda location, _: _agent(location)),
    "approle": _Method(("role_id", "secret_id_file", "secret_id_env", "wrapped"), _approle),
    "aws": _Method(("auth_role", "region", "server_id"), _aws),
    "azure": _Method(("auth_role", "client_id", "resource"), _azure),
    "cert": _Method(
        ("auth_role",),
        lambda location, _: CertAuth(location.text("auth_role"), mount=_mount(location, "cert")),
    ),
    "gcp": _Method(("auth_role", "service_account"), _gcp),
    "jwt": _Method(("auth_role", "jwt_file", "jwt_env"), _jwt),
    "kubernetes": _Method(("auth_role", "jwt_file"), _kubernetes),
    "ldap": _Method(
        ("username", "password_file", "password_env"),
        lambda location, _: _password(location, LDAPAuth),
    ),
    "token": _Method(("token_file", "token_env"), _token),
    "userpass": _Method(
        ("username", "password_file", "password_env"),
        lambda location, _: _password(location, UserpassAuth),
    ),
}
