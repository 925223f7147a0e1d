"""Steps of a check with credentials: mint, connect, inspect the session, renew, revoke."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import psycopg

from ephemeral_creds import AccessDenied, ConfigurationError, EphemeralCredsError
from ephemeral_creds.check.database import LoginFailed, RoleSession
from ephemeral_creds.check.findings import LONGER_LIFE
from ephemeral_creds.check.revocation import check_revocation
from ephemeral_creds.check.session import check_session
from ephemeral_creds.lifecycle.refusals import LoginFailure
from ephemeral_creds.pool.login import refuses_options, role_at_login
from ephemeral_creds.pool.remedies import advice
from ephemeral_creds.providers.tokens.base import DatabaseTokenProvider
from ephemeral_creds.providers.vault import VaultDynamicProvider

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ephemeral_creds import CredentialProvider, Grant, Lease
    from ephemeral_creds.check.findings import Findings
    from ephemeral_creds.check.interruption import PromptInterruption

__all__ = ["CredentialSteps", "ends_with_token", "was_put_off"]

# VALID UNTIL has whole seconds: it moves only if one ends between the mint and the renewal.
_SECOND = 1.1
# A lease that gets this part of its role's default_ttl is not cut short by its token.
_ENOUGH = 0.95


class CredentialSteps:
    """Gets credentials, uses them, and revokes them.

    Args:
        provider: where they come from.
        findings: where to write what is found.
        conninfo: where PostgreSQL is; ``None`` if it is not known.
        session_role: the role that sessions act as, if another one.
        interruption: defers signals during a mint and a revocation.

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
        self._revoked = False
        self.connected = False

    def run(self, stack: ExitStack) -> None:
        """Take the steps; `stack` gets the callbacks that close and revoke everything."""
        asked_at = time.monotonic()
        with self._unbroken():
            grant = self._mint()
            if grant is None:
                return
            stack.callback(self._revoke, grant)
        minted_at = time.monotonic()
        session = self._connect(grant)
        owner = None
        try:
            if session is not None:
                stack.enter_context(session)
                # Vault wrote VALID UNTIL after it was asked, and the mint may have taken long.
                ends_at = asked_at + grant.lease.duration
                owner = check_session(
                    session,
                    self._session_role,
                    ends_at,
                    mints=self._provider.mints,
                    findings=self._findings,
                )
            if self._provider.mints:
                self._renew(session, grant, minted_at)
                with self._unbroken():
                    self._revoked = True
                    check_revocation(self._provider, self._findings, grant, session, owner)
        except psycopg.Error as error:
            self._add("query", "fail", f"{type(error).__name__}: {error}")

    def _mint(self) -> Grant | None:
        step = "mint" if self._provider.mints else "credentials"
        try:
            grant = self._provider.fetch()
        except EphemeralCredsError as error:
            self._add(step, "fail", str(error))
            return None
        seconds = grant.lease.duration
        text = repr(grant.credentials.username)
        if grant.lease.is_token:
            seconds, text = grant.lease.announced_duration, f"{text}, with a token"
        life = "" if seconds == math.inf else f", for {seconds:.0f} s"
        self._add(step, "ok", f"{text}{life}")
        return grant

    def _connect(self, grant: Grant) -> RoleSession | None:
        if self._conninfo is None:
            self._add(
                "connect",
                "warn",
                "the address of PostgreSQL is not known: no login was tried",
                "give --conninfo 'host=… dbname=…', or set PGHOST and PGDATABASE",
            )
            return None
        try:
            session = RoleSession(self._conninfo, grant.credentials, self._session_role)
        except ConfigurationError as error:
            self._add("connect", "fail", str(error))
        except LoginFailed as error:
            self._add("connect", "fail", str(error), self._remedy(error))
        else:
            self.connected = True
            self._add("connect", "ok", f"logged in to {session.where}")
            return session
        return None

    def _remedy(self, failed: LoginFailed) -> str:
        by_login = failed.verdict.reason is LoginFailure.CREDENTIALS
        if by_login and isinstance(self._provider, DatabaseTokenProvider):
            return self._provider.refusal_hint
        return _remedy(failed, self._session_role)

    def _renew(self, session: RoleSession | None, grant: Grant, minted_at: float) -> None:
        if not grant.lease.renewable:
            self._check_token(grant, grant.lease)
            self._add("renewal", "skipped", "the lease cannot be renewed: it is replaced instead")
            return
        before = session.valid_until() if session is not None else math.inf
        time.sleep(max(0.0, minted_at + _SECOND - time.monotonic()))
        try:
            lease = self._provider.renew(grant)
        except AccessDenied as error:
            self._check_token(grant, grant.lease)
            self._add("renewal", "warn", str(error))
            return
        except EphemeralCredsError as error:
            self._add("renewal", "fail", str(error))
            return
        self._check_token(grant, lease)
        text = f"the lease lasts another {lease.duration:.0f} s"
        if session is None or before == math.inf:
            self._add("renewal", "ok", text)
        elif not was_put_off(grant.lease, lease):
            # VALID UNTIL may have moved anyway, by up to a second of rounding.
            self._add(
                "renewal",
                "ok",
                f"the renewal did not extend the lease, which ends in {lease.duration:.0f} s: at "
                "its max_ttl, or with its token",
            )
        elif session.valid_until() > before:
            self._add("renewal", "ok", f"{text}, and VALID UNTIL moved along")
        else:
            self._add(
                "renewal",
                "fail",
                f"{text}, but VALID UNTIL did not move: logins fail while the lease is still valid",
                "leave the role's renew_statements empty, or add\n"
                "  ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';",
            )

    def _check_token(self, grant: Grant, last: Lease) -> None:
        if not isinstance(self._provider, VaultDynamicProvider):
            return
        asked = self._provider.initial_duration(grant)
        if ends_with_token(grant.lease, last, asked):
            self._add(
                "token",
                "warn",
                f"the token ends in {last.duration:.0f} s, before the lease of {asked:.0f} s, and "
                "ends it: each renewal needs a new login and new credentials",
                LONGER_LIFE,
            )

    def _revoke(self, grant: Grant) -> None:
        if self._provider.mints and not self._revoked:
            try:
                self._provider.revoke(grant)
            except EphemeralCredsError as error:
                self._add("revocation", "warn", str(error))


def was_put_off(minted: Lease, renewed: Lease) -> bool:
    """Whether a renewal, more than a second later, has extended a lease.

    Vault reports whole seconds.
    """
    return renewed.duration >= minted.duration


def ends_with_token(minted: Lease, last: Lease, asked: float) -> bool:
    """Whether a lease ends before the time that its role gives it.

    Args:
        minted: the lease as it was at first.
        last: as Vault last reported it; a renewal right after the mint that is limited by max_ttl
            still ends that long after the mint, or later.
        asked: the seconds that the role gives it.
    """
    later = last.requested_at - minted.requested_at
    return later + last.duration + 1.0 < asked * _ENOUGH


def _remedy(failed: LoginFailed, session_role: str | None) -> str:
    """Return what to do about a login to PostgreSQL that failed."""
    verdict = failed.verdict
    hint = advice(verdict.reason, verdict.sqlstate, verdict.parameter)
    if session_role is not None:
        # A match on a message, PgBouncer's: good enough for a hint.
        if refuses_options(str(failed)):
            return role_at_login(session_role)
        if verdict.sqlstate == "42501":
            return (
                f'add to the creation_statements: GRANT {session_role} TO "{{{{name}}}}"; or, if '
                f"the error is about the database, {hint}"
            )
        if verdict.sqlstate == "22023":
            return "check the name of the session role: it is a role of PostgreSQL, not of Vault"
    if verdict.sqlstate == "28000" and verdict.reason is LoginFailure.CREDENTIALS:
        return (
            "the role has NOLOGIN: put into its creation_statements\n"
            "  CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' "
            "VALID UNTIL '{{expiration}}';"
        )
    return hint
