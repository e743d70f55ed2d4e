"""The console's rows as Prometheus text, for the health endpoint.

The one hard idea: dashboards exist already. Where the exporter of the Prometheus
community has a metric for a figure, ours has its name, labels and unit, so that
pointing the scrape at us is all there is to change. Clients are counted by pool,
never listed: a scrape must not cost more because more of them are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, Final, NamedTuple

from admin.show import App
from bouncer import COMPATIBLE_VERSION, __version__

Labels = tuple[tuple[str, str | None], ...]
Number = int | float

SECONDS: Final = 1e-6

# As for the console's rows.
SLICE: Final = 0.001
LINES_BETWEEN_LOOKS: Final = 64


class Metric(NamedTuple):
    """One family: its name behind `pgbouncer_`, and how to read a row."""

    name: str
    help: str
    value: Callable[[Any], Number]
    kind: str = "gauge"


def _field(name: str, scale: float | None = None) -> Callable[[Any], Number]:
    def read(row: Any) -> Number:
        value: Number = getattr(row, name)
        return value if scale is None else value * scale

    return read


def _count(name: str, help: str, field: str, scale: float | None = None) -> Metric:
    return Metric(f"stats_{name}_total", help, _field(field, scale), "counter")


STATS: Final = (
    _count(
        "server_assignments",
        "Times a server was given to a client",
        "total_server_assignment_count",
    ),
    _count("sql_transactions_pooled", "Transactions", "total_xact_count"),
    _count("queries_pooled", "Queries", "total_query_count"),
    _count("received_bytes", "Bytes received from clients", "total_received"),
    _count("sent_bytes", "Bytes received from servers", "total_sent"),
    _count(
        "server_in_transaction_seconds",
        "Time spent in transactions",
        "total_xact_time",
        SECONDS,
    ),
    _count(
        "queries_duration_seconds",
        "Time spent in queries",
        "total_query_time",
        SECONDS,
    ),
    _count(
        "client_wait_seconds",
        "Time clients waited for a server",
        "total_wait_time",
        SECONDS,
    ),
    _count(
        "client_parses",
        "Named statements prepared by clients",
        "total_client_parse_count",
    ),
    _count(
        "server_parses",
        "Named statements prepared on servers",
        "total_server_parse_count",
    ),
    _count("binds", "Binds of named statements", "total_bind_count"),
)

POOLS: Final = tuple(
    Metric(f"pools_{name}", help, _field(field, scale))
    for name, help, field, scale in (
        (
            "client_active_connections",
            "Clients that are served or idle",
            "cl_active",
            None,
        ),
        (
            "client_waiting_connections",
            "Clients that wait for a server",
            "cl_waiting",
            None,
        ),
        (
            "client_active_cancel_connections",
            "Cancel requests sent, not yet done",
            "cl_active_cancel_req",
            None,
        ),
        (
            "client_waiting_cancel_connections",
            "Cancel requests not yet sent",
            "cl_waiting_cancel_req",
            None,
        ),
        ("server_active_connections", "Servers with a client", "sv_active", None),
        (
            "server_active_cancel_connections",
            "Servers that carry a cancel request",
            "sv_active_cancel",
            None,
        ),
        (
            "server_being_canceled_connections",
            "Servers whose query is being canceled",
            "sv_being_canceled",
            None,
        ),
        ("server_idle_connections", "Servers ready for a client", "sv_idle", None),
        (
            "server_used_connections",
            "Servers that need a check before use",
            "sv_used",
            None,
        ),
        (
            "server_testing_connections",
            "Servers being reset or checked",
            "sv_tested",
            None,
        ),
        ("server_login_connections", "Servers logging in", "sv_login", None),
        (
            "client_maxwait_seconds",
            "How long the first waiting client has waited",
            "maxwait",
            SECONDS,
        ),
    )
)

DATABASES: Final = tuple(
    Metric(f"databases_{name}", help, _field(field))
    for name, help, field in (
        ("pool_size", "Servers a pool may have", "pool_size"),
        ("reserve_pool", "Further servers it may have", "reserve_pool_size"),
        ("max_connections", "Servers allowed", "max_connections"),
        ("current_connections", "Servers there are", "current_connections"),
        ("max_client_connections", "Clients allowed", "max_client_connections"),
        (
            "current_client_connections",
            "Clients there are",
            "current_client_connections",
        ),
        ("paused", "Whether it is paused", "paused"),
        ("disabled", "Whether it is disabled", "disabled"),
    )
)

# SHOW LISTS: name of the row, name of the metric, help.
LISTS: Final = {
    "databases": ("databases", "Databases there are"),
    "users": ("users", "Users there are"),
    "pools": ("pools", "Pools there are"),
    "free_clients": ("free_clients", "Unused objects for clients"),
    "used_clients": ("used_clients", "Client connections"),
    "login_clients": ("login_clients", "Clients logging in"),
    "free_servers": ("free_servers", "Unused objects for servers"),
    "used_servers": ("used_servers", "Server connections"),
    "dns_names": ("cached_dns_names", "Names in the DNS cache"),
    "dns_zones": ("cached_dns_zones", "Zones in the DNS cache"),
    "dns_queries": ("in_flight_dns_queries", "DNS queries under way"),
}


def render(app: App) -> str:
    """Write every metric of *app*, in Prometheus text format 0.0.4."""
    return "\n".join(lines(app)) + "\n"


async def render_gently(app: App) -> str:
    """Do as `render` and let the loop breathe: there may be thousands of pools."""
    found: list[str] = []
    begun = perf_counter()
    for line in lines(app):
        found.append(line)
        if len(found) % LINES_BETWEEN_LOOKS == 0 and perf_counter() - begun > SLICE:
            await asyncio.sleep(0)
            begun = perf_counter()
    return "\n".join(found) + "\n"


def lines(app: App) -> Iterator[str]:
    """Write every metric, line by line."""
    yield from _family("up", "Whether the pooler answers", "gauge", [((), 1)])
    version = (("version", COMPATIBLE_VERSION), ("pybouncer", __version__))
    yield from _family(
        "version_info", "What this program stands in for", "gauge", [(version, 1)]
    )
    stats: list[tuple[Labels, Any]] = [
        ((("database", row.database),), row) for row in app.stats()
    ]
    for metric in STATS:
        yield from _rows(metric, stats)
    pools = [
        ((("database", row.database), ("user", row.user)), row)
        for row in app.pool_rows()
    ]
    for metric in POOLS:
        yield from _rows(metric, pools)
    databases = [
        (_database_labels(row, app.settings.pool_mode), row)
        for row in app.database_rows()
    ]
    for metric in DATABASES:
        yield from _rows(metric, databases)
    lists = dict(app.lists())
    for key, (name, help) in LISTS.items():
        yield from _family(name, help, "gauge", [((), lists[key])])
    settings = app.settings
    for name, help, value in (
        (
            "config_max_client_connections",
            "Setting max_client_conn",
            settings.max_client_conn,
        ),
        (
            "config_max_user_connections",
            "Setting max_user_connections",
            settings.max_user_connections,
        ),
    ):
        yield from _family(name, help, "gauge", [((), value)])
    modes = [((("mode", mode),), int(app.global_mode == mode)) for mode in _MODES]
    yield from _family("mode", "What the whole pooler does", "gauge", modes)


_MODES: Final = ("none", "pause", "suspend")


def _database_labels(row: Any, inherited: str) -> Labels:
    """*inherited*: the mode of pools whose database does not say one."""
    return (
        ("name", row.name),
        ("host", row.host),
        ("port", str(row.port)),
        ("database", row.database),
        ("force_user", row.force_user),
        ("pool_mode", row.pool_mode or inherited),
    )


def _rows(metric: Metric, rows: Iterable[tuple[Labels, Any]]) -> Iterator[str]:
    samples = [(labels, metric.value(row)) for labels, row in rows]
    return _family(metric.name, metric.help, metric.kind, samples)


def _family(
    name: str, help: str, kind: str, samples: Iterable[tuple[Labels, Number]]
) -> Iterator[str]:
    """Write one family: what it is, then its samples."""
    yield f"# HELP pgbouncer_{name} {help}"
    yield f"# TYPE pgbouncer_{name} {kind}"
    for labels, value in samples:
        shown = f"{value:.6f}" if isinstance(value, float) else str(int(value))
        yield f"pgbouncer_{name}{_labels(labels)} {shown}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escape(value or "")}"' for name, value in labels)
    return f"{{{inside}}}"


def _escape(value: str) -> str:
    # Prometheus text format: these three, and it must be UTF-8.
    value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
