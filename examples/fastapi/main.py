"""A FastAPI service on an asyncio pool, with endpoints for the probes of an orchestrator.

Run it as::

    DB_CREDS=/vault/secrets/db-creds.txt DB_CONNINFO="host=localhost dbname=mydb" \
    uvicorn --app-dir examples/fastapi main:app

With several workers (``--workers 4``) each has a pool of its own: all of it is made after the fork.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from psycopg import AsyncConnection

from ephemeral_creds import AsyncRotatingConnectionPool, FileProvider, retry_on_rotation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Pool = AsyncRotatingConnectionPool[AsyncConnection[Any]]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool with the server, and close it, connections first, when the server drains."""
    pool: Pool = AsyncRotatingConnectionPool(
        FileProvider(os.environ["DB_CREDS"]),
        os.environ["DB_CONNINFO"],
        session_role=os.environ.get("DB_SESSION_ROLE"),
        max_size=10,
        # A request that cannot have a connection in this time is better refused.
        timeout=5.0,
    )
    async with pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


def the_pool(request: Request) -> Pool:
    """Return the pool of this process."""
    return cast("Pool", request.app.state.pool)


InPool = Annotated[AsyncRotatingConnectionPool, Depends(the_pool)]


@app.post("/jobs", status_code=201)
async def add_job(payload: str, pool: InPool) -> dict[str, int]:
    """Store a job, in a transaction that may be run again."""

    @retry_on_rotation(pool)
    async def insert() -> int:
        async with pool.connection() as connection:
            cursor = await connection.execute(
                "INSERT INTO jobs (payload) VALUES (%s) RETURNING id", [payload]
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    return {"id": await insert()}


@app.get("/jobs/{number}")
async def show_job(number: int, pool: InPool) -> dict[str, object]:
    """Return a job."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT payload, done_by FROM jobs WHERE id = %s", [number]
        )
        row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404)
    return {"payload": row[0], "done_by": row[1]}


@app.get("/healthz")
async def is_alive() -> dict[str, bool]:
    """Say that the process answers; a restart would fix nothing else."""
    return {"alive": True}


@app.get("/readyz")
async def is_ready(pool: InPool, response: Response) -> dict[str, object]:
    """Say whether there are credentials and connections; there is no secret in it."""
    status = pool.status()
    if not status.ready:
        response.status_code = 503
    return {"ready": status.ready, "generation": status.generation}
