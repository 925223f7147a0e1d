"""The demo from start to end: servers, load, verdict, clean-up."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from ephemeral_creds import (
    CredentialKeeper,
    EphemeralCredsError,
    FileProvider,
    RefreshPolicy,
    RotatingConnectionPool,
    RotationPolicy,
)
from ephemeral_creds.check.interruption import Interrupted, Interruption
from ephemeral_creds.cli._load import Census, Workload
from ephemeral_creds.cli._messages import print_error, print_note, print_result
from ephemeral_creds.cli._report import Report, quantile, verdict
from ephemeral_creds.cli._statuses import ExitStatus
from ephemeral_creds.cli._view import EventLog, Snapshot, make_view
from ephemeral_creds.cli._world import DEFAULT_TTL, MAX_TTL, Sidecar, open_world
from ephemeral_creds.lifecycle.policy import Tuning
from ephemeral_creds.testing import VaultCallFailed

if TYPE_CHECKING:
    from ephemeral_creds import CredentialProvider
    from ephemeral_creds.cli._demo_options import DemoOptions
    from ephemeral_creds.cli._view import PlainView
    from ephemeral_creds.cli._world import World

__all__ = ["run_demo"]

_MIN_SIZE, _MAX_SIZE = 4, 10
_START_TIMEOUT = 30.0
_REDRAW = 0.25
# Vault revokes in the background. Well below the four seconds after which what had not been
# revoked would go by itself.
_REVOKED_WITHIN = 2.0
# For leases of four seconds: the defaults are for a minute and more.
_REFRESH = RefreshPolicy(
    renew_at=0.5,
    margin=1.0,
    retry_initial=0.2,
    retry_max=1.0,
    mint_interval=1.0,
    proof_timeout=2.0,
    _tuning=Tuning(config_retry=1.0),
)
_ROTATION = RotationPolicy()
# More than the library's own: a revocation may take `VaultConfig.revoke_timeout` on a busy machine,
# and the figures are read as soon as the keeper has closed.
_CLOSE_TIMEOUT = 15.0
_EXPECTED = (
    EphemeralCredsError,
    VaultCallFailed,
    psycopg.Error,
    subprocess.SubprocessError,
    OSError,
)


def run_demo(options: DemoOptions) -> int:
    """Run the demo and return the exit status."""
    left_behind: list[str] = []
    view = make_view(json=options.json, verbose=options.verbose)
    with Interruption(view.say) as interruption:
        try:
            with view:
                report = _Demo(options, view, interruption).run(left_behind)
                view.finish(report)
            if options.json:
                print_result(report.as_json())
        except Interrupted:
            rest = "" if left_behind else "; everything is cleaned up"
            print_note("demo", f"stopped before the load began{rest}")
        except BrokenPipeError:
            # Of stdout: the process that read it has ended.
            raise
        except _EXPECTED as error:
            if interruption.signum is not None:
                print_note("demo", f"stopped by {interruption.signum.name}, and then failed")
            print_error("demo", error, debug=options.debug)
        else:
            promise = ExitStatus.WARNED if verdict(report) else ExitStatus.DONE
            return interruption.status or promise
        for line in left_behind:
            print_note("demo", line)
        return interruption.status or ExitStatus.UNAVAILABLE


class _Demo:
    """One run. What `_stack` holds is undone at its end, whatever happens."""

    def __init__(self, options: DemoOptions, view: PlainView, interruption: Interruption) -> None:
        self._options = options
        self._view = view
        self._interruption = interruption
        self._events = EventLog(verbose=options.verbose)

    def run(self, left_behind: list[str]) -> Report:
        """Run it.

        Args:
            left_behind: gets a line for each thing that could not be put away again, also if
                there is no report.

        Raises:
            Interrupted: a signal came before the load began.
        """
        with ExitStack() as stack:
            check = self._interruption.check
            world = open_world(self._options, stack, check, self._view.say, left_behind)
            self._view.say(
                f"{self._options.workers} workers for {self._options.seconds:g} s; leases of "
                f"{DEFAULT_TTL} s, renewed for up to {MAX_TTL} s"
            )
            census = Census(world.postgres)
            stack.callback(census.close)
            census.start()
            sidecar = self._start_sidecar(world, stack) if self._options.source == "file" else None
            report = self._serve(world, census, sidecar)
        return replace(report, trouble=(*report.trouble, *left_behind))

    def _start_sidecar(self, world: World, stack: ExitStack) -> Sidecar:
        sidecar = Sidecar(world)
        stack.callback(sidecar.close)
        self._view.say(f"credentials from the file of {world.binary.name} agent")
        sidecar.start()
        self._interruption.wait_for(sidecar.has_written, _START_TIMEOUT)
        return sidecar

    def _serve(self, world: World, census: Census, sidecar: Sidecar | None) -> Report:
        provider: CredentialProvider = world.provider()
        if sidecar is not None:
            provider = FileProvider(sidecar.path, poll_interval=0.2)
        with ExitStack() as stack:
            keeper = CredentialKeeper(provider, refresh=_REFRESH, observers=[self._events])
            stack.callback(keeper.close, _CLOSE_TIMEOUT)
            pool: RotatingConnectionPool[psycopg.Connection[Any]] = RotatingConnectionPool(
                keeper,
                world.conninfo,
                min_size=_MIN_SIZE,
                max_size=_MAX_SIZE,
                rotation=_ROTATION,
                timeout=5.0,
                name="demo",
            )
            stack.callback(pool.close)
            self._open(keeper, pool)
            workload = Workload(pool, self._options.workers)
            stack.callback(workload.close)
            workload.start()
            begun = time.monotonic()
            self._watch(keeper, pool, workload, begun)
            seconds = time.monotonic() - begun
            # In this order: load, pool, keeper with its leases and token.
            stack.close()
        if sidecar is not None:
            sidecar.close()
        roles_left = self._roles_left(world)
        census.close()
        self._drain_events()
        status = keeper.status()
        latencies = [round(seconds * 1000, 2) for seconds in workload.latencies()]
        api = sidecar is None
        signum = self._interruption.signum
        return Report(
            source=self._options.source,
            seconds=round(min(seconds, self._options.seconds), 1),
            workers=self._options.workers,
            vault=world.vault_version,
            queries=workload.committed + workload.failed,
            failed=workload.failed,
            rotations=status.rotations,
            renewals=status.renewals if api else census.renewals,
            mints=status.grants if api else census.roles_seen,
            revocations=status.revocations if api else census.roles_seen - roles_left,
            peak_connections=max(pool.peak_connections, census.peak_connections),
            max_connections=_MAX_SIZE + _ROTATION.overshoot,
            roles_left=roles_left,
            p50_ms=quantile(latencies, 0.5),
            p999_ms=quantile(latencies, 0.999),
            failures=workload.failures,
            unrevoked=self._events.unrevoked,
            trouble=self._trouble(world, census, workload),
            interrupted=signum.name if signum is not None else None,
        )

    def _open(self, keeper: CredentialKeeper, pool: RotatingConnectionPool[Any]) -> None:
        self._interruption.check()
        keeper.start()
        pool.open()
        try:
            self._interruption.wait_for(lambda: keeper.status().ready, _START_TIMEOUT)
            # It says what is wrong; the waiting has been done, so that a signal could be heard.
            keeper.wait(0.01)
            pool.wait(_START_TIMEOUT)
        finally:
            self._drain_events()

    def _watch(
        self,
        keeper: CredentialKeeper,
        pool: RotatingConnectionPool[Any],
        workload: Workload,
        begun: float,
    ) -> None:
        counted, counted_at, rate = 0, begun, 0.0
        while not self._interruption.noticed():
            now = time.monotonic()
            if now - begun >= self._options.seconds:
                break
            queries, failed, status = workload.committed, workload.failed, keeper.status()
            if now - counted_at >= 1.0:
                rate = (queries - counted) / (now - counted_at)
                counted, counted_at = queries, now
            self._drain_events()
            self._view.show(
                Snapshot(
                    elapsed=now - begun,
                    seconds=self._options.seconds,
                    generation=status.generation,
                    username=status.username or "none",
                    expires_in=status.expires_in,
                    connections=pool.status().connections,
                    rate=rate,
                    queries=queries + failed,
                    failed=failed,
                    rotations=status.rotations,
                )
            )
            self._interruption.sleep(min(_REDRAW, begun + self._options.seconds - now))

    def _drain_events(self) -> None:
        for line in self._events.take():
            self._view.say(line)

    def _roles_left(self, world: World) -> int:
        until = time.monotonic() + _REVOKED_WITHIN
        while (left := len(world.postgres.roles())) and time.monotonic() < until:
            time.sleep(_REDRAW)
        return left

    def _trouble(self, world: World, census: Census, workload: Workload) -> tuple[str, ...]:
        found = []
        if census.error is not None:
            found.append(f"PostgreSQL could not be watched: {census.error}")
        with closing(world.postgres.admin()) as connection:
            row = connection.execute("SELECT count(*) FROM entries").fetchone()
        if row is None or row[0] < workload.committed:
            found.append(f"PostgreSQL has {row} of {workload.committed} committed transactions")
        return tuple(found)
