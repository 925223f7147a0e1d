"""What ends a lease, as far as two answers about it tell; durations in them are whole seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ephemeral_creds import Lease

__all__ = ["ends_with_token", "was_put_off"]

_ENOUGH = 0.95


def was_put_off(minted: Lease, renewed: Lease) -> bool:
    """Whether a renewal, more than a second later, has put the end of a lease off."""
    return renewed.duration >= minted.duration


def ends_with_token(minted: Lease, last: Lease, asked: float) -> bool:
    """Whether a lease ends before the time that its role gives it.

    Args:
        minted: the lease as it was at first.
        last: as it was answered last; a renewal right after the mint that stops at max_ttl still
            ends that long after the mint, or later.
        asked: the seconds that the role gives it.
    """
    later = last.requested_at - minted.requested_at
    return later + last.duration + 1.0 < asked * _ENOUGH
