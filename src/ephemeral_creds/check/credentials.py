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
)
from ephemeral_creds.check.database import LoginFailed, RoleSession, same_role
from ephemeral_creds.check.encryption import check_encryption
from ephemeral_creds.check.expiry import Validity, check_expiry
from ephemeral_creds.check.lease import ends_with_token, was_put_off
from ephemeral_creds.check.login import login_remedy
from ephemeral_creds.check.revocation import check_revocation
from ephemeral_creds.check.rights import check_rights, stable_owner
from ephemeral_creds.pool.login import role_at_login
from ephemeral_creds.providers.vault import VaultProvider

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ephemeral_creds import CredentialProvider, Grant, Lease
    from ephemeral_creds.check.findings import Findings
    from ephemeral_creds.check.interruption import PromptInterruption

__all__ = ["CredentialSteps"]

# VALID UNTIL has whole seconds: it moves only if one ends between the mint and the renewal.
_SECOND = 1.1
# Vault lets VALID UNTIL outlive the lease by so many seconds, against clocks that differ.
_MARGIN = 5.0


class CredentialSteps:
    """Gets credentials, uses them up, and gives them back.

    Args:
        provider: where they come from.
        findings: where to write what is found.
        conninfo: where PostgreSQL is; ``None`` if nobody said.
        session_role: the role that sessions act as, if another one.
        interruption: told of what a signal must not break off.

    Attributes:
        connected: whether PostgreSQL has been logged in to.
    """

    def __init__(
        self,
        provider: CredentialProvider,
        findings: Findings,
        conninfo: str | None,
        session_role: str | None,
        interruption: PromptInterruption,
    ) -> None:
        self._provider = provider
        self._findings = findings
        self._add = findings.add
        self._conninfo = conninfo
        self._session_role = session_role
        self._unbroken = interruption.unbroken
        self._asked_at = self._minted_at = 0.0
        self._given_back = False
        self.connected = False
        self._owner: str | None = None

    def run(self, stack: ExitStack) -> None:
        """Take the steps; what `stack` gets gives everything back, whatever happens."""
        with self._unbroken():
            grant = self._mint()
            if grant is None:
                return
            stack.callback(self._give_back, grant)
        session = self._connect(grant)
        if session is not None:
            stack.enter_context(session)
        try:
            if session is not None:
                self._look_around(session, grant)
            if self._provider.mints:
                self._renew(session, grant)
                self._revoke(session, grant)
        except psycopg.Error as error:
            self._add("query", "fail", f"{type(error).__name__}: {error}")

    def _mint(self) -> Grant | None:
        step = "mint" if self._provider.mints else "credentials"
        self._asked_at = time.monotonic()
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
                "warn",
                "nobody said where PostgreSQL is, so nothing was tried there",
                "--conninfo 'host=… dbname=…', or PGHOST and PGDATABASE",
            )
            return None
        try:
            session = RoleSession(self._conninfo, grant.credentials, self._session_role)
        except ConfigurationError as error:
            self._add("connect", "fail", str(error))
        except LoginFailed as error:
            remedy = login_remedy(error.verdict, str(error), self._session_role)
            self._add("connect", "fail", str(error), remedy)
        else:
            self.connected = True
            self._add("connect", "ok", f"logged in to {session.where}")
            return session
        return None

    def _look_around(self, session: RoleSession, grant: Grant) -> None:
        check_encryption(session.line, self._findings)
        acting_as = self._look_at_user(session, grant) or self._session_role
        rights = session.rights()
        self._owner = acting_as or stable_owner(rights)
        check_rights(rights, acting_as, self._findings)
        until = session.valid_until()
        database, here = session.clock()
        # Vault wrote VALID UNTIL after it was asked, and the mint may have taken long.
        lease = grant.lease.duration - (time.monotonic() - self._asked_at)
        check_expiry(Validity(until, database, here, lease, self._provider.mints), self._findings)

    def _look_at_user(self, session: RoleSession, grant: Grant) -> str | None:
        """Return the role that the session acts as, where that is not the one it logged in as."""
        logged_in_as, acts_as = session.logged_in_as(), session.acts_as()
        if not same_role(logged_in_as, grant.credentials.username):
            self._add(
                "connect",
                "fail",
                f"PostgreSQL knows the session as {logged_in_as!r}, not as "
                f"{grant.credentials.username!r}: what is in between logs in there with a user of "
                "its own, so that the lease protects nothing. Neither its end nor its revocation "
                "takes this access away",
                "leave user= out of the database's entry in PgBouncer, and have it learn users "
                "through auth_query",
            )
        if self._session_role not in (None, acts_as):
            self._add(
                "rights",
                "fail",
                f"the session acts as {acts_as}, not as {self._session_role}",
                "a proxy in between drops the startup parameter 'options': "
                f"{role_at_login(str(self._session_role))}",
            )
        if acts_as == logged_in_as:
            return None
        if lost := session.lost_settings():
            self._add(
                "settings",
                "warn",
                f"{acts_as} has settings that do not hold here: {', '.join(lost)}. PostgreSQL "
                "applies those of the role that logs in",
                "have that role made with them, in the creation_statements:\n"
                f'  ALTER ROLE "{{{{name}}}}" SET {lost[0]} = …;\n'
                "or say them in options= of the connection string",
            )
        return acts_as

    def _renew(self, session: RoleSession | None, grant: Grant) -> None:
        asked = self._lease_duration(grant)
        if not grant.lease.renewable:
            self._check_token(grant.lease, grant.lease, asked)
            self._add("renewal", "skipped", "the lease cannot be renewed: it is replaced instead")
            return
        before = session.valid_until() if session is not None else math.inf
        time.sleep(max(0.0, self._minted_at + _SECOND - time.monotonic()))
        try:
            lease = self._provider.renew(grant)
        except AccessDenied as error:
            self._check_token(grant.lease, grant.lease, asked)
            self._add("renewal", "warn", str(error))
            return
        except EphemeralCredsError as error:
            self._add("renewal", "fail", str(error))
            return
        self._check_token(grant.lease, lease, asked)
        text = f"the lease has {lease.duration:.0f} s again"
        if session is None or before == math.inf:
            self._add("renewal", "ok", text)
        elif session.valid_until() > before:
            self._add("renewal", "ok", f"{text}, and VALID UNTIL moved along")
        elif not was_put_off(grant.lease, lease):
            self._add(
                "renewal",
                "ok",
                f"the lease ends when it would have ended anyway, in {lease.duration:.0f} s: that "
                "is its max_ttl, or the end of its token",
            )
        else:
            self._add(
                "renewal",
                "fail",
                f"{text}, but VALID UNTIL did not move: logins end while the lease lives on",
                "leave renew_statements of the role empty, or write into them\n"
                "  ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';",
            )

    def _check_token(self, minted: Lease, last: Lease, asked: float) -> None:
        if isinstance(self._provider, VaultProvider) and ends_with_token(minted, last, asked):
            self._add(
                "token",
                "warn",
                f"the token ends in {last.duration:.0f} s, before the lease of {asked:.0f} s, and "
                "takes it along: new credentials are needed each time, after a new login",
                "raise token_ttl and token_max_ttl of the auth role above default_ttl, or give it "
                "a token_period",
            )

    def _lease_duration(self, grant: Grant) -> float:
        if isinstance(self._provider, VaultProvider):
            return self._provider.inspector().lease_duration(grant)
        return grant.lease.duration

    def _revoke(self, session: RoleSession | None, grant: Grant) -> None:
        with self._unbroken():
            self._given_back = True
            check_revocation(self._provider, self._findings, grant, session, self._owner)

    def _give_back(self, grant: Grant) -> None:
        if self._provider.mints and not self._given_back:
            try:
                self._provider.revoke(grant)
            except EphemeralCredsError as error:
                self._add("revocation", "warn", str(error))
