"""What a Vault server is told about where to listen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["as_hcl", "tls_listeners"]


def tls_listeners(port: int, certificate: tuple[Path, Path] | None) -> list[dict[str, str]]:
    """Return the settings of the TLS listener; none without a certificate and its key.

    Vault asks each client for a certificate and takes any: see
    https://developer.hashicorp.com/vault/docs/configuration/listener/tcp.
    """
    if certificate is None:
        return []
    cert, key = (str(path.absolute()) for path in certificate)
    return [{"address": f"127.0.0.1:{port}", "tls_cert_file": cert, "tls_key_file": key}]


def as_hcl(listeners: list[dict[str, str]]) -> str:
    """Return listeners in Vault's own language."""
    return "".join(map(_stanza, listeners))


def _stanza(listener: dict[str, str]) -> str:
    settings = "\n".join(f"  {name} = {json.dumps(value)}" for name, value in listener.items())
    return f'\nlistener "tcp" {{\n{settings}\n}}\n'
