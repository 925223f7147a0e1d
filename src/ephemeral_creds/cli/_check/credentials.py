"""The steps with credentials: mint, connect, rights, expiry, renewal, revocation."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import psycopg

from ephemeral_creds import (
    AccessDenied,
    ConfigurationError,
    EphemeralCredsError,
    ProviderUnavailable,
)
from ephemeral_creds.cli._check.database import LoginFailed, RoleSession
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ephemeral_creds import CredentialProvider, Grant
    from ephemeral_creds.cli._check.database import Remains, Rights
    from ephemeral_creds.cli._check.findings import Findings

__all__ = ["CORRECTED", "CredentialSteps"]

CORRECTED = (
    'GRANT "{{name}}" TO CURRENT_USER;',
    'REASSIGN OWNED BY "{{name}}" TO CURRENT_USER;',
    'DROP OWNED BY "{{name}}";',
    'DROP ROLE IF EXISTS "{{name}}";',
)
"""Statements that remove a role that Vault has made, with all that Vault's user granted to it."""

# VALID UNTIL has whole seconds: it moves only if one ends between the mint and the renewal.
_SECOND = 1.1
# Vault lets VALID UNTIL outlive the lease by so many seconds, against clocks that differ.
_MARGIN = 5.0
_ENOUGH = 0.95
_GONE_WITHIN = 5.0
_LOOK = 0.1


class CredentialSteps:
    """Gets credentials, uses them up, and gives them back.

    Args:
        provider: where they come from.
        findings: where to write what is found.
        conninfo: where PostgreSQL is; ``None`` if nobody said.
    """

    def __init__(
        self, provider: CredentialProvider, findings: Findings, conninfo: str | None
    ) -> None:
        self._provider = provider
        self._add = findings.add
        self._conninfo = conninfo
        self._minted_at = 0.0
        self._given_back = False

    def run(self, stack: ExitStack) -> None:
        """Take the steps; what `stack` gets gives everything back, whatever happens."""
        grant = self._mint()
        if grant is None:
            return
        stack.callback(self._give_back, grant)
        session = self._connect(grant)
        if session is not None:
            stack.enter_context(session)
        try:
            if session is not None:
                self._check_rights(session.rights())
                self._check_expiry(session, grant)
            if self._provider.mints:
                self._renew(session, grant)
                self._revoke(session, grant)
        except psycopg.Error as error:
            self._add("query", "fail", f"{type(error).__name__}: {error}")

    def _mint(self) -> Grant | None:
        step = "mint" if self._provider.mints else "credentials"
        try:
            grant = self._provider.fetch()
        except EphemeralCredsError as error:
            self._add(step, "fail", str(error))
            return None
        self._minted_at = time.monotonic()
        life = "" if grant.lease.duration == math.inf else f", for {grant.lease.duration:.0f} s"
        self._add(step, "ok", f"{grant.credentials.username!r}{life}")
        return grant

    def _connect(self, grant: Grant) -> RoleSession | None:
        if self._conninfo is None:
            self._add(
                "connect",
                "skipped",
                "nobody said where PostgreSQL is",
                "--conninfo 'host=… dbname=…', or PGHOST and PGDATABASE",
            )
            return None
        try:
            session = RoleSession(self._conninfo, grant.credentials)
        except ConfigurationError as error:
            self._add("connect", "fail", str(error))
        except LoginFailed as error:
            self._add("connect", "fail", str(error), _login_remedy(str(error)))
        else:
            self._add("connect", "ok", f"logged in to {session.where}")
            return session
        return None

    def _check_rights(self, rights: Rights) -> None:
        may = ", ".join(f"{what} {count}" for what, count in rights.may.items())
        text = f"of {rights.tables} tables and views it may {may}"
        if rights.member_of:
            text += f"; member of {', '.join(rights.member_of)}"
        if rights.powers:
            self._add(
                "rights",
                "warn",
                f"it has {', '.join(rights.powers)}, which a service needs for nothing; {text}",
                "leave that out of the creation_statements, and of the roles it is a member of",
            )
        elif rights.tables and not any(rights.may.values()):
            self._add(
                "rights",
                "warn",
                f"it may use no table; {text}",
                "grant something in the creation_statements, as a rule membership: GRANT app TO "
                '"{{name}}"',
            )
        else:
            self._add("rights", "ok", text)
        if rights.creates_in and not rights.powers:
            self._add(
                "rights",
                "warn",
                f"it may create objects in {', '.join(rights.creates_in)}: they belong to it, and "
                "keep Vault from dropping it",
                "use session_role, or revoke CREATE on the schema",
            )

    def _check_expiry(self, session: RoleSession, grant: Grant) -> None:
        until = session.valid_until()
        database, here = session.clock()
        skew = database - here
        if until == math.inf:
            self._add(
                "expiry",
                "warn" if self._provider.mints else "ok",
                "the role has no VALID UNTIL: its login works until somebody drops it",
                "write VALID UNTIL '{{expiration}}' into the creation_statements"
                if self._provider.mints
                else "",
            )
            return
        left = until - database
        # The mint, the login and the questions before this one may have taken long.
        passed = time.monotonic() - self._minted_at
        text = f"logins work for another {left:.0f} s by PostgreSQL's clock"
        if left <= 0:
            self._add("expiry", "fail", "VALID UNTIL has passed", "nobody renews these credentials")
        elif grant.lease.duration != math.inf and left + passed < grant.lease.duration - 1.0:
            self._add(
                "expiry",
                "warn",
                f"{text}, which is less than the lease; PostgreSQL's clock is {skew:+.0f} s from "
                "this machine's",
                "run a time service (NTP) on PostgreSQL's and Vault's machines",
            )
        else:
            self._add("expiry", "ok", text)

    def _renew(self, session: RoleSession | None, grant: Grant) -> None:
        asked = self._lease_duration(grant)
        if not grant.lease.renewable:
            self._check_token_limit(grant.lease.duration, asked)
            self._add("renewal", "skipped", "the lease cannot be renewed: it is replaced instead")
            return
        before = session.valid_until() if session is not None else math.inf
        time.sleep(max(0.0, self._minted_at + _SECOND - time.monotonic()))
        try:
            lease = self._provider.renew(grant)
        except AccessDenied as error:
            self._check_token_limit(grant.lease.duration, asked)
            self._add("renewal", "warn", str(error))
            return
        except EphemeralCredsError as error:
            self._add("renewal", "fail", str(error))
            return
        self._check_token_limit(lease.duration, asked)
        text = f"the lease has {lease.duration:.0f} s again"
        if session is None or before == math.inf:
            self._add("renewal", "ok", text)
        elif session.valid_until() > before:
            self._add("renewal", "ok", f"{text}, and VALID UNTIL moved along")
        elif lease.duration < asked * _ENOUGH:
            self._add("renewal", "ok", f"the lease has {lease.duration:.0f} s: max_ttl is near")
        else:
            self._add(
                "renewal",
                "fail",
                f"{text}, but VALID UNTIL did not move: logins end while the lease lives on",
                "leave renew_statements of the role empty, or write into them\n"
                "  ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';",
            )

    def _check_token_limit(self, given: float, asked: float) -> None:
        if given < asked * _ENOUGH and isinstance(self._provider, VaultProvider):
            self._add(
                "token",
                "warn",
                f"the token ends in {given:.0f} s, before the lease of {asked:.0f} s, and takes it "
                "along: new credentials are needed each time, after a new login",
                "raise token_ttl and token_max_ttl of the auth role above default_ttl, or give it "
                "a token_period",
            )

    def _lease_duration(self, grant: Grant) -> float:
        if isinstance(self._provider, VaultProvider):
            return self._provider.inspector().lease_duration(grant)
        return grant.lease.duration

    def _revoke(self, session: RoleSession | None, grant: Grant) -> None:
        self._given_back = True
        name = grant.credentials.username
        try:
            self._provider.revoke(grant)
        except AccessDenied as error:
            self._end_with_token(session, name, str(error))
            return
        except ProviderUnavailable as error:
            if error.status == 400:
                self._left_behind(name, str(error), session.remains() if session else None)
            else:
                self._add("revocation", "fail", str(error))
            return
        except EphemeralCredsError as error:
            self._add("revocation", "fail", str(error))
            return
        if session is None:
            self._add("revocation", "ok", "Vault says that the role is gone; nobody looked")
        elif (remains := session.remains()) is None:
            self._add("revocation", "ok", f"the role {name!r} is gone")
        else:
            self._left_behind(name, "Vault says that the lease is given back", remains)

    def _end_with_token(self, session: RoleSession | None, name: str, why: str) -> None:
        """Without a policy for leases, the end of our token takes them along."""
        self._provider.close()
        give_up_at = time.monotonic() + _GONE_WITHIN
        while session is not None and session.remains() is not None:
            if time.monotonic() > give_up_at:
                self._add(
                    "revocation", "warn", f"{why}; the role {name!r} is left until its lease ends"
                )
                return
            time.sleep(_LOOK)
        self._add("revocation", "warn", f"{why}; the role went with the token")

    def _left_behind(self, name: str, why: str, remains: Remains | None) -> None:
        what = f"the role {name!r} is left behind"
        if remains is not None:
            what += f", with {remains.grants} grants and {remains.objects} objects of its own"
            if remains.in_other_databases:
                what += f", {remains.in_other_databases} of these in other databases"
        statements = "\n".join(f"  {line}" for line in CORRECTED)
        self._add(
            "revocation",
            "fail",
            f"{what}: {why}",
            "set the role's revocation_statements to\n"
            f"{statements}\n"
            f"and drop this one by hand, with its own name for {{{{name}}}}: {name}",
        )

    def _give_back(self, grant: Grant) -> None:
        if self._provider.mints and not self._given_back:
            try:
                self._provider.revoke(grant)
            except EphemeralCredsError as error:
                self._add("revocation", "warn", str(error))


def _login_remedy(said: str) -> str:
    if "not permitted to log in" in said:
        return (
            "the role has NOLOGIN: write into its creation_statements\n"
            "  CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' "
            "VALID UNTIL '{{expiration}}';"
        )
    if "database" in said and ("does not exist" in said or "permission denied" in said):
        return (
            "check dbname in the connection string, and that the role may CONNECT to it: GRANT "
            'CONNECT ON DATABASE … TO "{{name}}"'
        )
    if "password authentication failed" in said:
        return (
            "check that Vault's connection and the connection string mean the same server, that "
            "the creation_statements set PASSWORD '{{password}}', and that VALID UNTIL is not past"
        )
    if "too many connections" in said:
        return "raise CONNECTION LIMIT in the creation_statements"
    return "check host and port of the connection string, and pg_hba.conf of the server"
