"""How to reach Vault: address, namespaces, TLS, time limits. How to log in is in `auth`."""

from __future__ import annotations

import math
import os
import re
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.address import plain_http_warning, validate_address

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VaultConfig"]

# As Go's strconv.ParseBool, with which the vault command reads these variables.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")

# Vault's own limit for one request is 90 s (default_max_request_duration). A client that gives up
# sooner leaves a role behind that Vault still creates.
_READ_TIMEOUT = 90.0

_PEM = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """How to reach one Vault or OpenBao server.

    Durations are `float` seconds.

    Attributes:
        address: scheme, host and port, for example ``https://vault:8200``; or the socket of a
            local agent, ``unix:///run/vault.sock``. Several, separated by commas, are the nodes of
            one cluster: if one cannot be reached, or is sealed, the next is asked; one that
            fails in another way is asked last for some time.
        namespace: the namespace of the secrets engine, and of leases (Enterprise, OpenBao).
        auth_namespace: the namespace of the auth method; ``None`` means the same.
        verify: whether to check the server's certificate, or the path of a CA bundle or of a
            directory with files of CA certificates, or such certificates themselves, in PEM.
        tls_server_name: the name to expect in the server's certificate, if not the address's.
        client_cert: the paths of a client certificate and of its key.
        connect_timeout: the limit for opening a connection.
        read_timeout: the limit for an answer, to its last byte.
        revoke_timeout: the same for revoking leases and tokens; also the limit for the request in
            flight when a provider is closed.
        proxies: proxies by scheme, as requests takes them; ``None`` for those of the environment.

    Raises:
        ConfigurationError: a value is invalid.
    """

    address: str
    _: KW_ONLY
    namespace: str | None = None
    auth_namespace: str | None = None
    verify: bool | str = True
    tls_server_name: str | None = None
    client_cert: tuple[str, str] | None = None
    # A host that is up accepts in milliseconds; two lost SYNs (1 s + 2 s) still fit.
    connect_timeout: float = 5.0
    read_timeout: float = _READ_TIMEOUT
    # Revoking must never hold up a shutdown: leases and tokens expire anyway.
    revoke_timeout: float = 10.0
    proxies: Mapping[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        addresses = [_validate_address(part.strip()) for part in self.address.split(",")]
        object.__setattr__(self, "address", ",".join(addresses))
        for name in ("namespace", "auth_namespace"):
            value = getattr(self, name)
            # "" and "root" name the root namespace, as they do for the vault command.
            stripped = value.strip("/") if value is not None else None
            if stripped is not None and not (stripped.isascii() and stripped.isprintable()):
                raise ConfigurationError(f"{name} {value!r} cannot be sent in an HTTP header")
            object.__setattr__(self, name, stripped)
        for name in ("connect_timeout", "read_timeout", "revoke_timeout"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigurationError(f"{name} must be a positive number, not {seconds!r}")
        if self.verify == "":
            raise ConfigurationError("verify must be True, False or a path, not an empty string")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> VaultConfig:
        """Read the variables that the ``vault`` and ``bao`` commands read.

        ``VAULT_ADDR`` (``VAULT_AGENT_ADDR`` takes precedence), ``VAULT_NAMESPACE``,
        ``VAULT_CACERT``, ``VAULT_CACERT_BYTES``, ``VAULT_CAPATH`` (the first that is set),
        ``VAULT_CLIENT_CERT``, ``VAULT_CLIENT_KEY``, ``VAULT_TLS_SERVER_NAME``,
        ``VAULT_SKIP_VERIFY``, ``VAULT_CLIENT_TIMEOUT``, ``VAULT_PROXY_ADDR`` and
        ``VAULT_HTTP_PROXY`` (the first that is set, for plain HTTP and for HTTPS); if one is not
        set, the same name with ``BAO_`` for ``VAULT_`` is read.
        See https://developer.hashicorp.com/vault/docs/commands.

        Raises:
            ConfigurationError: the address is missing, or a variable cannot be understood.
        """

        def read(name: str) -> str | None:
            return environ.get(f"VAULT_{name}") or environ.get(f"BAO_{name}") or None

        address = read("AGENT_ADDR") or read("ADDR")
        if address is None:
            raise ConfigurationError(
                "the address of Vault is not set: set VAULT_ADDR (or BAO_ADDR), or pass "
                "config=VaultConfig('https://…')"
            )
        cert, key = read("CLIENT_CERT"), read("CLIENT_KEY")
        if (cert is None) != (key is None):
            raise ConfigurationError("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY go together")
        certificates = read("CACERT_BYTES")
        if certificates is not None and _PEM not in certificates:
            raise ConfigurationError(
                "VAULT_CACERT_BYTES holds no certificate: it takes the content of a PEM file, with "
                "-----BEGIN CERTIFICATE-----; VAULT_CACERT takes the path of one"
            )
        verify: bool | str = read("CACERT") or certificates or read("CAPATH") or True
        if _boolean("VAULT_SKIP_VERIFY", read("SKIP_VERIFY")):
            verify = False
        proxy = read("PROXY_ADDR") or read("HTTP_PROXY")
        timeout = read("CLIENT_TIMEOUT")
        return cls(
            address,
            namespace=read("NAMESPACE"),
            verify=verify,
            tls_server_name=read("TLS_SERVER_NAME"),
            client_cert=(cert, key) if cert and key else None,
            read_timeout=_READ_TIMEOUT if timeout is None else _duration(timeout),
            proxies={"http": proxy, "https": proxy} if proxy else None,
        )

    @property
    def ca_certificates(self) -> str | None:
        """The CA certificates in `verify`, in PEM; ``None`` if it is a path or a flag."""
        return self.verify if isinstance(self.verify, str) and _PEM in self.verify else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses one by one, in the order in which they are asked."""
        return tuple(self.address.split(","))

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Warnings: settings with which others can eavesdrop on Vault or impersonate it."""
        warnings = (plain_http_warning("Vault", address) for address in self.addresses)
        found = list(filter(None, warnings))
        if self.verify is False and any(map(_is_https, self.addresses)):
            found.append(
                f"the certificate of Vault at {self.address} is not checked (VAULT_SKIP_VERIFY): "
                "anyone on the network path can impersonate Vault; set VAULT_CACERT instead"
            )
        return tuple(found)

    @property
    def presents_certificate(self) -> bool:
        """Whether connections present a client certificate."""
        return self.client_cert is not None and all(map(_is_https, self.addresses))

    @property
    def login_namespace(self) -> str | None:
        """The namespace that logins and token requests go to."""
        return self.namespace if self.auth_namespace is None else self.auth_namespace


def _is_https(address: str) -> bool:
    return address.startswith("https:")


def _validate_address(address: str) -> str:
    if address.lower().startswith("unix:"):
        path = address.partition(":")[2]
        if not path.startswith("///") or path == "///":
            raise ConfigurationError(
                f"the address of a socket must look like unix:///run/vault.sock, not {address!r}"
            )
        return f"unix:{path}"
    example = "https://vault:8200"
    address = validate_address(address, "the address of Vault", example=example, plain=True)
    if urlsplit(address).path.endswith("/v1"):
        raise ConfigurationError(
            f"the address of Vault is scheme, host and port: leave the /v1 out of {address!r}"
        )
    return address


def _boolean(name: str, value: str | None) -> bool:
    if value is None or value in _FALSE:
        return False
    if value in _TRUE:
        return True
    raise ConfigurationError(f"{name} must be true or false, not {value!r}")


def _duration(value: str) -> float:
    """Return the seconds of ``90``, ``90s`` or ``1m30s``."""
    if value.isdecimal():
        return float(value)
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ConfigurationError(
            f"VAULT_CLIENT_TIMEOUT must be seconds or look like 1m30s, not {value!r}"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
