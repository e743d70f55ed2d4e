"""Bytes that cannot go on: slow readers, half-closed and dying connections."""

import pytest

from tests.relay import frames as f

MEGABYTE = 1 << 20


def test_slow_reader_does_not_stop_its_servers_next_client(relay):
    """Its server was released with reading switched off, and stayed deaf."""
    r = relay()
    slow, second = r.client(sndbuf=4096), r.client()
    slow.reading = False
    slow.send(f.query("a"))
    server = r.servers[0]
    server.send(f.data_row(b"x" * 50000), f.complete("a"), f.ready())
    second.send(f.query("b"))
    server.answer("b")
    assert second.codes() == "TDCZ"
    slow.reading = True
    assert slow.codes() == "DCZ"


def test_slow_reader_gets_everything_in_order(relay):
    r = relay(size=2)
    slow = r.client(sndbuf=4096)
    slow.reading = False
    slow.send(f.query("a"))
    server = r.servers[0]
    sent = [f.data_row(bytes([65 + n % 26]) * 5000) for n in range(300)]
    for row in sent:
        server.queue(row)
        r.turn()
    assert server.unsent, "nobody reads, and yet all was taken"
    server.queue(f.complete("a") + f.ready())
    slow.reading = True
    got = b""
    while data := slow.take():
        got += data
    assert got == b"".join(sent) + f.complete("a") + f.ready()
    assert server.server.clean


def test_client_that_reads_nothing_is_not_read_either(relay):
    """Answers of our own grew without end: Close costs us five bytes each."""
    r = relay()
    client = r.client(sndbuf=4096)
    client.reading = False
    client.queue(f.close("x") * 500_000)
    for _ in range(50):
        r.turn()
    assert client.client.unsent < MEGABYTE
    assert client.unsent
    client.reading = True
    got = 0
    while data := client.take():
        got += len(data)
    assert got == 5 * 500_000


def test_server_that_reads_nothing_stops_its_client(relay):
    r = relay()
    r.server(sndbuf=4096).reading = False
    client = r.client()
    client.queue(f.query("x" * 4 * MEGABYTE))
    for _ in range(20):
        r.turn()
    assert client.unsent
    assert r.servers[0].server.unsent < MEGABYTE
    r.servers[0].reading = True
    got = 0
    while data := r.servers[0].take():
        got += len(data)
    assert got == len(f.query("x" * 4 * MEGABYTE))


def test_half_closed_server_is_gone(relay):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    r.servers[0].half_close()
    assert f.errors(client.take()) == ["server conn crashed?"]


@pytest.mark.regression(60)
@pytest.mark.parametrize("size", [10, 70_000, 300_000])
def test_message_of_any_size_in_any_pieces(relay, size):
    r = relay()
    client = r.client()
    asked = f.query("q" * size)
    for start in range(0, len(asked), 9973):
        client.send(asked[start : start + 9973])
    server = r.servers[0]
    assert server.take() == asked
    answer = f.data_row(b"r" * size) + f.complete("x") + f.ready()
    for start in range(0, len(answer), 4099):
        server.send(answer[start : start + 4099])
    assert client.take() == answer
    assert server.server.clean


def test_client_that_asks_without_end_must_wait(relay):
    """Requests that we answer ourselves cost a client nothing and us memory."""
    r = relay()
    client = r.client()
    client.send(f.parse("a", "S0"), f.SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    client.send(f.bind("a"))
    server.take()
    client.queue(b"".join(f.close(f"x{n}") for n in range(60_000)) + f.SYNC)
    for _ in range(30):
        r.turn()
    assert server.server.owed_count <= 20_001
    assert client.unsent
    # It asked for no Flush: so do we, or the server would never answer.
    assert f.codes(server.take()) == "H"
    server.send(f.BIND_COMPLETE)
    got = client.take()
    while data := client.take():
        got += data
    assert f.codes(got) == "2" + "3" * 60_000
    assert f.codes(server.take()) == "S"
    server.send(f.ready())
    assert client.codes() == "Z"
    assert server.server.clean


def test_pipeline_longer_than_the_limit_goes_on(relay):
    r = relay()
    client = r.client()
    count = 50_000
    client.queue(f.query("q") * count)
    server = r.servers[0] if r.servers else None
    got, answered = b"", 0
    while answered < count:
        r.turn()
        server = r.servers[0]
        asked = f.codes(server.take())
        answered += asked.count("Q")
        server.queue((f.complete("x") + f.ready()) * asked.count("Q"))
        got += client.take()
    got += client.take()
    assert f.codes(got) == "CZ" * count
    assert server.server.clean


def test_requests_that_postgresql_skips_are_not_remembered(relay):
    r = relay()
    client = r.client()
    client.send(f.bind(""), f.FLUSH)
    server = r.servers[0]
    server.send(f.error("26000", "no such statement"))
    assert client.codes() == "E"
    server.take()
    for _ in range(100):
        client.send(f.parse("a", "S1") * 500 + f.query("no") * 500)
    assert server.server.owed_count == 1
    client.send(f.SYNC)
    assert f.codes(server.take()) == "S"
    server.send(f.ready())
    assert client.codes() == "Z"
    assert client.client.prepared_names == []


def test_idle_server_that_chatters_is_logged_once(relay, logged):
    r = relay()
    r.server().send(f.notice("hm") * 5000)
    assert len([line for line in logged if "when not linked" in line]) == 1
