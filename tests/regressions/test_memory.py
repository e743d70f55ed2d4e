"""What is used comes back, and is bounded: scenarios 93 to 98, and 130."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.bench.load import read_ready, startup_packet
from tests.regressions.steps import a_few_rounds, clients, counts, show, told
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, query, rows

MEGABYTE = 1 << 20
TRANSACTION = {"pool_mode": "transaction", "query_wait_notify": 0}


@pytest.mark.regression(93)
def test_pools_that_nobody_uses_are_dropped_and_cost_nothing(
    pooler: Any, free_port: Any
) -> None:
    """1.25.2 keeps them for ever, and walks over all of them three times a second."""
    port = free_port()
    server = FakeServer(port)
    names = [f"passing{number}" for number in range(240)]
    one = pooler(
        {
            **TRANSACTION,
            "pool_idle_timeout": "0.5",
            "server_lifetime": 0,
            "log_connections": 0,
            "log_disconnections": 0,
        },
        server_port=port,
        databases={"*": "{pg}", "p0": "{pg}"},
        users={"u_trust": "", "admin": "adminpass", **dict.fromkeys(names, "")},
    )
    try:
        with clients(one, 1):
            memory, before = 0, 0
            for half in (names[:120], names[120:]):
                for name in half:
                    with socket.create_connection(("127.0.0.1", one.port)) as sock:
                        sock.sendall(startup_packet("p0", name))
                        read_ready(sock)
                assert wait_for(lambda: len(one.console("SHOW POOLS")) <= 3, 20)
                before, memory = memory, one.memory()
            assert memory - before < MEGABYTE
            spent, began = one.cpu(), time.monotonic()
            a_few_rounds(one)
            # Something that goes round and round takes all that it can get.
            assert one.cpu() - spent < (time.monotonic() - began) * 0.3
        # What was counted there is still in the totals.
        assert show(one, "STATS", database="p0")["total_server_assignment_count"] >= 0
    finally:
        server.close()


PRLIMIT = "import resource, sys; p, *n = map(int, sys.argv[1:]); " + (
    "h = resource.prlimit(p, resource.RLIMIT_NOFILE)[1]; "
    "resource.prlimit(p, resource.RLIMIT_NOFILE, (n[0] if n else h, h))"
)


def allow_descriptors(one: Any, *count: int) -> None:
    """Let a running pooler have *count* descriptors, or as many as it may."""
    words = [sys.executable, "-c", PRLIMIT, str(one.pid), *map(str, count)]
    subprocess.run(words, **one.identity.process_options())


@pytest.fixture
def few_descriptors(pooler: Any) -> Iterator[Any]:
    """A pooler with two clients, and no descriptor left for anybody else."""
    one = pooler({**TRANSACTION, "default_pool_size": 5, "server_login_retry": 60})
    with clients(one, 2) as two:
        for client in two:
            client.ask("select 1")
        most = max(int(name) for name in os.listdir(f"/proc/{one.pid}/fd"))
        allow_descriptors(one, most + 1)
        yield one, two
        allow_descriptors(one)


@pytest.mark.regression(94)
@pytest.mark.regression(130)
def test_no_descriptors_hurt_nobody_who_is_there_and_pass(few_descriptors: Any) -> None:
    one, (first, second) = few_descriptors
    spent, began = one.cpu(), time.monotonic()
    with socket.create_connection(("127.0.0.1", one.port)) as late:
        late.sendall(startup_packet("p0", "u_trust"))
        one.wait_for_log(r"accept\(\) failed")
        # Their only server is busy, and there is no descriptor for another.
        first.ask("begin")
        second.send_bytes(query("select 'mine'"))
        one.wait_for_log("Too many open files", 2)
        for _ in range(20):
            assert rows(first.ask("select 'served'")) == [["served"]]
        first.ask("commit")
        assert rows(second.until_ready()) == [["mine"]]
        allow_descriptors(one)
        # It is us who had nothing to connect with: no server has failed, and the
        # next connection is made without waiting for server_login_retry.
        first.ask("begin")
        assert rows(second.ask("select 'more'")) == [["more"]]
        first.ask("commit")
        assert len(one.log_matches(r"accept\(\) failed")) == 1
        late.settimeout(10)
        read_ready(late)
        assert one.cpu() - spent < 0.2 + (time.monotonic() - began) * 0.3
        assert len(one.log_matches("Too many open files")) < 30


@pytest.mark.regression(95)
def test_max_client_conn_spares_the_console_and_gives_slots_back(pooler: Any) -> None:
    one = pooler({**TRANSACTION, "max_client_conn": 3})
    text = "no more connections allowed (max_client_conn)"
    for _ in range(3):
        with clients(one, 3), FakeClient(one.port) as fourth:
            assert told(fourth.login("p0", "u_trust")) == text
            place = one.conninfo("pgbouncer", "admin", host=str(one.directory))
            with psycopg.connect(place, autocommit=True) as console:
                assert console.execute(b"SHOW VERSION").fetchone()
        assert wait_for(lambda: counts(one)["used_clients"] == 0, 5)


@pytest.mark.regression(96)
def test_large_queries_leave_no_memory_behind(pooler: Any) -> None:
    one = pooler({**TRANSACTION, "default_pool_size": 1})
    large = query("select length('" + "x" * (2 * MEGABYTE) + "')")
    with clients(one, 25) as many:
        for client in many:
            client.ask("select 1")
        before = one.memory()
        # All at once: all but one wait, with the beginning of theirs.
        for client in many:
            client.send_bytes(large[:100_000])
        for client in many:
            client.send_bytes(large[100_000:])
            assert rows(client.until_ready()) == [[str(2 * MEGABYTE)]]
        for client in many:
            client.ask("select 1")
        assert one.memory() - before < 6 * MEGABYTE


@pytest.mark.regression(97)
def test_statements_are_shared_and_bounded_and_the_oldest_works(
    pooler: Any, postgres: Any
) -> None:
    ini = {**TRANSACTION, "max_prepared_statements": 20, "default_pool_size": 1}
    one = pooler(ini)

    def prepare(client: FakeClient, numbers: range) -> None:
        for start in range(numbers.start, numbers.stop, 50):
            for number in range(start, min(start + 50, numbers.stop)):
                sql = f"select {number}" + " " * 500
                client.send({"type": "Parse", "name": f"s{number}", "sql": sql})
            client.send({"type": "Sync"})
            client.until_ready()

    def used(client: FakeClient, number: int) -> list[list[Any]]:
        bind = {"type": "Bind", "statement": f"s{number}"}
        client.send(bind, {"type": "Execute"}, {"type": "Sync"})
        return rows(client.until_ready())

    held = "select count(*) from pg_prepared_statements"
    with clients(one, 1) as (first,):
        prepare(first, range(1000))
        alone = one.memory()
        with clients(one, 10) as many:
            for client in many:
                prepare(client, range(1000))
                assert used(client, 0) == [["0"]]
                assert used(client, 999) == [["999"]]
            # Ten more who know the same texts: names cost, texts do not.
            assert one.memory() - alone < 10 * 1000 * 300
            assert int(rows(many[0].ask(held))[0][0]) <= 20
            assert used(first, 0) == [["0"]]
    assert show(one, "MEM", name="server_prepared_statement_cache")["used"] <= 20


@pytest.mark.regression(98)
def test_server_of_a_client_that_stopped_reading_is_freed(
    pooler: Any, postgres: Any
) -> None:
    one = pooler({**TRANSACTION, "default_pool_size": 1, "query_timeout": "0.5"})
    with clients(one, 2) as (stopped, other):
        before = one.memory()
        many = "select repeat('x', 1000) from generate_series(1, 100000)"
        stopped.send_bytes(query(many))
        one.wait_for_log("closing because: query timeout")
        assert rows(other.ask("select 'mine'")) == [["mine"]]
        assert one.memory() - before < 8 * MEGABYTE
        assert wait_for(lambda: len(postgres.backends()) == 1, 5)


@pytest.mark.regression(98)
def test_client_that_dies_during_a_write_is_noticed(pooler: Any, postgres: Any) -> None:
    one = pooler({**TRANSACTION, "default_pool_size": 1})
    with clients(one, 2) as (dying, other):
        many = "select repeat('x', 1000) from generate_series(1, 100000)"
        dying.send_bytes(query(many))
        one.wait_for_pool(lambda row: row["sv_active"] == 1)
        dying.reset()
        assert rows(other.ask("select 'mine'")) == [["mine"]]
        assert counts(one)["p0 clients"] == 1
