"""What the tests of the file provider share: a watched file, and how files get replaced."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from hypothesis import strategies as st

from ephemeral_creds.exceptions import EphemeralCredsError
from ephemeral_creds.providers.file import FilePolicy, FileProvider
from ephemeral_creds.providers.formats.mistakes import invisible_end, mistaken_value
from ephemeral_creds.providers.formats.parse import parse

if TYPE_CHECKING:
    from pathlib import Path

    from ephemeral_creds._values import Credentials
    from ephemeral_creds.providers.formats.parse import Format

passwords = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: not mistaken_value(text) and not invisible_end(text))
"""Whatever a password may be."""

GENEROUS = 20.0  # seconds; a test that has to wait for so long has failed
POLL = 0.005


class Counter:
    """Counts calls, and waits for them."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.value += 1
            self._changed.notify_all()

    def wait_for(self, value: int) -> int:
        """Return how many there are once there are at least `value`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.value >= value, GENEROUS):
                raise AssertionError(f"{self.value} calls, waiting for {value}")
            return self.value


class Watched:
    """A file, a provider that watches it, and the number of calls and of contents compared.

    Args:
        path: the file.
        content: what it holds at first; None for no file.
        notify: the provider's.
        poll_interval: the provider's.
    """

    def __init__(
        self,
        path: Path,
        content: str | None = "DB_USERNAME=app\nDB_PASSWORD=one",
        *,
        notify: bool = False,
        poll_interval: float = POLL,
    ) -> None:
        self.path = path
        if content is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        self.changes = Counter()
        self.looks = Counter()
        self.provider = FileProvider(
            path,
            parse=self._parse,
            policy=FilePolicy(world_readable="allow"),
            poll_interval=poll_interval,
            notify=notify,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.provider.close()
        assert not self.provider.watching

    def _parse(self, text: str) -> Credentials:
        self.looks()
        return parse(text).credentials

    def begin(self) -> None:
        self.provider.watch(self.changes)

    def settle(self) -> None:
        """Return once content that was there at the call has been compared.

        A comparison may be under way, and the one after it ends before the third begins.
        """
        self.looks.wait_for(self.looks.value + 3)

    def password(self) -> str:
        return self.provider.fetch().credentials.password.reveal()


def text(password: str, username: str = "app") -> str:
    return f"DB_USERNAME={username}\nDB_PASSWORD={password}"


def read(content: str, *, format: Format = "auto") -> str | EphemeralCredsError:  # noqa: A002
    """Return the password in `content`, or why there is no password."""
    try:
        return parse(content, format=format).credentials.password.reveal()
    except EphemeralCredsError as error:
        return error


def rename_over(path: Path, content: str) -> None:
    """Replace the file as Vault Agent does."""
    temporary = path.with_name("3141592653")
    temporary.write_text(content)
    temporary.rename(path)
