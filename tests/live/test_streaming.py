"""Data passes through without being held, in either direction, of any size."""

import hashlib
import socket
import threading

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, FakeServer, query, rows

MEGABYTE = 1_000_000
# What a pooler may hold for one stopped connection, whatever the result's size.
BOUND = 8 * MEGABYTE


def slow_client(port: int, *login: str) -> FakeClient:
    """A client whose own receive buffer is small."""
    client = FakeClient(port)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    assert client.login(*login)[-1]["type"] == "ReadyForQuery"
    return client


def read_rows(client: FakeClient) -> int:
    """Bytes until ReadyForQuery; much faster than decoding messages."""
    total, tail = 0, b""
    ready = b"Z\0\0\0\x05I"
    while not tail.endswith(ready):
        data = client.sock.recv(1 << 20)
        assert data, "closed in the middle of the result"
        total += len(data)
        tail = (tail + data)[-len(ready) :]
    return total


def is_stuck(one) -> bool:
    """Whether the pooler does nothing any more."""
    before = one.cpu()
    wait_for(lambda: one.cpu() != before, 0.5)
    return one.cpu() == before


@pytest.mark.regression(98)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_client_that_stops_reading_a_gigabyte_costs_no_memory(pooler, mode):
    one = pooler({"pool_mode": mode, "default_pool_size": 2})
    with one.connect() as other:
        other.execute("select 1")
        client = slow_client(one.port, "p0", "u_trust")
        before = one.memory()
        client.send_bytes(
            query("select repeat('x', 1000000) from generate_series(1, 1000)")
        )
        one.wait_for_pool(lambda row: row["sv_active"] >= 1)
        assert wait_for(lambda: is_stuck(one), 20)
        assert one.memory() - before < BOUND
        # Meanwhile everybody else is served.
        for number in range(20):
            assert other.execute("select %s::int", (number,)).fetchone() == (number,)
        assert read_rows(client) > 1000 * MEGABYTE
        assert one.memory() - before < BOUND
        assert rows(client.ask("select 'still usable'")) == [["still usable"]]
        client.close(terminate=True)


def test_server_that_stops_reading_costs_no_memory(pooler, free_port):
    taken, go_on = threading.Event(), threading.Event()
    received = 0

    def script(talk):
        nonlocal received
        if not talk.login():
            return
        sock = talk.connection.sock
        taken.set()
        go_on.wait(30)
        while data := sock.recv(1 << 20):
            received += len(data)

    port = free_port()
    server = FakeServer(port, script)
    try:
        one = pooler(
            {"pool_mode": "transaction"}, server_port=port, databases={"f": "{pg}"}
        )
        client = FakeClient(one.port, seconds=1)
        client.login("f", "u_trust")
        before = one.memory()
        message = query("x" * 200 * MEGABYTE)
        sent = 0
        client.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            while sent < len(message):
                sent += client.sock.send(message[sent : sent + MEGABYTE])
        assert wait_for(taken.is_set, 20)
        assert sent < 50 * MEGABYTE, "nobody reads, and yet it goes on"
        assert one.memory() - before < BOUND
        go_on.set()
        client.sock.settimeout(20)
        client.sock.sendall(message[sent:])
        assert wait_for(lambda: received >= len(message), 20)
        assert received == len(message)
        client.close()
    finally:
        go_on.set()
        server.close()


@pytest.mark.regression(60)
def test_message_of_any_size_passes_without_being_held(pooler):
    one = pooler({"pool_mode": "transaction"})
    with one.connect() as connection:
        connection.execute("select 1")
        before = one.memory()
        text = "y" * 60 * MEGABYTE
        told = connection.execute("select length(%s), md5(%s)", (text, text)).fetchone()
        assert told == (len(text), hashlib.md5(text.encode()).hexdigest())
        size = connection.execute("select repeat('z', 100000000)").fetchone()
        assert size is not None
        assert len(size[0]) == 100_000_000
        assert one.memory() - before < BOUND


def test_query_arrives_byte_by_byte(pooler):
    one = pooler({"pool_mode": "transaction"})
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in query("select 'cut in many pieces'"):
            client.send_bytes(bytes([byte]))
        assert rows(client.until_ready()) == [["cut in many pieces"]]


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_copy_both_ways_loses_nothing(pooler, postgres, mode):
    one = pooler({"pool_mode": mode})
    line = b"%d\t" + b"v" * 500 + b"\n"
    with one.connect() as connection, postgres.connect() as direct:
        direct.execute("drop table if exists copied")
        direct.execute("create table copied (n int, v text)")
        direct.execute("grant all on copied to public")
        with connection.cursor().copy("copy copied from stdin") as copy:
            for start in range(0, 40_000, 1000):
                copy.write(b"".join(line % n for n in range(start, start + 1000)))
        got = hashlib.md5()
        with connection.cursor().copy(
            "copy (table copied order by n) to stdout"
        ) as copy:
            for block in copy:
                got.update(block)
        wanted = hashlib.md5(b"".join(line % n for n in range(40_000)))
        assert got.hexdigest() == wanted.hexdigest()
        direct.execute("drop table copied")


def test_copy_that_fails_in_the_middle_leaves_the_server_usable(pooler, postgres):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    with postgres.connect() as direct:
        direct.execute("create table if not exists checked (n int check (n < 500))")
        direct.execute("grant all on checked to public")
    with one.connect() as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            with connection.cursor().copy("copy checked from stdin") as copy:
                for number in range(200_000):
                    copy.write_row((number,))
        assert connection.execute("select count(*) from checked").fetchone() == (0,)
    with one.connect() as connection:
        assert connection.execute("select 'next'").fetchone() == ("next",)


def extended(sql: str, *params: str) -> list[dict]:
    """Parse, Bind, Execute and Sync of one statement."""
    return [
        {"type": "Parse", "sql": sql},
        {"type": "Bind", "params": list(params)},
        {"type": "Execute"},
        {"type": "Sync"},
    ]


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_pipeline_of_many_syncs_is_answered_in_order(pooler, mode):
    one = pooler({"pool_mode": mode, "default_pool_size": 1})
    count = 200
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        sent = [m for n in range(count) for m in extended("select $1::text", str(n))]
        client.send(*sent)
        answers = rows(client.until_ready(count))
        assert answers == [[str(n)] for n in range(count)]
    one.wait_for_pool(lambda row: row["sv_idle"] == 1)


def test_pipeline_goes_on_after_an_error_in_the_middle(pooler):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        client.send(
            *extended("select 'first'"),
            *extended("select 1/0"),
            *extended("select 'last'"),
        )
        got = client.until_ready(3)
        assert rows(got) == [["first"], ["last"]]
        assert [m["type"] for m in got].count("ErrorResponse") == 1


def test_simple_query_with_many_statements_has_one_answer_each(pooler):
    one = pooler({"pool_mode": "transaction"})
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        got = client.ask("select 1; select 2; create temp table t (n int); select 3")
        assert rows(got) == [["1"], ["2"], ["3"]]


def test_function_call_is_passed_through(pooler):
    one = pooler({"pool_mode": "transaction"})
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        # int4pl(int4, int4), in text form
        client.send({"type": "FunctionCall", "oid": 177, "args": ["40", "2"]})
        got = client.until_ready()
        assert [m["type"] for m in got] == ["FunctionCallResponse", "ReadyForQuery"]
        assert got[0]["value"] == "42"


def test_notices_reach_their_client(pooler):
    one = pooler({"pool_mode": "transaction"})
    heard = []
    with one.connect() as connection:
        connection.add_notice_handler(lambda d: heard.append(d.message_primary))
        connection.execute("do $$ begin raise notice 'hear me'; end $$")
    assert heard == ["hear me"]


def test_notifications_arrive_in_session_mode_while_idle(pooler):
    one = pooler({"pool_mode": "session"})
    with one.connect() as listener, one.connect() as speaker:
        listener.execute("listen news")
        speaker.execute("notify news, 'first'")
        speaker.execute("notify news, 'second'")
        heard = [n.payload for n in listener.notifies(timeout=10, stop_after=2)]
    assert heard == ["first", "second"]
