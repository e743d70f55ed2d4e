"""TCP options are set before the kernel tells the other side what we can take."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bouncer.pool.keeper import connect_nonblocking
from tests.replay.client import Client, Patience

# linux/tcp.h, struct tcp_info: tcpi_state, and the scale that the other side announced
STATE, SCALE = 0, 6
TCP_CLOSE = 7
SMALL = 4096  # a window that needs no scale
MESSAGE = [["database", "p0"], ["user", "u_trust"]]


def info(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


def announced_scale(sock: socket.socket) -> int:
    """The window scale that the other side has sent with its SYN."""
    return info(sock)[SCALE] & 15


@pytest.fixture
def listening(free_port: Callable[[], int]) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        server.settimeout(10)
        yield server


def test_tcp_socket_buffer_is_known_when_the_window_is_announced_to_a_server(
    pooler: Callable[..., Any], listening: socket.socket
) -> None:
    """It was set behind connect(): 500 kB took 13 s through windows of no use."""
    one = pooler({"tcp_socket_buffer": SMALL}, server_port=listening.getsockname()[1])
    with socket.create_connection(("127.0.0.1", one.port)) as sock:
        Client(sock, Patience()).start(MESSAGE)
        with listening.accept()[0] as server:
            assert announced_scale(server) == 0


@pytest.mark.parametrize("how", ["start", "reload"])
def test_tcp_socket_buffer_is_known_when_the_window_is_announced_to_a_client(
    pooler: Callable[..., Any], listening: socket.socket, how: str
) -> None:
    first = {"tcp_socket_buffer": SMALL} if how == "start" else {}
    one = pooler(first, server_port=listening.getsockname()[1])
    if how == "reload":
        one.reload(tcp_socket_buffer=SMALL)
    with socket.create_connection(("127.0.0.1", one.port)) as client:
        assert announced_scale(client) == 0


def test_options_are_set_before_connect(listening: socket.socket) -> None:
    """tcp_user_timeout and keepalive count from the first packet on."""
    seen = []

    def tune(fd: int) -> None:
        sock = socket.socket(fileno=fd)
        seen.append(info(sock)[STATE])
        sock.detach()

    address = listening.getsockname()
    connect_nonblocking(socket.AF_INET, address, tune)[0].close()
    assert seen == [TCP_CLOSE]


def test_an_option_that_the_kernel_refuses_is_a_failed_connect(
    pooler: Callable[..., Any], listening: socket.socket
) -> None:
    """A refusal behind connect() was an internal error, with a traceback."""
    one = pooler({}, server_port=listening.getsockname()[1])
    one.reload(tcp_keepidle=99_999_999)
    with socket.create_connection(("127.0.0.1", one.port)) as sock:
        Client(sock, Patience()).start(MESSAGE)
        one.wait_for_log("sbuf_connect failed to connect to .*: Invalid argument")
        one.wait_for_log("closing because: connect failed")
    assert not one.log_matches("internal error")
