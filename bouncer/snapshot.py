"""Frozen rows: what readers (console, metrics, dashboards) see of the running state.

The one hard idea: a row holds raw values in the order of the console's columns, and
whoever shows it does the formatting. So a row costs its maker one tuple, which is
what 10 000 clients on a busy loop can afford, and every reader formats as it needs.

Units, for all rows:
- points in time: `int`, microseconds of wall clock since 1970-01-01 UTC; 0 = unset;
- waits and other durations: `int`, microseconds, unless a field says seconds;
- settings that are times (`server_lifetime`): `float` or `int`, seconds;
- flags: `bool` or `int` 0/1; addresses of objects (`ptr`, `link`): `int`, 0 = none;
- `None` is SQL NULL and stands only where a field's type allows it.

Fields are positional: makers in compiled code may build the tuples with `_make`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class HealthRow(NamedTuple):
    """One database, as health sees it; the fields are `ha.view.DatabaseFacts`'."""

    name: str
    paused: bool
    disabled: bool
    finished: int
    answered_ago: float | None
    failing_for: float | None
    failed_ago: float | None
    servers: int
    busiest: float
    waiting: int
    waited: float
    live: int
    failure: dict[str, str | float] | None


class SocketRow(NamedTuple):
    """One connection, client or server (SHOW CLIENTS, SERVERS, SOCKETS).

    CLIENTS and SERVERS show the fields up to *id*; the seven buffer positions
    belong to SOCKETS and may stay 0 for the other two.
    """

    type: str  # "C" client, "S" server
    user: str  # "(nouser)" when unknown
    database: str  # "(nodb)" in the login phase and for peer pools
    replication: str  # "none", "logical", "physical"
    state: str  # the word of the command asked for: see stats.md section 5 and 6
    addr: str  # remote address, "unix" for a Unix socket
    port: int
    local_addr: str  # "unix" for a Unix socket
    local_port: int
    connect_time: int  # wall clock, us; 0 shows as now
    request_time: int  # wall clock, us: last message received; 0 shows as now
    wait: int  # us since the current query started; 0 when idle and for servers
    close_needed: int  # 0 or 1
    ptr: int
    link: int  # ptr of the partner, 0 = none
    remote_pid: int
    tls: str  # "" or "TLSv1.3/TLS_AES_256_GCM_SHA384"
    application_name: str
    prepared_statements: int
    id: int
    recv_pos: int = 0
    pkt_pos: int = 0
    pkt_remain: int = 0
    send_pos: int = 0
    send_remain: int = 0
    pkt_avail: int = 0
    send_avail: int = 0


# The same shape on purpose: SHOW SOCKETS lists both kinds.
ClientRow = SocketRow
ServerRow = SocketRow


class FailureRow(NamedTuple):
    """The newest attempt of a pool at a server that came to nothing."""

    database: str
    user: str
    host: str
    address: str | None
    reason: str  # PgBouncer's word
    error: str
    code: str | None  # the name of an errno, or an SQLSTATE
    duration_ms: float
    age: float  # seconds


class PoolRow(NamedTuple):
    """One pool: a database and a user (SHOW POOLS)."""

    database: str
    user: str  # the forced user, if the database has one
    cl_active: int
    cl_waiting: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active: int
    sv_active_cancel: int
    sv_being_canceled: int
    sv_idle: int
    sv_used: int
    sv_tested: int
    sv_login: int
    maxwait: int  # us, whole: the console splits it into maxwait and maxwait_us
    pool_mode: str  # effective
    load_balance_hosts: str | None  # only with several hosts


class DatabaseRow(NamedTuple):
    """One database entry (SHOW DATABASES)."""

    name: str
    host: str | None  # as configured, the whole list; None = Unix socket
    port: int
    database: str  # the real name
    force_user: str | None
    pool_size: int  # effective, like the next two
    min_pool_size: int
    reserve_pool_size: int
    server_lifetime: float  # effective, seconds
    pool_mode: str | None  # the entry's own
    load_balance_hosts: str | None  # only with several hosts
    max_connections: int  # effective max_db_connections
    current_connections: int
    max_client_connections: int  # effective max_db_client_connections
    current_client_connections: int
    paused: int
    disabled: int


class UserRow(NamedTuple):
    """One known user (SHOW USERS)."""

    name: str
    pool_size: int | None  # own setting or None
    reserve_pool_size: int | None  # own setting or None
    pool_mode: str | None  # own setting
    max_user_connections: int  # effective
    current_connections: int
    max_user_client_connections: int  # effective
    current_client_connections: int


class PeerRow(NamedTuple):
    """One configured peer (SHOW PEERS)."""

    peer_id: int
    host: str
    port: int
    pool_size: int  # effective


class PeerPoolRow(NamedTuple):
    """Cancel requests on their way to a peer (SHOW PEER_POOLS)."""

    peer_id: int
    cl_active_cancel_req: int
    cl_waiting_cancel_req: int
    sv_active_cancel: int
    sv_login: int


class StatsRow(NamedTuple):
    """Counters and averages of one database, summed over its pools (SHOW STATS).

    The totals count since the pools were made; times in us. The averages are the
    truncated integers of stats.md section 3: per second, or us per transaction,
    query, assignment.
    """

    database: str
    total_server_assignment_count: int
    total_xact_count: int
    total_query_count: int
    total_received: int
    total_sent: int
    total_xact_time: int
    total_query_time: int
    total_wait_time: int
    total_client_parse_count: int
    total_server_parse_count: int
    total_bind_count: int
    total_client_login_count: int
    avg_server_assignment_count: int
    avg_xact_count: int
    avg_query_count: int
    avg_recv: int
    avg_sent: int
    avg_xact_time: int
    avg_query_time: int
    avg_wait_time: int
    avg_client_parse_count: int
    avg_server_parse_count: int
    avg_bind_count: int
    avg_client_login_count: int


class FdRow(NamedTuple):
    """One descriptor to hand over in an online restart (SHOW FDS)."""

    fd: int
    task: str  # "pooler", "client", "server"
    user: str | None
    database: str | None
    addr: str
    port: int
    cancel: int  # the 8 key bytes as one unsigned big-endian number; 0 for poolers
    link: int  # fd of the partner, 0 = none
    client_encoding: str | None
    std_strings: str | None
    datestyle: str | None
    timezone: str | None
    password: str | None  # only of users from auth_query or PAM
    scram_client_key: bytes | None
    scram_server_key: bytes | None


def unsigned(bits: int) -> Callable[[str], int]:
    """What reads a number of so many bits; ValueError: it is none."""

    def read(text: str) -> int:
        value = int(text)
        if not 0 <= value < 1 << bits:
            raise ValueError(f"not a number of {bits} bits: {text}")
        return value

    return read


def cancel_of(text: str) -> int:
    """The 8 bytes of a cancel key, told as an int8 or without a sign."""
    value = int(text)
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"not a number of 64 bits: {text}")
    return value % (1 << 64)


def task_of(text: str) -> str:
    """Which kind of socket a row is about."""
    if text not in ("pooler", "client", "server"):
        raise ValueError(f"unknown task: {text}")
    return text


def key_of(text: str) -> bytes:
    r"""A SCRAM key, which comes as \x and hexadecimal digits."""
    key = bytes.fromhex(text.removeprefix("\\x"))
    if len(key) != SCRAM_KEY:
        raise ValueError(f"a key of {len(key)} bytes")
    return key


SCRAM_KEY = 32  # bytes: those of SHA-256
REQUIRED = object()  # an absent value is not understood


class FdColumn(NamedTuple):
    """How one column of SHOW FDS is shown, and how the next process reads it."""

    name: str
    kind: str  # of its type: i int4, q int8, t text, b bytea
    read: Callable[[str], Any] = str
    absent: Any = None  # what NULL or nothing means

    def value(self, text: str | None) -> Any:
        """The value that was told; ValueError: none that makes sense."""
        if text:
            return self.read(text)
        if self.absent is REQUIRED:
            raise ValueError(f"no {self.name}")
        return self.absent


# The fields of FdRow, in their order: an online restart's table of what is told to
# any process, as `bouncer.relay.carried` is of what one of ours tells another.
FD_COLUMNS = (
    FdColumn("fd", "i", unsigned(31), REQUIRED),
    FdColumn("task", "t", task_of, REQUIRED),
    FdColumn("user", "t"),
    FdColumn("database", "t"),
    FdColumn("addr", "t", absent="unix"),
    FdColumn("port", "i", unsigned(16), 0),
    FdColumn("cancel", "q", cancel_of, 0),
    FdColumn("link", "i", unsigned(31), 0),
    FdColumn("client_encoding", "t"),
    FdColumn("std_strings", "t"),
    FdColumn("datestyle", "t"),
    FdColumn("timezone", "t"),
    FdColumn("password", "t"),
    FdColumn("scram_client_key", "b", key_of),
    FdColumn("scram_server_key", "b", key_of),
)
# Parameters that stand in columns: the column's name, the parameter's.
FD_PARAMETERS = {
    "client_encoding": "client_encoding",
    "std_strings": "standard_conforming_strings",
    "datestyle": "DateStyle",
    "timezone": "TimeZone",
}


class MemRow(NamedTuple):
    """One kind of internal object (SHOW MEM); memtotal is size * (used + free)."""

    name: str
    size: int  # bytes of one
    used: int
    free: int


class DnsHostRow(NamedTuple):
    """One cached name (SHOW DNS_HOSTS)."""

    hostname: str
    ttl: int  # seconds left, 0 when over
    addrs: tuple[str, ...]  # bare addresses, empty for a name that failed


class DnsZoneRow(NamedTuple):
    """One zone of cached names (SHOW DNS_ZONES)."""

    zonename: str
    serial: int
    count: int  # type: ignore[assignment]
