"""What becomes of databases, servers and waiting clients as time goes by."""

import contextlib
import subprocess
import threading
from typing import Any

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, rows

USERS = {"u_trust": "", "u_repl": "", "admin": "", "stats": "", "postgres": ""}
ANY = {"*": "{pg}"}


def names(one) -> set[str]:
    """The databases that SHOW DATABASES knows."""
    return {row["name"] for row in one.console("SHOW DATABASES")}


def test_autodb_idle_timeout_drops_a_database_that_nobody_uses(pooler):
    one = pooler(
        {"autodb_idle_timeout": 0.5, "server_idle_timeout": 0.2}, databases=ANY
    )
    with one.connect("p0") as client, one.connect("p1") as leaver:
        client.execute("select 1")
        leaver.execute("select 1")
        leaver.close()
        assert names(one) >= {"p0", "p1"}
        one.wait_for_log("dropping database 'p1'")
        assert wait_for(lambda: "p1" not in names(one), 5)
        # p0 has a client still, and stays.
        assert "p0" in names(one)
        assert client.execute("select 2").fetchone() == (2,)
        # Whoever asks again gets a new one.
        with one.connect("p1") as again:
            assert again.execute("select 3").fetchone() == (3,)
    one.wait_for_log("registered new auto-database: p1", 2)


def test_autodb_idle_timeout_spares_a_database_with_a_server(pooler):
    one = pooler(
        {"autodb_idle_timeout": 0.3, "pool_mode": "transaction"}, databases=ANY
    )
    with one.connect("p0") as client:
        client.execute("select 1")
    with one.connect("p1") as client:
        client.execute("select 1")
    # Both keep their idle server; only the one without it goes.
    one.console("KILL p0")
    one.console("RESUME p0")
    one.wait_for_log("dropping database 'p0'")
    assert "p1" in names(one)


@pytest.mark.parametrize("fast", [0, 1])
def test_server_fast_close_takes_servers_from_idle_session_clients(pooler, fast):
    one = pooler({"pool_mode": "session", "server_fast_close": fast})
    with one.connect() as idle, one.connect() as busy:
        idle.execute("select 1")
        busy.execute("begin")
        one.console("RECONNECT")
        if fast:
            one.wait_for_log("closing because: database configuration changed")
            with pytest.raises(psycopg.OperationalError):
                idle.execute("select 1")
        else:
            assert idle.execute("select 1").fetchone() == (1,)
        # A transaction is never cut.
        assert busy.execute("select 2").fetchone() == (2,)
        busy.execute("commit")
        if fast:
            with contextlib.suppress(psycopg.OperationalError):
                wait_for(lambda: busy.execute("select 3") is None, 30)
            assert busy.closed
        else:
            assert busy.execute("select 3").fetchone() == (3,)


@pytest.mark.parametrize(("delay", "is_checked"), [(0.2, True), (30, False)])
def test_server_check_delay_says_how_long_a_server_is_trusted(
    pooler, postgres, delay, is_checked
):
    """A check query with an effect: it counts."""
    postgres.rows("drop sequence if exists checks; create sequence checks")
    postgres.rows("grant all on checks to public")
    one = pooler(
        {
            "pool_mode": "transaction",
            "server_check_delay": delay,
            "server_check_query": "select nextval('checks')",
        }
    )
    called = "select is_called from checks"
    with one.connect() as client:
        client.execute("select 1")
        if is_checked:
            one.wait_for_pool(lambda row: row["sv_used"] == 1)
        assert client.execute("select 2").fetchone() == (2,)
        assert postgres.rows(called) == [{"is_called": is_checked}]


def test_server_that_does_not_survive_its_check_is_replaced(pooler):
    ini = {"pool_mode": "transaction", "server_check_delay": 0.2}
    suicide = "select pg_terminate_backend(pg_backend_pid())"
    one = pooler({**ini, "server_check_query": suicide})
    with one.connect() as client:
        pid = "select pg_backend_pid()"
        before = client.execute(pid).fetchone()
        one.wait_for_pool(lambda row: row["sv_used"] == 1)
        # The client is given a new one, whose first use is unchecked.
        assert client.execute(pid).fetchone() != before


def test_query_wait_notify_tells_the_client_that_it_waits(pooler):
    ini = {"pool_mode": "transaction", "default_pool_size": 1, "query_wait_notify": 1}
    one = pooler(ini)
    heard: list[str | None] = []
    with one.connect() as holder, one.connect() as waiter:
        waiter.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        holder.execute("begin")
        answer: list[Any] = []
        waiting = threading.Thread(
            target=lambda: answer.append(waiter.execute("select 'served'").fetchone())
        )
        waiting.start()
        assert wait_for(lambda: heard, 10)
        holder.execute("commit")
        waiting.join(10)
        assert answer == [("served",)]
        # Once per wait.
        assert heard == [
            "No server connection available in postgres backend, client being queued"
        ]


def test_track_extra_parameters_follow_their_client(pooler):
    """Reported parameters follow; with one server, every query has to set them."""
    ini = {"pool_mode": "transaction", "default_pool_size": 1}
    one = pooler({**ini, "track_extra_parameters": "IntervalStyle"})
    sql = "select interval '1 day 2 hours'::text"
    with FakeClient(one.port) as first, FakeClient(one.port) as second:
        first.login("p0", "u_trust")
        second.login("p0", "u_trust")
        first.ask("set intervalstyle to 'iso_8601'")
        second.ask("set intervalstyle to 'sql_standard'")
        for _ in range(3):
            assert rows(first.ask(sql)) == [["P1DT2H"]]
            assert rows(second.ask(sql)) == [["1 2:00:00"]]


def test_max_user_connections_evicts_an_idle_server_of_another_database(
    pooler, postgres
):
    one = pooler({"pool_mode": "transaction", "max_user_connections": 1})
    with one.connect("p0") as first, one.connect("p1") as second:
        for _ in range(2):
            for client in (first, second):
                assert client.execute("select 1").fetchone() == (1,)
                alive = [r for r in one.console("SHOW SERVERS") if r["user"]]
                assert len(alive) == 1
    one.wait_for_log("closing because: evicted", 3)


def stream(lab, one, slot: str) -> subprocess.Popen[str]:
    """A pg_recvlogical that listens until it is ended."""
    where = one.conninfo("p0", "u_repl")
    command = [lab.program("pg_recvlogical"), "-d", where, "--slot", slot, "--start"]
    return subprocess.Popen(
        [*command, "-f", "-", "--no-loop"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def slot(postgres):
    """A logical slot, dropped after the test."""
    postgres.rows("select pg_create_logical_replication_slot('life', 'test_decoding')")
    yield "life"
    active = "select slot_name from pg_replication_slots where active"
    assert wait_for(lambda: not postgres.rows(active), 10)
    postgres.rows("select pg_drop_replication_slot('life')")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("query_timeout", "query timeout"),
        ("transaction_timeout", "transaction timeout"),
    ],
)
def test_timeouts_end_replication_streams(pooler, lab, slot, setting, reason):
    one = pooler({setting: 1}, users=USERS)
    receiver = stream(lab, one, slot)
    try:
        _, said = receiver.communicate(timeout=20)
    finally:
        receiver.kill()
        receiver.wait()
    assert reason in said
    one.wait_for_log(f"closing because: {reason}")


def test_replication_stream_counts_for_the_limits(pooler, lab, slot):
    ini = {"pool_mode": "transaction", "max_db_connections": 1}
    one = pooler(ini, users=USERS)
    receiver = stream(lab, one, slot)
    try:
        one.wait_for_pool(lambda row: row["sv_active"] == 1, user="u_repl")
        answer: list[Any] = []

        def ask() -> None:
            with one.connect() as client:
                answer.append(client.execute("select 1").fetchone())

        waiting = threading.Thread(target=ask)
        waiting.start()
        one.wait_for_pool(lambda row: row["cl_waiting"] == 1)
        # The stream is nobody's to evict; when it ends there is room at once.
        receiver.terminate()
        waiting.join(10)
        assert answer == [(1,)]
    finally:
        receiver.kill()
        receiver.communicate()
    assert not one.log_matches("evicted")
