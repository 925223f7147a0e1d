"""Why a keeper has no credentials, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ephemeral_creds.exceptions import CredentialsExpired, KeeperClosed, NoCredentials, NotReady
from ephemeral_creds.keeper.phase import Phase

if TYPE_CHECKING:
    from ephemeral_creds.keeper.thread import KeeperThread

__all__ = ["no_credentials", "refresh_unfinished"]


def no_credentials(keeper: KeeperThread) -> NoCredentials:
    """Return the error to raise if there is nothing to log in with."""
    source, name = keeper.provider.description, keeper.name
    match keeper.phase:
        case Phase.NEW:
            return NotReady(
                f"{source}: the keeper {name!r} has not been started: call its start(), or use it "
                "in a with statement"
            )
        case Phase.CLOSING | Phase.HUNG | Phase.STOPPED:
            return KeeperClosed(f"{source}: the keeper {name!r} is closed")
        case Phase.INHERITED:
            return KeeperClosed(
                f"{source}: the keeper {name!r} was started before this process was forked, and "
                "belongs to the parent: make keepers and pools after the fork, for example in "
                "gunicorn's post_fork hook"
            )
        case Phase.RUNNING | Phase.CRASHED:
            pass
    grant, now = keeper.machine.current, keeper.clock.now()
    if grant is None:
        return NotReady(f"{source}: no credentials yet{_because(keeper, now)}")
    if now < grant.lease.expires_at:
        return NotReady(f"{source}: cannot get new credentials{_because(keeper, now)}")
    return CredentialsExpired(
        f"{source}: the credentials of generation {grant.generation} have expired and could not "
        f"be replaced{_because(keeper, now)}"
    )


def _because(keeper: KeeperThread, now: float) -> str:
    because = ""
    if (failure := keeper.machine.last_failure) is not None:
        because += f"; last failure: {failure}"
    if (asked_at := keeper.asked_at) is not None:
        because += f"; waiting for a reply for {now - asked_at:.0f} s"
    if keeper.phase is Phase.CRASHED:
        because += (
            f"; the thread of the keeper {keeper.name!r} has crashed ({keeper.crash}): restart "
            "the process and report this as a bug"
        )
    return because


def refresh_unfinished(keeper: KeeperThread, timeout: float) -> NotReady:
    """Return the error to raise if a refresh takes longer than `timeout` seconds."""
    why = ""
    if keeper.machine.proving:
        why = (
            ": no pool has logged in to PostgreSQL with the new credentials yet; see the "
            "LoginRejected events, or check that PostgreSQL answers"
        )
    return NotReady(
        f"{keeper.provider.description}: the refresh did not finish in {timeout:g} s{why}; it "
        "continues in the background"
    )
