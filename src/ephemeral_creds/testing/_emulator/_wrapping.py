"""Response wrapping: an answer kept behind a token that opens it once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ephemeral_creds.testing._emulator._acl import WRAPPING_POLICY
from ephemeral_creds.testing._emulator._wire import (
    SYSTEM_MAX_TTL,
    Answer,
    Refusal,
    denied,
    envelope,
    iso_time,
    one_error,
    seconds,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ephemeral_creds.testing._emulator._tokens import Token, TokenStore
    from ephemeral_creds.testing._emulator._wire import Request

__all__ = ["Wrappings"]

_LOOKUP, _UNWRAP, _WRAP = (f"sys/wrapping/{action}" for action in ("lookup", "unwrap", "wrap"))
_INVALID = "wrapping token is not valid or does not exist"


@dataclass(frozen=True, slots=True)
class _Wrapped:
    answer: Answer = field(repr=False)
    path: str
    created_at: float
    ttl: float


class Wrappings:
    """The wrapped answers that nobody has opened yet.

    Args:
        now: Unix time in seconds.
        lock: the emulator's.
        tokens: where the wrapping tokens are.
    """

    def __init__(self, now: Callable[[], float], lock: threading.RLock, tokens: TokenStore) -> None:
        self._now = now
        self._lock = lock
        self._tokens = tokens
        self._wrapped: dict[str, _Wrapped] = {}

    @staticmethod
    def ttl(request: Request) -> float:
        """Return for how many seconds the answer is to be wrapped; 0 for not at all."""
        wanted, wrong = request.wrap_ttl, "error parsing X-Vault-Wrap-TTL header:"
        if wanted.startswith("-"):
            raise Refusal(400, f"{wrong} requested wrap ttl cannot be negative")
        try:
            return seconds(wanted)
        except Refusal:
            raise Refusal(400, f'{wrong} time: invalid duration "{wanted}"') from None

    def wrap(self, answer: Answer, path: str, ttl: float) -> Answer:
        """Keep `answer` and return the one that goes out instead; without content, itself."""
        if answer.body is None:
            return answer
        now = self._now()
        with self._lock:
            self._forget_expired()
            token = self._tokens.create(
                ttl=ttl,
                policies=[WRAPPING_POLICY],
                path=path,
                display_name="",
                max_ttl=SYSTEM_MAX_TTL,
                num_uses=1,
                renewable=False,
            )
            self._wrapped[token.id] = _Wrapped(answer, path, now, ttl)
        info = {
            "token": token.id,
            "accessor": token.accessor,
            "ttl": round(ttl),
            "creation_time": iso_time(now),
            "creation_path": path,
        }
        inside = (answer.body["data"] or {}).get("secret_id_accessor")
        if accessor := inside or (answer.body["auth"] or {}).get("accessor"):
            info["wrapped_accessor"] = accessor
        outer = envelope(mount_type="").body or {}
        return Answer(200, outer | {"request_id": "", "wrap_info": info})

    @staticmethod
    def serves(request: Request) -> bool:
        """Say whether a request is for `serve`."""
        return request.path in (_LOOKUP, _UNWRAP, _WRAP)

    def serve(self, request: Request, admit: Callable[[Request], Token]) -> Answer:
        """Answer a request below ``sys/wrapping/``.

        Args:
            request: names a wrapping token in its body, or is made with one.
            admit: checks the request's own token and counts its use.
        """
        if request.path == _WRAP:
            admit(request)
            if request.operation != "update":
                raise Refusal(405, one_error("unsupported operation"))
            if not self.ttl(request):
                raise Refusal(400, "endpoint requires response wrapping to be used")
            return envelope(request.body, mount_type="system")
        wrapping = request.text("token") or request.token
        if not wrapping:
            raise Refusal(403, "error validating wrapping token: token is empty")
        with self._lock:
            found = self._wrapped.get(wrapping)
            if found is None or self._tokens.find(wrapping) is None:
                raise Refusal(400, _INVALID)
            # Looking is free, and needs no token of one's own.
            if request.path == _LOOKUP:
                return _described(found)
            admit(request)
            if request.operation != "update":
                raise denied()
            self._open(wrapping)
        return found.answer

    def _open(self, wrapping: str) -> None:
        del self._wrapped[wrapping]
        if token := self._tokens.find(wrapping):
            self._tokens.revoke(token)

    def _forget_expired(self) -> None:
        for wrapping in list(self._wrapped):
            if self._tokens.find(wrapping) is None:
                del self._wrapped[wrapping]


def _described(wrapped: _Wrapped) -> Answer:
    data = {
        "creation_path": wrapped.path,
        "creation_time": iso_time(wrapped.created_at),
        "creation_ttl": round(wrapped.ttl),
    }
    return envelope(data, mount_type="")
