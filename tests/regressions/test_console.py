"""Console, statistics and logs: scenarios 116 to 121."""

import random
import re
import time
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.regressions.steps import clients, show, told
from tests.replay.pooler import wait_for
from tests.support.checker import Crew
from tests.support.wire import FakeClient, FakeServer, ServerTalk, query, rows

TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


def counters(one: Any, database: str = "p0") -> dict[str, int]:
    """The totals of one database."""
    row = show(one, "STATS", database=database)
    return {k: int(v) for k, v in row.items() if k.startswith("total_")}


@pytest.mark.regression(116)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_statistics_are_those_of_a_known_workload(
    pooler: Any, postgres: Any, mode: str
) -> None:
    """A session that lasts is not one transaction, and its times do not pile up."""
    one = pooler({"pool_mode": mode}, databases={"p0": "{pg} dbname=bench"})
    sql = (
        "select xact_commit + xact_rollback as n from pg_stat_database"
        " where datname = 'bench'"
    )
    with clients(one, 1) as (client,):
        client.ask("select 1")  # the connection and its login are through
        client.ask("select pg_stat_force_next_flush()")
        client.ask("select 1")
        at_first, there_first = counters(one), postgres.rows(sql)[0]["n"]
        sent = query("select 'x'")
        for _ in range(20):
            client.send_bytes(sent)
            client.until_ready()
        client.ask("begin")
        client.ask("select pg_sleep(0.2)")
        client.ask("select 1; select 2")
        client.ask("commit")
        client.ask("select nothing")
        for _ in range(5):
            client.send(
                {"type": "Parse", "sql": "select 1"},
                {"type": "Bind"},
                {"type": "Execute"},
                {"type": "Sync"},
            )
            client.until_ready()  # what is pipelined counts as one, as in PgBouncer
        found = counters(one)
        done = {name: found[name] - at_first[name] for name in found}
        client.ask("select pg_stat_force_next_flush()")
        client.ask("select 1")
        assert wait_for(lambda: postgres.rows(sql)[0]["n"] - there_first >= 27, 5)
    assert done["total_xact_count"] == 20 + 1 + 1 + 5
    # Each simple query counts, whatever is in it, and each unit up to its Sync.
    assert done["total_query_count"] == 20 + 4 + 1 + 5
    assert done["total_received"] >= 20 * len(sent)
    assert done["total_sent"] > done["total_received"]
    assert 200_000 <= done["total_xact_time"] < 30_000_000
    assert 200_000 <= done["total_query_time"] <= done["total_xact_time"]
    assert done["total_wait_time"] < 10_000_000
    if mode == "session":
        assert done["total_server_assignment_count"] == 0
    else:
        assert 23 <= done["total_server_assignment_count"] <= 27


@pytest.mark.regression(116)
def test_averages_are_per_second_of_stats_period(pooler: Any) -> None:
    one = pooler({**TRANSACTION, "stats_period": 1})
    with clients(one, 1) as (client,):

        def is_shown(seconds: float = 2.5) -> bool:
            """Ask for a while; whether the rate is what is shown of the last second."""
            began, asked = time.monotonic(), 0
            while (took := time.monotonic() - began) < seconds:
                for _ in range(5):
                    client.ask("select 1")
                asked += 5
                time.sleep(0.02)
            shown = int(show(one, "STATS", database="p0")["avg_query_count"])
            return 0.3 * asked / took < shown < 3 * asked / took

        # A busy machine may give nobody anything for most of a second.
        assert any(is_shown() for _ in range(5))
        row = show(one, "STATS", database="p0")
        assert 0 < int(row["avg_query_time"]) < 5_000_000
        # One period later nobody has asked any more.
        assert wait_for(
            lambda: int(show(one, "STATS", database="p0")["avg_query_count"]) == 0, 5
        )


@pytest.mark.regression(117)
def test_every_show_passes_while_clients_are_served(pooler: Any) -> None:
    """The big one, with 10 000 clients, stands in tests/live/test_soak.py."""
    one = pooler({**TRANSACTION, "max_client_conn": 1000})
    topics = [
        "CLIENTS", "SERVERS", "SOCKETS", "ACTIVE_SOCKETS", "POOLS", "STATS",
        "STATS_TOTALS", "STATS_AVERAGES", "TOTALS", "LISTS", "MEM", "USERS",
        "DATABASES", "PEERS", "PEER_POOLS", "CONFIG", "STATE", "VERSION", "HELP",
        "DNS_HOSTS", "DNS_ZONES",
    ]  # fmt: skip
    with clients(one, 300), Crew(one.port, 3, 117) as crew:
        with FakeClient(one.port) as console:
            console.login("pgbouncer", "admin", "adminpass")
            for topic in topics * 3:
                assert told(console.ask(f"SHOW {topic}")) is None
    assert not crew.wrong
    assert crew.answered


@pytest.mark.regression(118)
def test_every_answer_is_well_formed(pooler: Any) -> None:
    """Columns as announced, a tag, a ReadyForQuery; also in the extended protocol."""
    one = pooler(TRANSACTION)
    with FakeClient(one.port) as console, clients(one, 1):
        console.login("pgbouncer", "admin", "adminpass")
        for topic in ("HELP", "VERSION", "POOLS", "CLIENTS", "STATS", "CONFIG", "FOO"):
            console.send_bytes(query(f"SHOW {topic}"))
            simple = console.until_ready()
            console.send(
                {"type": "Parse", "sql": f"SHOW {topic}"},
                {"type": "Bind"},
                {"type": "Describe", "kind": "P"},
                {"type": "Execute"},
                {"type": "Sync"},
            )
            extended = console.until_ready()
            for got in (simple, extended):
                kinds = [message["type"] for message in got]
                assert kinds[-1] == "ReadyForQuery"
                assert kinds.count("ReadyForQuery") == 1
                ends = kinds.count("CommandComplete") + kinds.count("ErrorResponse")
                assert ends == 1
                assert kinds.count("RowDescription") <= 1
                width = None
                for message in got:
                    if message["type"] == "RowDescription":
                        width = len(message["columns"])
                    elif message["type"] == "DataRow":
                        assert len(message["values"]) == width


COMMANDS = [
    "PAUSE p0", "RESUME p0", "PAUSE", "RESUME", "DISABLE p0", "ENABLE p0",
    "RECONNECT", "RECONNECT p0", "WAIT_CLOSE", "WAIT_CLOSE p0", "KILL p0", "SHOW POOLS",
    "RELOAD", "SHOW STATE",
]  # fmt: skip


@pytest.mark.regression(119)
@pytest.mark.parametrize("seed", range(3))
def test_consoles_that_interleave_can_always_be_resumed(pooler: Any, seed: int) -> None:
    chance = random.Random(seed)
    one = pooler(TRANSACTION)

    def new_console() -> FakeClient:
        console = FakeClient(one.port)
        assert console.login("pgbouncer", "admin", "adminpass")
        return console

    consoles = [new_console(), new_console()]
    try:
        with clients(one, 1, "p1") as (holder,):
            holder.ask("begin")  # so that PAUSE has something to wait for
            for _ in range(60):
                which = chance.randrange(2)
                consoles[which].send_bytes(query(chance.choice(COMMANDS)))
                if chance.random() < 0.3:
                    # It goes in the middle of whatever it waits for.
                    consoles[which].reset()
                    consoles[which] = new_console()
            assert rows(holder.ask("select 'mine'")) == [["mine"]]
    finally:
        for console in consoles:
            console.reset()
    for command in (b"RESUME", b"RESUME p0", b"ENABLE p0"):
        try:
            with one.connect("pgbouncer", "admin") as console:
                console.execute(command)
        except psycopg.Error as problem:
            assert "is not paused" in str(problem)
    with clients(one, 1) as (client,), clients(one, 1, "p1") as (other,):
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        assert rows(other.ask("select 'mine'")) == [["mine"]]


FORGED = "evil\n2026-01-01 00:00:00.000 UTC [1] FATAL forged"


@pytest.mark.regression(120)
def test_log_lines_cannot_be_forged(pooler: Any, free_port: Any) -> None:
    def rude(talk: ServerTalk) -> None:
        if talk.login():
            talk.read()
            fields = [["S", "FATAL"], ["C", "58000"], ["M", FORGED]]
            talk.send({"type": "ErrorResponse", "fields": fields})

    port = free_port()
    server = FakeServer(port, rude)
    one = pooler(
        {**TRANSACTION, "verbose": 2, "auth_type": "any"},
        "-q",
        server_port=port,
        databases={"p0": "{pg}", "any": "{pg} user=u_trust"},
        may_end=True,
    )
    try:
        for database, user, more in (
            (FORGED, "u_trust", {}),
            ("any", FORGED, {}),
            ("any", "x", {"application_name": FORGED}),
            ("any", "x", {"client_encoding": FORGED}),
            ("any", "x", {FORGED: FORGED}),
            ("any", "x", {"options": f"-c a={FORGED}"}),
        ):
            with FakeClient(one.port) as client:
                client.login(database, user, **more)
                client.send_bytes(query("select 1"))
                client.until_ready()
        one.wait_for_log("evil")
        beginning = re.compile(r"^\d{4}-.* \[(\d+)\] ", re.M)
        assert {int(m[1]) for m in beginning.finditer(one.text())} == {one.pid}
        # What comes behind a line break is indented, as in PgBouncer: not a line.
        assert re.search(r"^\t2026-01-01", one.text(), re.M)
    finally:
        one.interrupt("SIGTERM")
        wait_for(lambda: not one.is_running(), 10)
        one.log_file.write_text("")  # or the fixture complains of it
        server.close()


@pytest.mark.regression(120)
def test_failures_that_repeat_do_not_flood_the_log(pooler: Any) -> None:
    one = pooler(
        {**TRANSACTION, "server_login_retry": 1, "query_wait_timeout": 60},
        server_port=1,
    )
    waiting = []
    try:
        for _ in range(20):
            client = FakeClient(one.port)
            client.start([["database", "p0"], ["user", "u_trust"]])
            waiting.append(client)
        one.wait_for_pool(lambda row: row["cl_waiting"] == 20)
        failed = "closing because: connect failed"
        one.wait_for_log(failed, len(one.log_matches(failed)) + 5, 30)
        lines = one.text().splitlines()
        tries = [number for number, line in enumerate(lines) if failed in line][-5:]
        first, last = (datetime.fromisoformat(lines[tries[n]][:23]) for n in (0, 4))
        # One for all who wait, a second after the one before; what is late is the log.
        assert (last - first).total_seconds() > 2
        assert tries[4] - tries[0] <= 2 * 4
    finally:
        for client in waiting:
            client.close()


@pytest.mark.regression(121)
def test_counters_never_go_backwards_and_are_wide(pooler: Any) -> None:
    one = pooler({**TRANSACTION, "pool_idle_timeout": "0.1", "server_lifetime": 0})
    with clients(one, 1) as (client,):
        for _ in range(10):
            client.ask("select 1")
        first = counters(one)
        for number in range(3):
            one.reload(default_pool_size=5 + number)
            one.console("RECONNECT")
            client.ask("select 1")
    # Its pool is dropped, what it has counted is not.
    assert wait_for(lambda: one.pool() == {}, 5)
    found = counters(one)
    assert all(found[name] >= first[name] for name in first)
    assert found["total_query_count"] == 13
    totals = {r["name"]: int(r["value"]) for r in one.console("SHOW TOTALS")}
    assert totals["total_query_count"] >= 13
    with FakeClient(one.port) as console:
        console.login("pgbouncer", "admin", "adminpass")
        for topic in ("STATS", "STATS_TOTALS", "STATS_AVERAGES"):
            (head,) = (
                m for m in console.ask(f"SHOW {topic}") if m["type"] == "RowDescription"
            )
            kinds = {column["oid"] for column in head["columns"][1:]}
            assert kinds == {1700}  # numeric
