"""The documentation shows all that the tests know of how Vault and OpenBao differ."""

from __future__ import annotations

from pathlib import Path

from differences import table

PAGE = Path(__file__).parents[2] / "docs/reference/vault.md"


def test_the_page_has_the_tests_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"{PAGE} lacks this table:\n{table()}"
