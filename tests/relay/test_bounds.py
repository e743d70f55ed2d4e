"""What a few bytes of a client may make us hold, send and do: little.

Work is compared within one run: what comes behind many owed requests must not cost
much more than what comes behind few. It is counted in time of this thread alone, of
which others on the machine take nothing.
"""

import contextlib
import socket
import struct
import time

import pytest

from tests.relay import frames as f
from tests.relay import harness
from tests.relay.harness import SESSION

HIGH_WATER = 262144
READ = 65536
ENDLESS = 0x7FFF0000


def head(code, length):
    return code + struct.pack("!I", length)


def drain(end, relay):
    """Read the far end of a connection until nothing more comes; its bytes."""
    found = []
    while True:
        relay.turn()
        try:
            data = end.sock.recv(1 << 20)
        except BlockingIOError:
            return b"".join(found)
        found.append(data)


def kept(client, server):
    return client.client.held_bytes + client.client.unsent + server.server.unsent


def two_long_statements(r, client):
    """The server has room for one of the two, so that each Bind brings a Parse."""
    text = "x" * 100_000
    for name in "ab":
        client.queue(f.parse(name, name + text) + f.SYNC)
        r.turn()
        drain(r.servers[0], r)
        r.servers[0].send(f.PARSE_COMPLETE, f.CLOSE_COMPLETE, f.ready())
        client.take()
    return len(text)


def test_binds_to_long_statements_are_composed_while_they_go_out(relay):
    """45 kB of Binds composed 1.4 GB before the first byte went out."""
    r = relay(prepared=1)
    client = r.client()
    size = two_long_statements(r, client)
    server = r.servers[0]
    binds = (f.bind("a") + f.bind("b")) * 60
    client.queue(binds)
    most = 0
    got = b""
    while True:
        r.turn()
        most = max(most, kept(client, server))
        try:
            got += server.sock.recv(50_000)
        except BlockingIOError:
            break
    assert f.codes(got).count("B") == 120
    assert f.codes(got).count("P") > 100
    assert most < HIGH_WATER + size + READ


def test_client_is_not_read_while_its_server_takes_nothing(relay):
    """What it had sent already was composed all the same, whoever looked next."""
    r = relay(prepared=1)
    client = r.client(sndbuf=4096)
    size = two_long_statements(r, client)
    server = r.servers[0]
    client.queue((f.bind("a") + f.bind("b")) * 20_000)
    r.turn()
    for _ in range(20):
        client.client.pump()
        client.client.go_on_now()
        r.turn()
    assert kept(client, server) < HIGH_WATER + size + 2 * READ
    client.close()


def test_made_up_answers_of_a_client_that_does_not_read_are_bounded(relay):
    r = relay()
    client = r.client(sndbuf=4096)
    client.reading = False
    client.queue(f.close("a") * 400_000)
    for _ in range(20):
        r.turn()
    assert client.client.unsent < HIGH_WATER + READ
    assert client.client.held_bytes <= READ
    client.reading = True
    count = 0
    while client.unsent or not count:
        count += len(drain(client, r))
    count += len(drain(client, r))
    assert count == 400_000 * 5


@pytest.mark.parametrize(
    "begin",
    [
        head(b"B", ENDLESS),
        head(b"B", ENDLESS) + b"portal\0",
        head(b"C", ENDLESS) + b"S",
        head(b"D", ENDLESS) + b"S",
        head(b"P", ENDLESS),
    ],
    ids=["portal", "bind", "close", "describe", "parse"],
)
def test_name_that_never_ends_is_refused(relay, begin):
    """It was kept without bound, and searched anew at each read: 39 CPU seconds."""
    r = relay()
    client = r.client()
    client.send(begin, b"x" * 1024)
    assert not client.client.closed
    client.send(b"x")
    assert client.client.closed
    assert f.errors(client.take()) == ["bad packet"]


def test_longest_names_are_taken(relay):
    r = relay()
    client = r.client()
    name, portal = "n" * 1024, "p" * 1024
    client.send(f.parse(name, "select 1"), f.bind(name, portal), f.describe(name))
    client.send(f.close(name), f.SYNC)
    assert f.codes(r.servers[0].take()) == "PBDS"
    client.close()


def spent(work):
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def cost(r, scenario, depth):
    """Time that the relay takes for what *scenario* sends behind *depth* requests."""
    best = 10.0
    for _ in range(3):
        client = r.client()
        work = scenario(r, client, depth)
        best = min(best, spent(work))
        drain(client, r)
        client.close()
    return best


def flushes_behind_an_error(r, client, depth):
    """Server.is_skipping walked all that was owed, for each message."""
    client.send(f.execute() * depth)
    server = r.servers[-1]
    drain(server, r)
    server.send(f.error("22P02", "bad"))
    return lambda: client.send(f.FLUSH * 10_000)


def parameters_behind_requests(r, client, depth):
    """Server.note_scope walked them, for each change."""
    client.send(f.parse("a", "select 1"), f.SYNC)
    server = r.servers[-1]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.send(f.SYNC * depth)
    drain(server, r)
    told = [f.parameter_status("TimeZone", name) for name in ("A", "B")]
    return lambda: server.send(*told * 500)


def deallocates_behind_parses(r, client, depth):
    """Server.do_again did everything again, for each of them."""
    client.send(f.query("deallocate all"), f.SYNC)
    for n in range(0, depth, 2):
        client.queue(f.parse(f"n{n}", f"select {n}") + f.close(f"m{n}"))
    server = r.servers[-1]
    drain(server, r)
    return lambda: server.send(f.complete("DEALLOCATE ALL") * 500)


def copies_behind_copies(r, client, depth):
    """Each one that ended moved all that was owed behind it."""
    client.send(f.query("copy in 1") + f.COPY_DONE * depth)
    server = r.servers[-1]
    drain(server, r)
    return lambda: server.send((f.COPY_IN + f.complete("COPY 0")) * (depth // 2))


def copies_that_end_twice(r, client, depth):
    """Syncs behind an extended COPY were counted at each end of one."""
    client.send(f.parse("", "copy"), f.bind(""), f.execute(), f.SYNC * depth)
    server = r.servers[-1]
    drain(server, r)
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE)
    failed = f.COPY_IN + f.error("22P04", "bad")
    return lambda: server.send(failed * 1000)


@pytest.mark.parametrize(
    "scenario",
    [
        flushes_behind_an_error,
        parameters_behind_requests,
        deallocates_behind_parses,
        copies_that_end_twice,
    ],
)
def test_work_does_not_grow_with_what_is_owed(relay, scenario):
    """19 000 requests that are owed cost 138 ms for each 64 kB, for ever."""
    r = relay(size=100, prepared=10_000)
    few = cost(r, scenario, 40)
    many = cost(r, scenario, 18_000)
    assert many < 8 * few + 0.005


@pytest.mark.parametrize("depth", [18_000])
def test_copies_cost_as_much_as_there_are(relay, depth):
    r = relay(size=100, mode=SESSION)
    few = cost(r, copies_behind_copies, depth // 10)
    many = cost(r, copies_behind_copies, depth)
    assert many < 40 * few


def test_syncs_behind_a_failed_copy_are_settled_at_once(relay):
    """Each of them moved all others: 158 ms."""

    def failed_copy(r, client, depth):
        client.send(f.query("copy in 1") + f.SYNC * depth)
        server = r.servers[-1]
        drain(server, r)
        return lambda: server.send(f.COPY_IN, f.error("22P04", "bad"))

    r = relay(size=100, mode=SESSION)
    few = cost(r, failed_copy, 1800)
    many = cost(r, failed_copy, 18_000)
    assert many < 40 * few
    assert all(end.server.owed_count <= 1 for end in r.servers)


def test_who_waits_for_a_server_keeps_little(relay):
    """64 kB of a long query were kept for each of those who wait."""
    r = relay(opens_at_once=False)
    clients = [r.client() for _ in range(20)]
    text = f.query("x" * 300_000)
    for client in clients:
        client.queue(text)
    r.turn()
    assert [client.client.state_name for client in clients] == ["waiting"] * 20
    assert max(client.client.held_bytes for client in clients) <= 8192
    r.open_wanted()
    for _ in clients:
        got = b""
        while len(got) < len(text):
            got += drain(r.servers[0], r)
        assert got == text
        r.servers[0].answer("done")
    assert all(f.rows(client.take()) == [b"done"] for client in clients)


def test_answers_of_ours_go_out_together(relay, monkeypatch):
    """Each of 19 000 that came due at once cost a system call."""

    def packets(sndbuf=0):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return ours.detach(), theirs

    r = relay()
    server = r.server()
    monkeypatch.setattr(harness, "pair", packets)
    client = r.client()
    client.send(f.query("slow"))
    for _ in range(20):
        client.send(f.close("a") * 800)
    server.send(f.complete("X"), f.ready())
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(client.sock.recv(1 << 20))
            r.turn()
    assert f.codes(b"".join(found)) == "CZ" + "3" * 16_000
    assert len(found) < 40
    client.close()


def test_length_beyond_31_bits_of_a_statement_is_refused(relay):
    """Its size was cut to 32 bits: the server got it twice."""
    r = relay()
    r.poller.max_packet_size = 0xFFFFFFFF
    for code, rest in ((b"P", b"a\0"), (b"B", b"\0a\0"), (b"D", b"Sa\0")):
        for length in (0x80000000, 0xFFFFFFFE):
            client = r.client()
            client.send(head(code, length), rest)
            assert client.client.closed
            assert "bad packet header" in f.errors(client.take())[0]
    assert not r.servers or r.servers[0].take() == b""


def test_longest_statement_message_is_counted(relay):
    r = relay()
    r.poller.max_packet_size = 0xFFFFFFFF
    client = r.client()
    client.send(f.parse("a", "select 1"), f.SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    assert client.codes() == "1Z"
    server.take()
    client.send(head(b"B", 0x7FFFFFFF), b"\0a\0rest")
    got = server.take()
    assert got[:1] == b"B"
    assert got.endswith(b"rest")
    assert struct.unpack("!I", got[1:5])[0] == len(b"PGBOUNCER_1") - 1 + 0x7FFFFFFF + (
        len(got) - len(b"B\0\0\0\0\0PGBOUNCER_1\0rest")
    )
    assert server.server.owed_count == 1
    client.close()


def test_other_long_messages_pass_as_they_are(relay):
    """PostgreSQL refuses them; the setting says that we need not."""
    r = relay()
    r.poller.max_packet_size = 0xFFFFFFFF
    client = r.client()
    client.send(head(b"Q", 0xFFFFFFFE), b"select")
    server = r.servers[0]
    assert server.take() == head(b"Q", 0xFFFFFFFE) + b"select"
    server.send(head(b"D", 0x80000001), b"row")
    assert client.take() == head(b"D", 0x80000001) + b"row"
    client.send(b"more")
    assert server.take() == b"more"
    client.close()
