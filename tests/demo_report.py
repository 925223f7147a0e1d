"""The report of a run of the demo with a sidecar's file, in which everything went well."""

from __future__ import annotations

from ephemeral_creds.cli._report import Report

REPORT = Report(
    source="file",
    seconds=60.0,
    workers=16,
    vault="OpenBao 2.7.2",
    queries=1000,
    failed=0,
    rotations=5,
    renewals=25,
    mints=6,
    revocations=6,
    peak_connections=12,
    max_connections=12,
    roles_left=0,
    p50_ms=2.0,
    p999_ms=20.0,
)
