"""A client that asks for something and says goodbye in the same breath.

Terminate, or half a connection closed: what stands before it is run and answered, as
PostgreSQL does, and the server goes back clean.
"""

import pytest

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, STATEMENT, TRANSACTION, give_backends

UNIT = f.parse("", "select unit") + f.bind("") + f.execute() + f.SYNC
COPY = f.query("copy in 0") + f.copy_data(b"x")
# What is asked; whether its server can go back to the pool.
ASKED = {
    "query": (f.query("select one"), True),
    "two queries": (f.query("select one") + f.query("select two"), True),
    "error": (f.query("fail"), True),
    "unit": (UNIT, True),
    "two units": (UNIT + UNIT, True),
    "named": (f.parse("s", "select s") + f.bind("s") + f.execute() + f.SYNC, True),
    "failed unit": (f.parse("", "syntax error") + f.bind("") + f.SYNC, True),
    "unit with a query": (
        f.parse("", "select 1") + f.bind("") + f.query("select 2") + f.SYNC, True),
    "function call": (f.function_call(7, b"x"), True),
    "much": (f.query("big 300000 x"), True),
    "notices": (f.query("notice hm"), True),
    "copy": (COPY + f.COPY_DONE, True),
    "copy that is given up": (COPY + f.copy_fail(), True),
    "copy out": (f.query("copy out 3 x"), True),
    "a transaction": (f.query("begin") + f.query("select 1") + f.query("commit"), True),
    "an open transaction": (f.query("begin") + f.query("select 1"), False),
    "a failed one": (f.query("begin") + f.query("fail"), False),
    "copy without its end": (COPY, False),
    "query that a failed unit skips": (
        f.parse("", "syntax error") + f.query("select 1"), False),
    "unit and query that it skips": (
        UNIT + f.parse("", "syntax error") + f.bind("") + f.query("select 1")
        + f.function_call(7, b"x"), False),
    "unit without its end": (UNIT + f.parse("", "select 1") + f.bind(""), False),
}  # fmt: skip


def say(client, data, how):
    if how == "Terminate":
        client.send(data, f.TERMINATE)
    elif how == "two writes":
        client.send(data)
        client.send(f.TERMINATE)
    else:
        client.queue(data)
        client.half_close()


@pytest.mark.parametrize("how", ["Terminate", "two writes", "half-close"])
@pytest.mark.parametrize("mode", [TRANSACTION, SESSION, STATEMENT])
@pytest.mark.parametrize("name", ASKED)
def test_goodbye_behind_a_request_lets_it_be_answered(relay, name, mode, how):
    """Case 2b: it was run and not answered, so that who asks again does it twice, and
    its server was closed each time."""
    data, clean = ASKED[name]
    if mode == STATEMENT and b"begin" in data:
        pytest.skip("not in this mode")
    if (name, mode, how) == ("unit with a query", SESSION, "two writes"):
        clean = False  # nothing is owed when it leaves: not worth a probe
    r = give_backends(relay(mode=mode))
    direct = Backend(DEFAULTS)
    direct.receive(data)
    client, other = r.client(), r.client()
    say(client, data, how)
    heard = client.take()
    assert heard == direct.out or (not clean and direct.out.startswith(heard))
    assert client.ended
    assert r.reasons == ([] if clean else r.reasons)
    assert f.rows(other.ask(f.query("select marker"))) == [b"marker"]
    assert len(r.servers) == (1 if clean else 2)


@pytest.mark.parametrize("how", ["Terminate", "two writes", "half-close"])
@pytest.mark.parametrize("name", [name for name, (_, clean) in ASKED.items() if clean])
def test_goodbye_of_a_client_that_waits_for_a_server(relay, name, how):
    """Case 4k: it keeps its place in the queue; its server was closed."""
    r = relay()
    first, client, other = r.client(), r.client(), r.client()
    first.send(f.query("hold"))
    server = r.servers[0]
    data = ASKED[name][0]
    say(client, data, how)
    other.send(f.query("select marker"))
    server.take()
    backend, direct = Backend(DEFAULTS), Backend(DEFAULTS)
    direct.receive(data)

    def answer() -> None:
        server.pull()
        taken, server.got = server.got, b""
        backend.receive(taken)
        out, backend.out = backend.out, b""
        server.queue(out)

    r.on_turn = answer
    server.answer("held")
    assert client.take() == direct.out
    assert client.ended
    assert f.rows(other.take()) == [b"marker"]
    assert r.reasons == []


def test_client_that_has_gone_is_answered_into_nothing(relay):
    """It has closed behind its request: nobody reads the answer, which is thrown away,
    and the server goes back; it was closed, and the next client waited for another."""
    r = relay()
    client, other = r.client(), r.client()
    client.send(f.query("one"), f.TERMINATE)
    server = r.servers[0]
    assert server.take() == f.query("one")
    client.close()
    for _ in range(20):
        server.send(f.data_row(b"x" * 100_000))
    server.send(f.complete("SELECT 20"), f.ready())
    other.send(f.query("two"))
    assert server.take() == f.query("two")
    assert client.client.closed
    assert r.reasons == []


def test_client_in_the_middle_of_a_message_ends_at_once(relay):
    r = relay()
    client = r.client()
    client.queue(f.query("one") + f.query("two")[:-2])
    client.half_close()
    assert client.client.closed
    assert r.servers[0].server.closed


def test_goodbye_without_a_request_ends_at_once(relay):
    r = relay(mode=SESSION)
    client, other = r.client(), r.client()
    client.send(f.query("one"))
    server = r.servers[0]
    server.answer("1")
    client.send(f.TERMINATE)
    assert client.client.closed
    other.send(f.query("two"))
    assert b"two" in server.take()


def test_slow_reader_reads_the_end_of_its_answer(relay):
    """What could not be written yet went down with the connection."""
    r = give_backends(relay())
    client = r.client(sndbuf=4096)
    client.reading = False
    client.send(f.query("big 200000 x"), f.TERMINATE)
    assert not client.client.closed
    client.reading = True
    got = client.take()
    assert f.codes(got) == "TDCZ"
    assert len(got) > 200_000
    assert client.ended
