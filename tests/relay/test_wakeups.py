"""Who is not read for a reason is read again when the reason is gone."""

import pytest

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS
from tests.relay.test_bounds import HIGH_WATER, READ, drain

DEEP = 15_000  # Binds and Executes: more requests than may be under way


def taken(end, r):
    """All that comes at the far end of a connection, until its end perhaps."""
    return b"" if end.ended else end.take()


def converse(r, client, backend):
    """Let *backend* answer what the first server has got; what the client reads."""
    got = b""
    while True:
        r.turn()
        asked = drain(r.servers[0], r)
        backend.receive(asked)
        answers, backend.out = backend.out, b""
        r.servers[0].send(answers)
        answered = client.take()
        got += answered
        if not asked and not answered:
            return got


@pytest.mark.parametrize("mode", [0, 1], ids=["session", "transaction"])
@pytest.mark.parametrize("behind", ["first", "later"])
def test_group_that_fails_ends_though_too_much_is_owed(relay, mode, behind):
    """Its Sync was not read before an answer came, and none came before the Sync."""
    r = relay(mode=mode)
    client = r.client()
    begin = f.parse("", "select a") + f.bind("") + f.execute()
    wrong = f.parse("", "syntax error") + (f.bind("") + f.execute()) * DEEP
    client.queue((begin if behind == "later" else b"") + wrong + f.SYNC)
    client.queue(f.query("select on"))
    backend = Backend(DEFAULTS)
    for _ in range(100):
        r.turn()
        backend.receive(drain(r.servers[0], r))
        if r.servers[0].server.owed_count >= 20_000:
            break
    assert r.servers[0].server.owed_count >= 20_000, "nothing is deep here"
    got = converse(r, client, backend)
    assert f.codes(got) == ("12DC" if behind == "later" else "") + "EZTDCZ"
    assert r.servers[0].server.clean


def test_two_groups_that_fail_end_though_too_much_is_owed(relay):
    r = relay()
    client = r.client()
    wrong = f.parse("", "syntax error") + (f.bind("") + f.execute()) * DEEP + f.SYNC
    client.queue(wrong * 3 + f.query("select on"))
    got = converse(r, client, Backend(DEFAULTS))
    assert f.codes(got) == "EZEZEZTDCZ"
    assert r.servers[0].server.clean


def test_client_that_is_owed_too_much_is_not_read_when_it_reads(relay):
    """Each time that it took some of a long answer it was read a bit, without end."""
    r = relay()
    client = r.client(sndbuf=4096)
    client.queue(f.query("endless") + f.SYNC * 300_000)
    r.turn()
    server = r.servers[0]
    for _ in range(60):
        drain(server, r)
        if not server.unsent:
            server.queue(f.data_row(b"x" * 5000) * 4)
        client.reading = False
        r.turn()
        client.reading = True
        client.pull()
    assert client.client.held_bytes <= 2 * READ < HIGH_WATER
    client.close()


@pytest.mark.parametrize("cut", [0, 1, 20_000], ids=["whole", "cut", "cut early"])
@pytest.mark.parametrize("reads", [False, True], ids=["reads no more", "reads on"])
def test_copy_that_fails_while_its_server_is_slow(relay, cut, reads):
    """The server was closed with bytes for it unsent: nobody woke its client."""
    r = relay(size=2)
    r.server_sndbuf = 4096
    client = r.client()
    data = f.copy_data(b"x" * 40_000)
    client.send(f.query("copy in 1"))
    server = r.servers[0]
    server.send(f.COPY_IN)
    client.send(data[: len(data) - cut])
    assert server.server.unsent
    server.send(f.error("22P04", "bad row"), f.ready())
    assert f.codes(client.take()) == "GEZ"
    client.send(data[len(data) - cut :], f.COPY_DONE, f.SYNC)
    got = {end: taken(end, r) for end in r.servers if reads or cut or end is not server}
    [asked] = [end for end in got if got[end].endswith(f.SYNC)]
    asked.send(f.ready())
    assert client.codes() == "Z"
    client.send(f.query("more"))
    [asked] = [end for end in r.servers if taken(end, r) == f.query("more")]
    asked.answer("more")
    assert f.rows(client.take()) == [b"more"]
