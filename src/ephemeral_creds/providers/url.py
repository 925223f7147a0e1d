"""From one string in a setting to a provider."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, cast

from ephemeral_creds.exceptions import ConfigurationError
from ephemeral_creds.providers.location import Location, url_from_env

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ephemeral_creds.providers.base import CredentialProvider

__all__ = ["provider_from_url"]

# Imported only when asked for: a service with a sidecar needs no hvac, and one with Vault no
# watchdog.
_PROVIDERS = {
    "file": ("file", "FileProvider"),
    "vault": ("vault", "VaultDynamicProvider"),
    "vault-static": ("vault", "VaultStaticProvider"),
}


def provider_from_url(
    url: str | None = None, *, environ: Mapping[str, str] | None = None
) -> CredentialProvider:
    """Make the provider that a URL describes, so that one string in a setting is enough.

    ::

        vault://my-app-role?auth=kubernetes&auth_role=my-app
        vault-static://reporting?auth=approle&role_id=…&secret_id_file=/run/secrets/secret-id
        file:///vault/secrets/db-creds.txt

    What the URL does not say about Vault is read from ``VAULT_ADDR``, ``VAULT_NAMESPACE`` and the
    other variables of the vault command. Secrets do not belong in it: ``…_file`` names a file,
    and ``…_env`` an environment variable.

    Args:
        url: the URL; ``None`` means the environment variable ``EPHEMERAL_CREDS_URL``.
        environ: the environment to read; ``None`` means `os.environ`.

    Raises:
        ConfigurationError: the URL cannot be right; the message points at the part that is wrong.
    """
    environ = os.environ if environ is None else environ
    if url is None:
        url = url_from_env(environ)
    scheme = Location(url, environ).scheme
    if scheme not in _PROVIDERS:
        raise ConfigurationError(
            f"{scheme}:// in the provider's URL: there is no such scheme; known: "
            f"{', '.join(f'{known}://' for known in _PROVIDERS)}"
        )
    module, name = _PROVIDERS[scheme]
    kind = getattr(importlib.import_module(f"ephemeral_creds.providers.{module}"), name)
    make = cast("Callable[..., CredentialProvider]", kind.from_url)
    return make(url, environ=environ)
