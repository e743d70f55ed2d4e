"""Terminate is said only to a server that can take it for one."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replay.client import Client, Patience

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
MESSAGE = [["database", "p0"], ["user", "u_trust"]]


class Silent:
    """A server that answers the first bytes with *answer*, if with anything at all."""

    def __init__(self, port: int, answer: bytes) -> None:
        self.answer = answer
        self.asked = threading.Event()
        self.over = threading.Event()
        self.got = b""
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            with self.listener.accept()[0] as sock:
                self.talk(sock)
        self.over.set()

    def talk(self, sock: socket.socket) -> None:
        self.got += sock.recv(1000)
        if self.answer:
            sock.sendall(self.answer)
            self.got += sock.recv(1000)  # the first of a TLS handshake
        self.asked.set()
        while data := sock.recv(1000):
            self.got += data


@pytest.fixture
def silent(free_port: Callable[[], int]) -> Iterator[Callable[[bytes], Any]]:
    made = []

    def make(answer: bytes) -> tuple[Silent, int]:
        port = free_port()
        made.append(Silent(port, answer))
        return made[-1], port

    yield make
    for one in made:
        one.listener.close()


WAYS = {
    "connect timeout": lambda one: None,
    "RECONNECT": lambda one: one.console("RECONNECT"),
    "PAUSE": lambda one: one.console("PAUSE"),
    "KILL": lambda one: one.console("KILL p0"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [b"", b"S"], ids=["unanswered", "in a handshake"])
def test_a_server_that_owes_the_answer_about_tls_is_just_closed(
    pooler: Callable[..., Any],
    silent: Callable[[bytes], Any],
    way: str,
    answer: bytes,
) -> None:
    """It got a Terminate in clear, which PostgreSQL logs as a possible attack."""
    server, port = silent(answer)
    timeout = 1 if way == "connect timeout" else 30
    one = pooler(
        {"server_tls_sslmode": "prefer", "server_connect_timeout": timeout},
        server_port=port,
    )
    with socket.create_connection(("127.0.0.1", one.port)) as sock:
        Client(sock, Patience()).start(MESSAGE)
        assert server.asked.wait(10)
        WAYS[way](one)
        assert server.over.wait(10)
    assert server.got.startswith(SSL_REQUEST)
    assert b"X\0\0\0\4" not in server.got
    assert answer or server.got == SSL_REQUEST
