"""asyncpg's pool where psycopg cannot be imported, as without libpq."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("asyncpg")

PROGRAM = """
import sys
sys.modules["psycopg"] = sys.modules["psycopg_pool"] = None
from ephemeral_creds import FixedProvider
from ephemeral_creds.contrib.asyncpg import create_pool
from ephemeral_creds.contrib._login import asyncpg_failure
import asyncio

async def main():
    try:
        async with create_pool(FixedProvider("a", "b"), "postgresql://127.0.0.1:1/db", timeout=5):
            pass
    except OSError as error:
        print(type(error).__name__)

asyncio.run(main())
"""


@pytest.mark.slow
def test_the_pool_of_asyncpg_needs_no_libpq() -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert program.stdout == "ConnectionRefusedError\n"
