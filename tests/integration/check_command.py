"""The command ``ephemeral-creds check`` in this process, and what it found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ephemeral_creds.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from ephemeral_creds.testing import AppRole, DatabaseEngine

__all__ = ["Checker", "roles_of"]

SECRET_ID = "CHECK_SECRET_ID"


class Checker:
    """Runs the command against one engine and reads what it found."""

    def __init__(
        self,
        engine: DatabaseEngine,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.engine = engine
        self.status = -1
        self.complete = False
        self.found: list[dict[str, str]] = []
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        for name in ("VAULT_ADDR", "VAULT_NAMESPACE", "PGHOST", "PGDATABASE", "PGPORT"):
            monkeypatch.delenv(name, raising=False)

    def url(self, role: str, how: AppRole, **more: str) -> str:
        self._monkeypatch.setenv(SECRET_ID, how.secret_id.reveal())
        settings = {
            "address": self.engine.vault.address,
            "auth": "approle",
            "role_id": how.role_id,
            "secret_id_env": SECRET_ID,
        }
        return f"vault://{role}?{urlencode(settings | more)}"

    def run(self, url: str, *options: str, dbname: str = "postgres") -> dict[str, list[str]]:
        """Return the texts and remedies of each step that warns or fails, and keep the rest."""
        conninfo = self.engine.postgres.conninfo(dbname)
        self.status = main(["check", url, "--json", "--conninfo", conninfo, *options])
        said = json.loads(self._capsys.readouterr().out)
        self.found = said["findings"]
        self.complete = said["complete"]
        assert self.status == {"ok": 0, "warn": 1, "fail": 3}[said["status"]]
        bad: dict[str, list[str]] = {}
        for finding in self.found:
            if finding["level"] in ("warn", "fail"):
                text = f"{finding['level']}: {finding['text']} -> {finding['remedy']}"
                bad.setdefault(finding["step"], []).append(text)
        return bad

    def login(
        self, role: str, rules: Mapping[str, Sequence[str]] | None = None, **settings: str
    ) -> AppRole:
        """Return a login that may do all that a check looks at, or what `rules` say."""
        mount = self.engine.mount
        rules = rules if rules is not None else {
            f"{mount}/creds/{role}": ["read"],
            f"{mount}/roles/{role}": ["read"],
            f"{mount}/config/{self.engine.connection}": ["read"],
            "sys/leases/revoke": ["update"],
        }  # fmt: skip
        policy = self.engine.admin.write_policy(f"check-{role}", rules)
        how: AppRole = self.engine.admin.create_approle(f"check-{role}", [policy], **settings)
        return how

    def texts(self, step: str) -> str:
        """Return what a step said, in one line."""
        return "; ".join(found["text"] for found in self.found if found["step"] == step)

    def levels(self) -> dict[str, str]:
        return {finding["step"]: finding["level"] for finding in self.found}


def roles_of(engine: DatabaseEngine, role: str) -> list[str]:
    return [name for name in engine.postgres.roles() if f"-{role[:8]}-" in name]
