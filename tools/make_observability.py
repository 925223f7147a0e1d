"""Write Prometheus' alert rules and Grafana's dashboard into examples/observability.

    python tools/make_observability.py            # write them
    python tools/make_observability.py --check    # exit status 1 where one is out of date

Both name the metrics of `ephemeral_creds.contrib.prometheus`. A test compares the names.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "examples" / "observability"
PREFIX = "ephemeral_creds_"


@dataclass(frozen=True)
class Rule:
    """An alert.

    Attributes:
        name: its name.
        expr: fires if it has a result; ``$`` stands for the prefix of our metrics.
        lasts: for how long it has to.
        urgency: ``critical`` if requests fail or are about to, otherwise ``warning``.
        summary: what is the matter, in a line.
        description: what to do.
        reason: why the figures in `expr` are what they are.
    """

    name: str
    expr: str
    lasts: str
    urgency: Literal["critical", "warning"]
    summary: str
    description: str
    reason: str


RULES = (
    Rule(
        "EphemeralCredsNoLogin",
        "$keeper_ready == 0 and $fetches_total > 0",
        "1m",
        "critical",
        "Keeper {{ $labels.keeper }} has no credentials that can log in",
        "Open connections work until their role is dropped; no new one can be opened. See "
        "last_error in the keeper's status: Vault, its policy, or the file.",
        "A start with a Vault that answers takes seconds; a keeper that was not started asks it "
        "nothing.",
    ),
    Rule(
        "EphemeralCredsKeeperCrashed",
        "$keeper_crashed == 1",
        "0m",
        "critical",
        "The thread of keeper {{ $labels.keeper }} has crashed",
        "Credentials in use work until their deadline, and nothing replaces them. Restart the "
        "process, and report the KeeperFailed event.",
        "It does not recover.",
    ),
    Rule(
        "EphemeralCredsLeaseNotRenewed",
        "$lease_end_timestamp_seconds - time() < 0.25 * $lease_duration_seconds",
        "1m",
        "critical",
        "The lease of keeper {{ $labels.keeper }} is near its end and was not renewed",
        "Renewals and requests for other credentials fail: see the events RenewalFailed and "
        "FetchFailed. Logins fail when the lease has ended.",
        "A lease is renewed or replaced when two thirds of it are over, at the latest.",
    ),
    Rule(
        "EphemeralCredsProviderFailing",
        "increase($fetch_failures_total[5m]) + increase($lease_renewal_failures_total[5m]) > 2",
        "5m",
        "warning",
        "Keeper {{ $labels.keeper }} gets errors from its provider",
        "The credentials in use work until their lease ends. See last_error in the keeper's "
        "status.",
        "Attempts are a minute apart at most. Those of a short outage are forgotten in time.",
    ),
    Rule(
        "EphemeralCredsManyMints",
        "increase($grants_total[1h]) > 4 + 4 * 3600 / $lease_duration_seconds",
        "0m",
        "warning",
        "Keeper {{ $labels.keeper }} mints many roles",
        "Each is a role in PostgreSQL and a lease in Vault until it is revoked. See the reasons of "
        "the events CredentialsIssued; refused logins are the usual one.",
        "A lease that cannot be renewed is replaced one and a half times in its duration.",
    ),
    Rule(
        "EphemeralCredsLoginsRefused",
        "increase($logins_refused_total[10m]) > 2",
        "1m",
        "warning",
        "PostgreSQL refuses logins of keeper {{ $labels.keeper }}: {{ $labels.reason }}",
        "credentials: it refuses user or password; pg_hba: a rule rejects them; server: for "
        "another reason, such as no free slot; client: it lacks what sslmode or require_auth "
        "asks for. The events LoginRejected have the code.",
        "A replica that does not know a new role yet refuses it once or twice.",
    ),
    Rule(
        "EphemeralCredsBorrowedAtDeadline",
        "increase($pool_overdue_connections_total[1h]) > 0",
        "0m",
        "warning",
        "Connections of pool {{ $labels.pool }} were borrowed for longer than their credentials "
        "worked",
        "RotationPolicy(trace_borrowers=True) has the events BorrowedAtDeadline say where. Borrow "
        "for shorter, or have them cancelled.",
        "It happens once in the life of a lease, so that an hour has to remember it.",
    ),
    Rule(
        "EphemeralCredsSourceUnusable",
        "$source_unusable == 1",
        "1m",
        "warning",
        "Keeper {{ $labels.keeper }} cannot use the content of its file",
        "Older credentials serve until they end. source_error in the keeper's status says what to "
        "correct.",
        "A file that is being written is not counted: a problem has to last for three seconds.",
    ),
    Rule(
        "EphemeralCredsExpectedEndPassed",
        "time() - $credentials_expected_end_timestamp_seconds > 60",
        "1m",
        "warning",
        "Credentials of keeper {{ $labels.keeper }} are past their expected end",
        "The sidecar has not written others: check the agent. PostgreSQL refuses these at the next "
        "login.",
        "An agent writes the next ones seconds before the end.",
    ),
)


def rules() -> str:
    """Return the file of alert rules."""
    lines = [
        "# Made by tools/make_observability.py: edit that, and run `nox -s twins`.",
        "groups:",
        "  - name: ephemeral_creds",
        "    rules:",
    ]
    for rule in RULES:
        lines += [
            f"      # {rule.reason}",
            f"      - alert: {rule.name}",
            f"        expr: {_quoted(rule.expr.replace('$', PREFIX))}",
            f"        for: {rule.lasts}",
            "        labels:",
            f"          severity: {rule.urgency}",
            "        annotations:",
            f"          summary: {_quoted(rule.summary)}",
            f"          description: {_quoted(rule.description)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class Panel:
    """A graph.

    Attributes:
        title: its title.
        queries: what it shows, by legend. ``$name{}`` is a metric of ours, of the chosen keepers.
        unit: Grafana's name of the unit.
        stacked: whether the series are parts of a whole.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    stacked: bool = False


# Rates are a panel's own interval; an hour for what happens a few times in one.
DASHBOARD: dict[str, tuple[Panel, ...]] = {
    "Credentials": (
        Panel("Login possible", {"{{keeper}}": "min by (keeper) ($keeper_ready{})"}, "bool"),
        Panel(
            "Remaining lease",
            {
                "{{keeper}} {{instance}}": "$lease_end_timestamp_seconds{} - time()",
                "{{keeper}} {{instance}} expected": (
                    "$credentials_expected_end_timestamp_seconds{} - time()"
                ),
            },
            "s",
        ),
        Panel(
            "Per hour",
            {
                "{{keeper}} new credentials": "sum by (keeper) (increase($grants_total{}[1h]))",
                "{{keeper}} rotations": "sum by (keeper) (increase($rotations_total{}[1h]))",
                "{{keeper}} renewals": "sum by (keeper) (increase($lease_renewals_total{}[1h]))",
                "{{keeper}} revocations": (
                    "sum by (keeper) (increase($lease_revocations_total{}[1h]))"
                ),
            },
        ),
        Panel(
            "Generations that wait for their end",
            {"{{keeper}} {{instance}}": "$keeper_retired_generations{}"},
        ),
    ),
    "Problems": (
        Panel(
            "Refused logins in 10 minutes",
            {
                "{{keeper}} {{reason}}": (
                    "sum by (keeper, reason) (increase($logins_refused_total{}[10m]))"
                )
            },
        ),
        Panel(
            "Failures of the provider in 10 minutes",
            {
                "{{keeper}} fetches": "sum by (keeper) (increase($fetch_failures_total{}[10m]))",
                "{{keeper}} renewals": (
                    "sum by (keeper) (increase($lease_renewal_failures_total{}[10m]))"
                ),
                "{{keeper}} revocations": (
                    "sum by (keeper) (increase($lease_revocation_failures_total{}[10m]))"
                ),
                "{{keeper}} unusable files": "sum by (keeper) ($source_unusable{})",
                "{{keeper}} crashed": "sum by (keeper) ($keeper_crashed{})",
            },
        ),
        Panel(
            "Requests to the provider, 95th percentile",
            {
                "{{keeper}} {{operation}}": (
                    "histogram_quantile(0.95, sum by (keeper, operation, le) "
                    "(rate($provider_request_duration_seconds_bucket{}[$__rate_interval])))"
                )
            },
            "s",
        ),
        Panel(
            "Requests to the provider, not done",
            {
                "{{keeper}} {{operation}} {{outcome}}": (
                    "sum by (keeper, operation, outcome) "
                    '(increase($provider_requests_total{outcome!="done",}[10m]))'
                )
            },
        ),
    ),
    "Pools": (
        Panel(
            "Connections",
            {"{{pool}} {{state}}": "sum by (pool, state) ($pool_connections{})"},
            stacked=True,
        ),
        Panel(
            "Connections of older generations",
            {"{{pool}} {{instance}}": "$pool_stale_connections{}"},
        ),
        Panel(
            "Share of the maximum that is in use",
            {
                "{{pool}} {{instance}}": (
                    'sum without (state) ($pool_connections{state="used",})'
                    " / $pool_max_connections{}"
                )
            },
            "percentunit",
        ),
        Panel(
            "Waiting requests",
            {"{{pool}} {{instance}}": "$pool_waiting_requests{}"},
        ),
        Panel(
            "Mean wait for a connection",
            {
                "{{pool}}": (
                    "sum by (pool) (rate($pool_request_wait_seconds_total{}[$__rate_interval]))"
                    " / sum by (pool) (rate($pool_requests_total{}[$__rate_interval]))"
                )
            },
            "s",
        ),
        Panel(
            "Mean time of a connect",
            {
                "{{pool}}": (
                    "sum by (pool) (rate($pool_connect_seconds_total{}[$__rate_interval]))"
                    " / sum by (pool) (rate($pool_connects_total{}[$__rate_interval]))"
                )
            },
            "s",
        ),
        Panel(
            "Failures per second",
            {
                "{{pool}} requests": (
                    "sum by (pool) (rate($pool_request_failures_total{}[$__rate_interval]))"
                ),
                "{{pool}} connects": (
                    "sum by (pool) (rate($pool_connect_failures_total{}[$__rate_interval]))"
                ),
                "{{pool}} lost connections": (
                    "sum by (pool) (rate($pool_lost_connections_total{}[$__rate_interval]))"
                ),
            },
        ),
        Panel(
            "Borrowed at their deadline, in an hour",
            {"{{pool}}": "sum by (pool) (increase($pool_overdue_connections_total{}[1h]))"},
        ),
    ),
}


def expression(query: str) -> str:
    """Return a query with the names of our metrics, and the choice of keepers."""
    text = query.replace("$__rate_interval", "\0").replace("$", PREFIX)
    text = text.replace("{}", '{keeper=~"$keeper"}').replace(",}", ', keeper=~"$keeper"}')
    return text.replace("\0", "$__rate_interval")


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 12, 8  # Grafana's grid has 24 columns


def _panels() -> Iterator[dict[str, Any]]:
    number = y = 0
    for title, panels in DASHBOARD.items():
        number += 1
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place}
        y += 1
        for index, panel in enumerate(panels):
            number += 1
            x = _WIDTH * (index % 2)
            yield _panel(number, panel, {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y})
            y += _HEIGHT if x or index == len(panels) - 1 else 0


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "datasource": _SOURCE,
            "expr": expression(query),
            "legendFormat": legend,
            "refId": chr(ord("A") + index),
        }
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 20} if panel.stacked else {}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def dashboard() -> str:
    """Return the dashboard."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    keeper = {
        "name": "keeper",
        "type": "query",
        "label": "Keeper",
        "datasource": _SOURCE,
        "query": f"label_values({PREFIX}keeper_generation, keeper)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
    made = {
        "title": "ephemeral-creds",
        "uid": "ephemeral-creds",
        "description": "Made by tools/make_observability.py.",
        "tags": ["postgresql", "vault"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, keeper]},
        "panels": list(_panels()),
    }
    return json.dumps(made, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write them, or with ``--check`` say which are out of date; return the exit status."""
    status = 0
    for name, text in (("alerts.yml", rules()), ("dashboard.json", dashboard())):
        target = FOLDER / name
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            print(f'{target} is out of date: run "nox -s twins"', file=sys.stderr)
            status = 1
        else:
            target.write_text(text, encoding="utf-8")
            print(f"{target} written")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
