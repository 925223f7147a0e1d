"""Setting up a Vault for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ephemeral_creds._values import Secret
from ephemeral_creds.testing._http import VaultCallFailed, VaultResponse, vault_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ephemeral_creds.testing._vault_access import VaultAccess

__all__ = ["AppRole", "VaultAdmin"]


@dataclass(frozen=True, slots=True)
class AppRole:
    """What a machine needs to log in by AppRole."""

    role_id: str
    secret_id: Secret
    mount: str = "approle"


class VaultAdmin:
    """Sets up a Vault with its root token, over plain HTTP.

    Args:
        vault: a running server; ask again after it was stopped, it forgets everything.
        address: where to send it; ``None`` is through the server's fault proxy.
    """

    def __init__(self, vault: VaultAccess, address: str | None = None) -> None:
        self.vault = vault
        self._address = address

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret | None = None,
        timeout: float = 30.0,
        wrap_ttl: str | None = None,
    ) -> VaultResponse:
        """Send a request as `token`, by default as root, and return whatever comes back.

        With `wrap_ttl`, such as ``"60s"``, that is a wrapping token for the answer.
        """
        return vault_request(
            self._address or self.vault.address,
            method,
            path,
            body,
            token=token if token is not None else self.vault.root_token,
            timeout=timeout,
            wrap_ttl=wrap_ttl,
        )

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret | None = None,
    ) -> VaultResponse:
        """Send a request that has to succeed.

        Raises:
            VaultCallFailed: it did not.
        """
        answer = self.request(method, path, body, token=token)
        if answer.status >= 400:
            raise VaultCallFailed(
                f"{method} {path}: {answer.status} {answer.errors}", status=answer.status
            )
        return answer

    def write_policy(self, name: str, rules: Mapping[str, Sequence[str]]) -> str:
        """Create or replace a policy and return its name.

        Args:
            name: the policy.
            rules: capabilities by path, as in ``{"database/creds/app": ["read"]}``.
        """
        text = "\n".join(
            f'path "{path}" {{ capabilities = [{", ".join(map(_quoted, capabilities))}] }}'
            for path, capabilities in rules.items()
        )
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": text})
        return name

    def create_token(
        self,
        policies: Sequence[str] = (),
        *,
        ttl: str | float | None = None,
        max_ttl: str | float | None = None,
        period: str | float | None = None,
        num_uses: int = 0,
        renewable: bool = True,
        orphan: bool = True,
        kind: str = "service",
        parent: Secret | None = None,
        no_default_policy: bool = False,
    ) -> Secret:
        """Create a token and return it.

        Args:
            policies: what it may do; ``default`` is added.
            ttl: seconds, or text such as ``"5s"``.
            max_ttl: the end of all renewals, counted from now.
            period: makes it periodic: each renewal gives this much again.
            num_uses: requests it is good for; 0 for no limit.
            renewable: whether it may be renewed.
            orphan: whether it lives on when `parent` ends.
            kind: ``service`` or ``batch``.
            parent: the token that creates it; ``None`` is root.
            no_default_policy: leave ``default`` out.
        """
        body: dict[str, object] = {
            # With an empty list Vault copies the policies of the parent: root's.
            "policies": list(policies) or ["default"],
            "num_uses": num_uses,
            "renewable": renewable,
            "type": kind,
            "no_default_policy": no_default_policy,
        }
        limits = {"ttl": ttl, "explicit_max_ttl": max_ttl, "period": period}
        body |= {name: value for name, value in limits.items() if value is not None}
        path = "auth/token/create-orphan" if orphan else "auth/token/create"
        return Secret(self.call("POST", path, body, token=parent).body["auth"]["client_token"])

    def revoke_token(self, token: Secret) -> None:
        """End `token`, its children, and every lease of theirs."""
        self.call("PUT", "auth/token/revoke", {"token": token.reveal()})

    def enable_auth(self, kind: str, mount: str | None = None) -> None:
        """Enable an auth method at `mount` (its kind's name by default), once."""
        path = mount or kind
        if f"{path}/" not in self.call("GET", "sys/auth").data:
            self.call("POST", f"sys/auth/{path}", {"type": kind})

    def create_approle(
        self,
        name: str,
        policies: Sequence[str] = (),
        *,
        token_ttl: str | float = 0,
        token_max_ttl: str | float = 0,
        token_num_uses: int = 0,
        token_type: str = "default",  # noqa: S107  # a kind, not a token
        secret_id_num_uses: int = 0,
        mount: str = "approle",
    ) -> AppRole:
        """Create an AppRole, enabling the method where needed, and return how to log in."""
        self.enable_auth("approle", mount)
        path = f"auth/{mount}/role/{name}"
        self.call(
            "POST",
            path,
            {
                "token_policies": list(policies),
                "token_ttl": token_ttl,
                "token_max_ttl": token_max_ttl,
                "token_num_uses": token_num_uses,
                "token_type": token_type,
                "secret_id_num_uses": secret_id_num_uses,
            },
        )
        role_id = self.call("GET", f"{path}/role-id").data["role_id"]
        secret_id = self.call("POST", f"{path}/secret-id").data["secret_id"]
        return AppRole(role_id, Secret(secret_id), mount)

    def leases(self, prefix: str) -> list[str]:
        """Return the full ids of the leases directly below `prefix`."""
        folder = prefix.rstrip("/")
        answer = self.request("GET", f"sys/leases/lookup/{folder}/?list=true")
        return [f"{folder}/{key}" for key in answer.data.get("keys", [])]

    def revoke_lease(self, lease_id: str) -> None:
        """End one lease, and return when its role is dropped."""
        self.call("PUT", "sys/leases/revoke", {"lease_id": lease_id, "sync": True})

    def revoke_prefix(self, prefix: str) -> None:
        """End every lease below `prefix`, and return when the roles are dropped."""
        self.call("PUT", f"sys/leases/revoke-prefix/{prefix}", {"sync": True})


def _quoted(text: str) -> str:
    return f'"{text}"'
