"""What the console is told: each column from its own place, without sockets."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.app import Bouncer
from bouncer.config.load import load
from bouncer.config.settings import Database
from bouncer.pool.evidence import Evidence
from bouncer.pool.registry import CONSOLE, DatabaseState
from bouncer.rows import Rows
from bouncer.snapshot import PoolRow, SocketRow

SECOND = 1_000_000
NOW, WALL = 1000 * SECOND, 5000 * SECOND

SETTINGS = """\
[pgbouncer]
auth_type = trust
listen_port = 7000
default_pool_size = 21
min_pool_size = 22
reserve_pool_size = 23
server_lifetime = 24
max_db_connections = 25
max_db_client_connections = 26
max_user_connections = 27
max_user_client_connections = 28
pool_mode = transaction
"""


def app_of(
    directory: Path, databases: str = "", users: str = "", peers: str = ""
) -> Any:
    """A pooler with this configuration, which does not run."""
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n{databases}\n[users]\n{users}\n[peers]\n{peers}\n{SETTINGS}"
    )
    return Bouncer(load(str(ini)), str(ini), None)


# Databases, users, peers


def test_database_shows_its_own_limits_else_the_general_ones(tmp_path: Path) -> None:
    app = app_of(
        tmp_path,
        "all = host=h,i port=1 dbname=real user=app pool_size=1 min_pool_size=2 "
        "reserve_pool_size=3 server_lifetime=4 pool_mode=session "
        "max_db_connections=5 max_db_client_connections=6 load_balance_hosts=disable\n"
        "none = host=h",
    )
    one = app.registry.databases["all"]
    one.server_count, one.client_count = 7, 8
    one.paused = one.disabled = True
    console, general, own = sorted(app.database_rows(), key=lambda row: -row.port)
    assert console.name == CONSOLE
    assert (console.port, console.pool_size, console.pool_mode) == (
        7000,
        2,
        "statement",
    )
    assert (console.min_pool_size, console.reserve_pool_size) == (0, 0)
    assert tuple(general) == (
        "none", "h", 5432, "none", None, 21, 22, 23, 24, None, None,
        25, 0, 26, 0, 0, 0,
    )  # fmt: skip
    assert tuple(own) == (
        "all", "h,i", 1, "real", "app", 1, 2, 3, 4, "session", "disable",
        5, 7, 6, 8, 1, 1,
    )  # fmt: skip


def test_user_shows_what_he_has_and_limits_that_count(tmp_path: Path) -> None:
    app = app_of(
        tmp_path,
        users="ann = pool_size=1 reserve_pool_size=2 pool_mode=session "
        "max_user_connections=3 max_user_client_connections=4",
    )
    for name, counts in (("ann", (5, 6)), ("bob", (7, 8))):
        user = app.registry.user(name)
        user.server_count, user.client_count = counts
    rows = {row.name: tuple(row)[1:] for row in app.user_rows()}
    assert rows["ann"] == (1, 2, "session", 3, 5, 4, 6)
    assert rows["bob"] == (None, None, None, 27, 7, 28, 8)
    assert list(rows) == sorted(rows)


def test_peer_shows_its_own_pool_size_even_none_else_the_general_one(
    tmp_path: Path,
) -> None:
    app = app_of(tmp_path, peers="2 = host=b port=7 pool_size=5\n1 = host=a\n"
                 "10 = host=c pool_size=0")  # fmt: skip
    assert [tuple(row) for row in app.peer_rows()] == [
        (1, "a", 6432, 21), (2, "b", 7, 5), (10, "c", 6432, 0)
    ]  # fmt: skip


# Connections and pools


class Line(list[Any]):
    @property
    def first(self) -> Any:
        return self[0] if self else None


LINES = (
    "clients", "waiting", "cancel_active", "cancel_waiting", "active", "active_cancel",
    "being_canceled", "idle", "used", "tested", "login",
)  # fmt: skip


class Pool:
    """A pool with one more in each line than in the one before."""

    def __init__(
        self, database: Any = None, user: str = "ann", lengths: Any = ()
    ) -> None:
        self.database = database or DatabaseState(Database("db", "db", host="h"))
        self.database_name, self.user_name = self.database.name, user
        self.database.pools[user] = self  # type: ignore[assignment]
        self.peer: Any = None
        self.evidence = Evidence()
        self.transactions, self.server_bytes, self.live_count = 1, 2, 3
        self.client_count = self.server_count = 1
        for name in LINES:
            setattr(self, name, Line())
        for name, length in zip(LINES, lengths, strict=False):
            getattr(self, name).extend(waiting(0) for _ in range(length))

    def servers(self) -> list[Any]:
        return [one for name in LINES[4:] for one in getattr(self, name)]


def waiting(seconds: float, query: float | None = None) -> Any:
    """A client that has waited since then; its query may have begun before."""
    return SimpleNamespace(
        wait_start=NOW - round(seconds * SECOND),
        query_start=0 if query is None else NOW - round(query * SECOND),
    )


def rows_of(*pools: Any, databases: Any = (), peers: Any = None, **more: Any) -> Rows:
    listed = list(pools)
    app = SimpleNamespace(
        poller=SimpleNamespace(clock=lambda: NOW, wall_clock=lambda: WALL),
        settings=SimpleNamespace(listen_port=7000),
        registry=SimpleNamespace(
            sorted_pools=lambda: listed,
            awake={one.name: one for one in databases},
            peers=peers or {},
        ),
        limits=SimpleNamespace(
            pool_mode=lambda pool: "transaction", database_pool_size=lambda database: 4
        ),
        logging_in={},
    )
    vars(app).update(more)
    return Rows(app)


def test_pool_counts_each_of_its_lines_in_its_own_column() -> None:
    pool = Pool(lengths=range(1, 12))
    (row,) = rows_of(pool).pool_rows()
    columns = (
        "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req",
        "sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used",
        "sv_tested", "sv_login",
    )  # fmt: skip
    assert [getattr(row, name) for name in columns] == list(range(1, 12))
    assert PoolRow._fields[2:13] == columns
    assert (row.database, row.user, row.pool_mode) == ("db", "ann", "transaction")


@pytest.mark.parametrize(
    ("first", "maxwait"),
    [(None, 0), (waiting(3), 3), (waiting(3, query=5), 5), (waiting(-1), 0)],
)
def test_longest_wait_is_counted_from_the_query_of_who_waits_longest(
    first: Any, maxwait: int
) -> None:
    """Put back into the queue, a client goes on waiting for the same."""
    pool = Pool()
    if first is not None:
        pool.waiting.extend([first, waiting(1)])  # type: ignore[attr-defined]
    (row,) = rows_of(pool).pool_rows()
    assert row.maxwait == maxwait * SECOND


@pytest.mark.parametrize(
    ("host", "shown"), [("h", None), ("h,i", "round-robin"), (None, None)]
)
def test_balance_is_shown_only_of_several_hosts(host: str | None, shown: Any) -> None:
    pool = Pool(DatabaseState(Database("db", "db", host=host)))
    (row,) = rows_of(pool).pool_rows()
    assert row.load_balance_hosts == shown


def stream(number: int, pool: Any, **state: Any) -> Any:
    """A connection: each field has a value of its own."""
    return SimpleNamespace(**{
        "pool": pool, "server": None, "client": None, "cancel_for": None,
        "closed": False, "is_unix": False, "user": "who", "state_name": "active",
        "state": 0, "replication": 0, "peer_address": "192.0.2.1", "peer_port": 11,
        "local_name": lambda: ("192.0.2.2", 12), "fd": 13,
        "connected_at": NOW - 9 * SECOND, "received_at": NOW - 7 * SECOND,
        "query_start": 0, "wait_start": NOW - 5 * SECOND, "close_needed": 0,
        "pointer": f"0x{number:x}", "peer_pid": 14, "backend_pid": 15,
        "tls_info": "",
        "tracked": None, "given_application_name": "given", "prepared_count": 16,
        "id": 17, "held_bytes": 18,
    } | state)  # fmt: skip


def test_client_shows_its_times_and_its_server() -> None:
    pool = Pool()
    server = stream(2, pool)
    client = stream(1, pool, server=server, query_start=NOW - 3 * SECOND, user=None)
    row = rows_of().client_row(client, "active", WALL - NOW)
    assert (row.connect_time, row.request_time) == (
        WALL - 9 * SECOND,
        WALL - 7 * SECOND,
    )
    assert (row.wait, row.ptr, row.link) == (3 * SECOND, 1, 2)
    assert (row.user, row.database, row.port, row.local_port) == (
        "(nouser)",
        "db",
        11,
        12,
    )
    assert (row.remote_pid, row.application_name) == (14, "given")
    assert (row.prepared_statements, row.id, row.pkt_avail) == (16, 17, 18)


@pytest.mark.parametrize(
    ("state", "query", "wait"),
    [("active", 0, 0), ("waiting", 0, 5), ("waiting", 3, 3), ("active", 3, 3)],
)
def test_client_waits_since_its_query_else_since_it_queued(
    state: str, query: int, wait: int
) -> None:
    client = stream(1, Pool(), query_start=NOW - query * SECOND if query else 0)
    row = rows_of().client_row(client, state, 0)
    assert row.wait == wait * SECOND


def test_client_that_has_no_pool_yet_has_no_database() -> None:
    row = rows_of().client_row(stream(1, None), "active", 0)
    assert row.database == "(nodb)"


def test_unix_connections_show_the_port_they_came_to() -> None:
    pool = Pool()
    row = rows_of().client_row(stream(1, pool, is_unix=True), "active", 0)
    assert (row.port, row.local_port) == (7000, 7000)
    row = rows_of().server_row(stream(1, pool, is_unix=True), "active", 0)
    assert (row.port, row.local_port) == (11, 7000)


def test_request_shows_the_connection_that_carries_it_and_the_other_way_about() -> None:
    pool = Pool()
    client = stream(1, pool)
    carrier, other = stream(2, pool, cancel_for=client), stream(3, pool)
    pool.active_cancel.extend([other, carrier])  # type: ignore[attr-defined]
    rows = rows_of(pool)
    assert rows.client_row(client, "active_cancel_req", 0).link == 2
    assert rows.client_row(client, "waiting_cancel_req", 0).link == 0
    assert rows.server_row(carrier, "active_cancel", 0).link == 1


def test_server_of_a_peer_has_no_user_and_no_database() -> None:
    pool = Pool()
    row = rows_of().server_row(stream(1, pool), "idle", 0)
    assert (row.user, row.database, row.remote_pid, row.wait) == ("ann", "db", 15, 0)
    pool.peer = object()
    row = rows_of().server_row(stream(1, pool), "idle", 0)
    assert (row.user, row.database) == ("(nouser)", "(nodb)")


def kinds(rows: Any) -> list[tuple[int, str]]:
    return [(row.ptr, row.state) for row in rows]


def test_every_connection_is_listed_once_and_closed_ones_are_not() -> None:
    pool, peer = Pool(), Pool(user="peer")
    peer.peer = object()
    for number, name in enumerate(LINES, 1):
        pool_line, peer_line = getattr(pool, name), getattr(peer, name)
        pool_line.append(stream(number, pool, state_name=name))
        peer_line.append(stream(100 + number, peer, state_name=name))
    pool.idle.append(stream(99, pool, closed=True))  # type: ignore[attr-defined]
    newcomers = {
        1: stream(50, None), 2: stream(51, None, state=1)
    }  # fmt: skip
    rows = rows_of(
        pool,
        peers={1: SimpleNamespace(pool=peer), 2: SimpleNamespace(pool=None)},
        logging_in=list(newcomers.values()),
    )
    assert kinds(rows.client_rows()) == [
        (1, "clients"), (2, "waiting"), (3, "cancel_active"), (4, "cancel_waiting"),
        (103, "cancel_active"), (104, "cancel_waiting"),
    ]  # fmt: skip
    assert sorted(row.ptr for row in rows.server_rows()) == [
        *range(5, 12), 106, 111
    ]  # fmt: skip
    assert kinds(rows.socket_rows()) == [
        (1, "cl_active"), (2, "cl_waiting"), (5, "sv_active"), (8, "sv_idle"),
        (9, "sv_used"), (10, "sv_tested"), (11, "sv_login"), (50, "cl_login"),
    ]  # fmt: skip
    assert all(isinstance(row, SocketRow) for row in rows.socket_rows())


# Health


def test_health_weighs_all_pools_of_a_database() -> None:
    database = DatabaseState(Database("db", "db"))
    one, two = Pool(database, "ann"), Pool(database, "bob")
    one.active.extend([object()])  # type: ignore[attr-defined]
    two.active.extend([object()] * 3)  # type: ignore[attr-defined]
    one.waiting.extend([waiting(2), waiting(1)])  # type: ignore[attr-defined]
    two.waiting.extend([waiting(1, query=6)])  # type: ignore[attr-defined]
    row = rows_of(databases=[database]).health_row(database)
    assert (row.servers, row.busiest) == (8, 0.75)
    assert (row.waiting, row.waited, row.live) == (3, 6.0, 6)
    assert row.finished == 2 * (1 + 2)
    database.past = tuple(range(100, 112))
    row = rows_of(databases=[database]).health_row(database)
    assert row.finished == 6 + 101 + 104


def test_health_is_about_configured_databases_and_named_ones() -> None:
    """What an automatic one is called, anybody can make up."""
    databases = [
        DatabaseState(Database(name, name), auto=name.startswith("auto"))
        for name in ("b", "auto1", "auto2", CONSOLE, "a")
    ]
    rows = rows_of(databases=databases).health_rows(["auto2", "none"])
    assert [row.name for row in rows] == ["a", "auto2", "b"]
