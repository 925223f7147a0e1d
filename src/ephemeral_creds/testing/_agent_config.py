"""What a Vault Agent is told: how to log in, what to render and where to listen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.testing._admin import AppRole
from ephemeral_creds.testing._process import private_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ephemeral_creds.testing._kubernetes import ServiceAccount

__all__ = ["agent_config", "dotenv_template"]


def dotenv_template(path: str) -> str:
    """Return the usual template: ``DB_USERNAME=`` and ``DB_PASSWORD=``, no newline at the end.

    Args:
        path: where credentials are read, such as ``database/creds/my-app-role``.
    """
    return (
        f'{{{{- with secret "{path}" -}}}}\n'
        "DB_USERNAME={{ .Data.username }}\n"
        "DB_PASSWORD={{ .Data.password }}\n"
        "{{- end -}}\n"
    )


def agent_config(
    folder: Path,
    vault: str,
    login: AppRole | ServiceAccount,
    mount: str | None,
    templates: Mapping[Path, str],
    perms: str | None,
    listen: str | None,
) -> dict[str, object]:
    """Return the configuration of an agent, and write the secrets of its login to `folder`.

    Args:
        folder: the agent's own; its token goes to the file ``token`` there.
        vault: the address of a Vault.
        login: who to log in as.
        mount: where the auth method is mounted; ``None`` is its usual place.
        templates: contents by destination.
        perms: the mode of the files; ``None`` leaves it to the agent.
        listen: host and port to serve as a proxy at; ``None`` for no proxy.
    """
    sink = {"path": str(folder / "token"), "mode": 0o600}
    config: dict[str, object] = {
        "vault": {"address": vault},
        "auto_auth": {
            "method": [_method(folder, login, mount)],
            "sink": [{"type": "file", "config": sink}],
        },
    }
    if templates:
        mode = {} if perms is None else {"perms": perms}
        config["template"] = [
            {"contents": contents, "destination": str(path), **mode}
            for path, contents in templates.items()
        ]
    if listen is not None:
        config |= {
            "api_proxy": {"use_auto_auth_token": True},
            "cache": {},
            "listener": [{"tcp": {"address": listen, "tls_disable": True}}],
        }
    return config


def _method(folder: Path, login: AppRole | ServiceAccount, mount: str | None) -> dict[str, object]:
    options: dict[str, object]
    if isinstance(login, AppRole):
        kind = "approle"
        secret_id = private_file(folder / "secret-id", login.secret_id.reveal())
        options = {
            "role_id_file_path": str(private_file(folder / "role-id", login.role_id)),
            "secret_id_file_path": str(secret_id),
            "remove_secret_id_file_after_reading": False,
        }
    else:
        kind = "kubernetes"
        jwt = private_file(folder / "jwt", login.jwt.reveal())
        options = {"role": login.role, "token_path": str(jwt)}
    return {
        "type": kind,
        "mount_path": f"auth/{mount or kind}",
        "config": options,
        # Its own minimum is a second, far longer than a Vault on the same machine is away.
        "min_backoff": "100ms",
    }
