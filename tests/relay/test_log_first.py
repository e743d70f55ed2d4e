"""What is logged is written before the bytes that tell a client of it."""

import socket

import pytest

from bouncer import log
from tests.relay import frames as f


@pytest.fixture
def writes(monkeypatch):
    """Lines that wait for `flush`, and for each flush what clients had by then."""

    class Writes:
        def __init__(self):
            self.lines, self.seen, self.watched = [], [], []

        def watch(self, relay, *ends):
            relay.poller.unwritten, relay.poller.after = self.lines, self.flush
            self.watched = ends

        def flush(self):
            if self.lines:
                self.seen.append([has_bytes(one.sock) for one in self.watched])
                self.lines.clear()

    made = Writes()
    for name in ("info", "warning", "error"):
        monkeypatch.setattr(log, name, made.lines.append)
    yield made
    made.watched = []


def has_bytes(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_client_that_is_told_an_error_finds_it_in_the_log(relay, writes):
    """It had the error before the line was in the file, and read the log in vain."""
    r = relay()
    client = r.client()
    writes.watch(r, client)
    client.client.disconnect("server login failed: no such role")
    assert writes.seen == [[False]]
    client.pull()
    assert f.errors(client.take()) == ["server login failed: no such role"]


def test_client_whose_server_breaks_finds_the_reason_in_the_log(relay, writes):
    r = relay()
    client = r.client()
    client.send(f.query("a"))
    writes.watch(r, client)
    r.servers[0].send(b"?\0\0\0\4")
    assert writes.seen[0] == [False]
    assert client.take()


def test_what_a_talk_writes_goes_out_behind_the_log(relay, writes):
    """Logins and the console queue their answers; the lines go out first."""
    r = relay()
    client = r.client()
    writes.watch(r, client)
    client.client.write(f.notice("as logged"))
    log.info("as told")
    r.turn()
    assert writes.seen == [[False]]
    assert client.take() == f.notice("as logged")


def test_who_leaves_by_itself_costs_no_write_of_its_own(relay, writes):
    """Lines of one round go out together where nobody is told anything."""
    r = relay()
    clients = [r.client() for _ in range(20)]
    writes.watch(r, *clients)
    for client in clients:
        client.queue(f.message(b"X"))
    r.turn()
    assert all(client.client.closed for client in clients)
    assert len(writes.seen) <= 1
