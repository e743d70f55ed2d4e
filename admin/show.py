"""What every SHOW answers: columns, their types, their order, how values look.

The one hard idea: rows come raw (bouncer/snapshot.py) and may come lazily. Each
topic is a list of columns and a generator that turns raw rows into values, so that
the talk can make 10 000 rows a slice at a time. Columns are interface: positional
readers and strict readers exist, so nothing is ever added, dropped or moved.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from admin import parameters
from admin.encode import Column, Value, columns
from bouncer import COMPATIBLE_VERSION, __version__, carry
from bouncer.config.params import OURS, PARAMS, ROWS
from bouncer.config.settings import config_rows
from bouncer.relay import checked
from bouncer.snapshot import (
    FD_COLUMNS,
    FdRow,
    PoolRow,
    SocketRow,
    StatsRow,
    UserRow,
)
from bouncer.wire import digest

# The application as the console sees it (bouncer/contracts.py; duck-typed).
App = Any
Row = Sequence[Value]

MILLION: Final = 1_000_000

CONSOLE: Final = "pgbouncer"


@dataclass(frozen=True, slots=True)
class Topic:
    """One SHOW: its columns and its rows.

    *rows* gets the application and the id of the asking client. *admin_only* is
    SHOW FDS. *table* says that SELECT may read it.
    """

    shape: tuple[Column, ...]
    rows: Callable[[App, int], Iterable[Row]]
    admin_only: bool = False
    table: bool = True


class Stamps(dict[int, str]):
    """Time stamps by second, in the process's local time zone."""

    def __missing__(self, second: int) -> str:
        text = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(second))
        self[second] = text
        return text


# Connections


def _sockets(rows: Iterable[SocketRow], width: int) -> Iterator[Row]:
    """Show connections; *width* counts the fields of a `SocketRow` that appear."""
    stamps = Stamps()
    now = int(time.time())
    for row in rows:
        begun, asked, wait = row[9:12]
        ptr, link = row[13], row[14]
        yield (
            *row[:9],
            stamps[begun // MILLION if begun else now],
            stamps[asked // MILLION if asked else now],
            *divmod(wait, MILLION),
            row[12],
            hex(ptr),
            hex(link) if link else "",
            *row[15:width],
        )


_SHORT: Final = 20
_LONG: Final = 27


def _clients(app: App, asking: int) -> Iterator[Row]:
    return _sockets(app.client_rows(), _SHORT)


def _servers(app: App, asking: int) -> Iterator[Row]:
    return _sockets(app.server_rows(), _SHORT)


def _all_sockets(app: App, asking: int) -> Iterator[Row]:
    return _sockets(app.socket_rows(), _LONG)


def _active_sockets(app: App, asking: int) -> Iterator[Row]:
    # The asking console's own query lies in its buffer while it is answered.
    rows = (row for row in app.socket_rows() if row.pkt_avail or row.id == asking)
    return _sockets(rows, _LONG)


def _fds(app: App, asking: int) -> Iterator[Row]:
    rows: Iterable[FdRow] = app.fds()
    return iter(rows)


# Pools, databases, users, peers


def _pools(app: App, asking: int) -> Iterator[Row]:
    rows: Iterable[PoolRow] = app.pool_rows()
    for row in rows:
        yield (*row[:13], *divmod(row.maxwait, MILLION), *row[14:])


def _databases(app: App, asking: int) -> Iterator[Row]:
    for row in app.database_rows():
        yield (*row[:8], int(row.server_lifetime), *row[9:15], *map(int, row[15:]))


def _users(app: App, asking: int) -> Iterator[Row]:
    """Show users; a size that a user does not have is empty."""
    row: UserRow
    for row in app.user_rows():
        size, reserve = (
            "" if value is None else f"{value:9d}"
            for value in (row.pool_size, row.reserve_pool_size)
        )
        yield (row.name, size, reserve, *row[3:])


def _plain(method: str) -> Callable[[App, int], Iterable[Row]]:
    """Show the rows of one method of the application as they are."""

    def rows(app: App, asking: int) -> Iterable[Row]:
        found: Iterable[Row] = getattr(app, method)()
        return found

    return rows


# Statistics

# Fields of a StatsRow: the database, 12 totals, 12 averages. The last of each came with
# 1.26.
_AVERAGES: Final = 13


def _stats_totals(app: App, asking: int) -> Iterator[Row]:
    return (row[:_AVERAGES] for row in app.stats())


def _stats_averages(app: App, asking: int) -> Iterator[Row]:
    return ((row.database, *row[_AVERAGES:]) for row in app.stats())


_COUNTERS: Final = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
)
_TOTAL_NAMES: Final = [
    f"{kind}_{name}" for kind in ("total", "avg") for name in _COUNTERS
]


def _totals(app: App, asking: int) -> Iterator[Row]:
    total: StatsRow = app.stats_total()
    return zip(_TOTAL_NAMES, total[1:], strict=True)


# The process


def _version(app: App, asking: int) -> Iterator[Row]:
    text = f"PgBouncer {COMPATIBLE_VERSION}"
    client = client_of(app, asking)
    if client is not None and carry.is_ours(client):
        # A PgBouncer of that version cannot hand over; we can, and say who we are.
        text = f"{text} pybouncer {__version__}"
    yield (text,)


def _state(app: App, asking: int) -> Iterator[Row]:
    mode = app.global_mode
    yield ("active", "yes" if mode == "none" else "no")
    yield ("paused", "yes" if mode == "pause" else "no")
    if mode == "suspend":  # which PgBouncer has no longer
        yield ("suspended", "yes")


def _pybouncer(app: App, asking: int) -> Iterator[Row]:
    """Show what we are, and the settings of our own: value, default, where, how."""
    uptime = max(int(time.time()) - app.started_at // MILLION, 0)
    for key, value in (
        ("version", __version__),
        ("build", "debug" if checked.is_debug() else "release"),
        ("uptime", str(uptime)),
        ("tls", ssl.OPENSSL_VERSION),
        # "Python": this interpreter's libcrypto is out of reach, logins cost more.
        ("sha256", digest.provider()),
    ):
        yield (key, value, None, None, None)
    for param in ROWS:
        if param.section == OURS:
            changed = "RELOAD" if param.reload else "restart"
            source = app.config.sources.get(param.name)
            shown = app.settings.show(param.name)
            yield (param.name, shown, param.default, source, changed)
    own = app.config.own
    for section, lines in (("databases", own.databases), ("users", own.users)):
        for line in lines.values():
            for name, value in line.values.items():
                param = PARAMS[name]
                key = f"{section}.{line.name}.{name}"
                yield (key, param.show(value), param.default, line.source, "RELOAD")


def _config(app: App, asking: int) -> Iterable[Row]:
    return config_rows(app.settings, app.config.sources)


def _mem(app: App, asking: int) -> Iterator[Row]:
    for row in app.mem():
        yield (*row, row.size * (row.used + row.free))


def _dns_hosts(app: App, asking: int) -> Iterator[Row]:
    for row in app.dns_hosts():
        yield (row.hostname, row.ttl, ",".join(map(_address, row.addrs)))


def _address(address: str) -> str:
    return f"[{address}]:0" if ":" in address else f"{address}:0"


_SOCKET: Final = (
    "t: type user database replication state addr i: port t: local_addr "
    "i: local_port t: connect_time request_time i: wait wait_us close_needed "
    "t: ptr link i: remote_pid t: tls application_name i: prepared_statements id"
)
_BUFFERS: Final = (
    " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
)
_COUNTS: Final = (
    "t: database n: server_assignment_count xact_count query_count bytes_received "
    "bytes_sent xact_time query_time wait_time "
)

TOPICS: Final[dict[str, Topic]] = {
    "CLIENTS": Topic(columns(_SOCKET), _clients),
    "SERVERS": Topic(columns(_SOCKET), _servers),
    "SOCKETS": Topic(columns(_SOCKET + _BUFFERS), _all_sockets),
    "ACTIVE_SOCKETS": Topic(columns(_SOCKET + _BUFFERS), _active_sockets),
    "POOLS": Topic(
        columns(
            "t: database user i: cl_active cl_waiting cl_active_cancel_req "
            "cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled "
            "sv_idle sv_used sv_tested sv_login maxwait maxwait_us t: pool_mode "
            "load_balance_hosts"
        ),
        _pools,
    ),
    "PEER_POOLS": Topic(
        columns(
            "i: peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel "
            "sv_login"
        ),
        _plain("peer_pool_rows"),
    ),
    "DATABASES": Topic(
        columns(
            "t: name host i: port t: database force_user i: pool_size min_pool_size "
            "reserve_pool_size server_lifetime t: pool_mode load_balance_hosts "
            "i: max_connections current_connections max_client_connections "
            "current_client_connections paused disabled"
        ),
        _databases,
    ),
    "USERS": Topic(
        columns(
            "t: name pool_size reserve_pool_size pool_mode i: max_user_connections "
            "current_connections max_user_client_connections "
            "current_client_connections"
        ),
        _users,
    ),
    "PEERS": Topic(
        columns("i: peer_id t: host i: port pool_size"), _plain("peer_rows")
    ),
    "LISTS": Topic(columns("t: list i: items"), _plain("lists")),
    "STATS": Topic(
        columns("t: database n: " + " ".join(StatsRow._fields[1:])), _plain("stats")
    ),
    "STATS_TOTALS": Topic(
        columns(
            _COUNTS
            + "client_parse_count server_parse_count bind_count client_login_count"
        ),
        _stats_totals,
    ),
    "STATS_AVERAGES": Topic(
        columns(
            _COUNTS + "avg_client_parse_count avg_server_parse_count avg_bind_count "
            "avg_client_login_count"
        ),
        _stats_averages,
    ),
    "TOTALS": Topic(columns("t: name n: value"), _totals),
    "CONFIG": Topic(columns("t: key value default changeable"), _config),
    "STATE": Topic(columns("t: key value"), _state),
    "MEM": Topic(columns("t: name i: size used free memtotal"), _mem),
    "DNS_HOSTS": Topic(columns("t: hostname q: ttl t: addrs"), _dns_hosts),
    "DNS_ZONES": Topic(columns("t: zonename q: serial i: count"), _plain("dns_zones")),
    "VERSION": Topic(columns("t: version"), _version, table=False),
    "PYBOUNCER": Topic(
        columns("t: key value default source changeable"), _pybouncer, table=False
    ),
    "FDS": Topic(
        columns(" ".join(f"{one.kind}: {one.name}" for one in FD_COLUMNS)),
        _fds,
        admin_only=True,
        table=False,
    ),
}

# With `show_columns = 1.25`, for tools that read by position or know all names: what
# they were before logins were counted. SELECT has all columns.
OLD_COLUMNS: Final = "1.25"
_LOGIN_COUNT: Final = "client_login_count"


def _without_logins(topic: Topic) -> Topic:
    """Leave out the columns that count logins."""
    kept = [at for at, one in enumerate(topic.shape) if _LOGIN_COUNT not in one.name]

    def rows(app: App, asking: int) -> Iterator[Row]:
        return ([row[at] for at in kept] for row in topic.rows(app, asking))

    return replace(topic, shape=tuple(topic.shape[at] for at in kept), rows=rows)


def _old_totals(app: App, asking: int) -> Iterator[Row]:
    return (row for row in _totals(app, asking) if _LOGIN_COUNT not in str(row[0]))


BEFORE_LOGINS: Final = {
    name: _without_logins(TOPICS[name])
    for name in ("STATS", "STATS_TOTALS", "STATS_AVERAGES")
} | {"TOTALS": replace(TOPICS["TOTALS"], rows=_old_totals)}

# SELECT calls what SHOW writes as a padded, repeated text by its true values.
FAILURES_TABLE: Final = Topic(
    columns("t: database user host address reason error code f: duration_ms age"),
    _plain("failure_rows"),
)
USERS_TABLE: Final = Topic(
    columns(
        "t: name i: pool_size reserve_pool_size t: pool_mode i: max_user_connections "
        "current_connections max_user_client_connections current_client_connections"
    ),
    _plain("user_rows"),
)

_USAGE: Final = """
SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
SHOW PEERS|PEER_POOLS
SHOW SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
SHOW DNS_HOSTS|DNS_ZONES
SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
SET key = arg
RELOAD
PAUSE [<db>]
RESUME [<db>]
DISABLE <db>
ENABLE <db>
RECONNECT [<db>]
KILL [<db>]
KILL_CLIENT <client_id>
SHUTDOWN
SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
WAIT_CLOSE [<db>]"""
# What only we have: PgBouncer's own list stays as it is.
_OURS: Final = """
SHOW PYBOUNCER
SHOW PYBOUNCER HELP
SHOW HAPROXY
SHOW FDS
SUSPEND
SELECT <columns> FROM clients|servers|pools|stats|databases|users|config \
[WHERE ...] [GROUP BY ...] [ORDER BY ...] [LIMIT n]
any SHOW with rows, except FDS, PYBOUNCER and VERSION, is such a table"""

HELP: Final = _USAGE.replace("\n", "\n\t")
HELP_OF_OURS: Final = _OURS.replace("\n", "\n\t")


def topic_of(name: str, app: App) -> Topic | None:
    """Find what SHOW *name* shows, in any case; None when there is no such thing."""
    topic = TOPICS.get(name.upper())
    if topic is not None:
        old = app.settings.show_columns == OLD_COLUMNS
        return BEFORE_LOGINS.get(name.upper(), topic) if old else topic
    # What drivers ask for by themselves.
    known = name.lower()
    if known not in parameters.ALL:
        return None

    def rows(app: App, asking: int) -> Iterable[Row]:
        return [(parameters.value_of(known, client_of(app, asking)),)]

    return Topic((Column(known),), rows, table=False)


def client_of(app: App, asking: int) -> Any:
    """The client that asks."""
    for console in app.consoles.values():
        session = console.sessions.get(asking)
        if session is not None:
            return session.client
    return None
